"""What a reader of a user's data left out or read otherwise than it is written: counted, with examples, and told."""

import warnings
from collections import defaultdict
from collections.abc import Iterable

from fusionerlib.errors import FusionerError, FusionerWarning

EXAMPLES = 3


class Findings:
    """Counts of what was found in one data set, by kind. Problems are left out; notes are read, and said how."""

    def __init__(self) -> None:
        self._problems: dict[str, list[str]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)

    def problem(self, kind: str, examples: str | Iterable[str]) -> None:
        """Something that is left out. kind: what, in the plural and with what was done about it."""
        self._problems[kind] += [examples] if isinstance(examples, str) else examples

    def note(self, kind: str, examples: str | Iterable[str]) -> None:
        """Something that is read, in a way that the user should know."""
        self._notes[kind] += [examples] if isinstance(examples, str) else examples

    def add(self, other: "Findings") -> None:
        """Take over what ``other`` holds."""
        for kind, examples in other._problems.items():
            self.problem(kind, examples)
        for kind, examples in other._notes.items():
            self.note(kind, examples)

    def count(self, part: str = "") -> int:
        """How many things are left out, of the kinds whose text holds ``part``."""
        return sum(len(examples) for kind, examples in self._problems.items() if part in kind)

    @property
    def problems(self) -> list[str]:
        """One line a kind of problem: kind, count and three examples."""
        return _lines(self._problems)

    @property
    def notes(self) -> list[str]:
        """One line a kind of note."""
        return _lines(self._notes)

    def tell(self, where: object, *, strict: bool = False) -> None:
        """Warn of all findings at once. Raises FusionerError for the problems where ``strict``."""
        if strict and self.count():
            raise FusionerError(f"{where}: {'; '.join(self.problems)}. Mend them, or leave out --strict (strict=True)")
        if lines := self.problems + self.notes:
            warnings.warn(f"{where}: {'; '.join(lines)}", FusionerWarning, stacklevel=3)


def _lines(kinds: dict[str, list[str]]) -> list[str]:
    lines = []
    for kind, examples in kinds.items():
        if examples:
            more = "; ..." if len(examples) > EXAMPLES else ""
            text = f"{kind}: {len(examples):,} ({'; '.join(examples[:EXAMPLES])}{more})"
            lines.append(text.encode("utf-8", "backslashreplace").decode())  # a name in JSON may be no Unicode
    return lines
