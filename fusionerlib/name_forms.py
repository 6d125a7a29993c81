"""Forms of a name: "Cats", " cat ", "a cat" and "a photo of a cat" all ask for "cat". Plain text, no model.

Which words are known is decided by ``nouns.txt.xz``: the common nouns of WordNet 3.0 (Princeton University), its
irregular plurals, and the names of ImageNet's classes, written by ``python -m fusionerlib.name_forms FOLDER`` from
``data.noun`` and ``noun.exc`` (Debian's package wordnet-base); and by the hand-written ``everyday.json``.
"""

import json
import lzma
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

NOUNS = "nouns.txt.xz"
ARTICLES = ("a", "an", "the", "some", "this", "that", "these", "those", "my", "your")
"""Words that are dropped in front of a known noun."""
PROMPT = re.compile(
    r"(?:(?:this is|here is|it is|show me) )?(?:(?:a|an|the|one|this|my|some) )?(?:[a-z-]+ )?"
    r"(?:photo|photograph|picture|image|pic|snapshot|close-up|drawing|painting|sketch|illustration|rendering)s? "
    r"(?:of|showing|with) (?P<rest>.+)|(?:there is|here is|here we see|this is) (?P<there>.+?)"
    r"(?: in the (?:scene|photo|picture|image))?"
)
"""A prompt around a name: "a photo of a cat", "a blurry picture of the cat", "there is a cat in the scene"."""
PLAIN_PLURALS = frozenset(
    [
        "bars",
        "beads",
        "boards",
        "bones",
        "buns",
        "chains",
        "clocks",
        "cows",
        "dumplings",
        "eggs",
        "hands",
        "hooks",
        "humans",
        "organs",
        "porcupines",
        "rings",
        "rooms",
        "seats",
        "stalls",
        "tails",
        "threads",
        "trumpets",
    ]
)
"""Plurals that WordNet lists as nouns of their own, and that are taken as plurals all the same."""
MADE = ("06", "13")
"""WordNet's files of things that people make, and of food."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_EDGES = " \t\n\"'`.,;:!?\u00b4\u2018\u2019\u201c\u201d\u00ab\u00bb"


class Everyday(NamedTuple):
    """The content of ``everyday.json``, all in lower case.

    words: further words for a name; its token is the mean over its own and theirs. instead: words that take the place
    of a name's own. alike: a name to the name that it is asked as. parts: a part to the whole that it belongs to.
    lacking: names of what ImageNet has no class for. spelled: another spelling to the name. others: names that WordNet
    does not list.
    """

    words: dict[str, tuple[str, ...]]
    instead: dict[str, tuple[str, ...]]
    alike: dict[str, str]
    parts: dict[str, str]
    lacking: frozenset[str]
    spelled: dict[str, str]
    others: frozenset[str]

    def names(self) -> frozenset[str]:
        """Every name that the table says something of."""
        own = {*self.words, *self.instead, *self.alike, *self.alike.values(), *self.parts}
        return frozenset(own | self.lacking | self.others | set(self.spelled.values()))


@lru_cache(maxsize=50_000)
def form(name: str, *, cased: bool = False) -> str:
    """The form of ``name`` that is looked up and encoded, such as "cat" for "A photo of a Cat.".

    Spaces, underscores, quotes and case are folded, and a prompt around the name is dropped. An article or a plural is
    dropped only where the shorter form is a known noun and the longer is not: "glasses" and "scissors" stay. A word
    that is not known keeps all its letters. cased: of an encoder that reads capitals; then a name that is not known in
    lower case stays as written, but for the spaces.
    """
    text, match = plain(name), PROMPT.fullmatch(plain(name))
    bare = (match["rest"] or match["there"]) if match else text
    apart = plain(_CAMEL.sub(" ", name))  # DiningTable
    for candidate in dict.fromkeys((text, bare, without_article(bare), apart)):
        if found := _known_form(candidate):
            return found
    if cased:
        return " ".join(unicodedata.normalize("NFC", name).split())
    short = without_article(bare)
    return short if is_noun(short.rpartition(" ")[2]) else bare


def plain(name: str) -> str:
    """``name`` in lower case, with single spaces for underscores and other spaces, without quotes or stops around it.

    Unicode's compatibility forms are resolved (full-width letters, ligatures) and characters without width dropped.
    """
    text = unicodedata.normalize("NFKC", name).replace("_", " ").lower()
    text = "".join(" " if character.isspace() else character for character in text if visible(character))
    return " ".join(text.split()).strip(_EDGES) or " ".join(text.split())


def visible(character: str) -> bool:
    """False for control and format characters, such as a zero-width space; spaces of all kinds count as visible."""
    return character.isspace() or unicodedata.category(character) not in ("Cc", "Cf")


def without_article(text: str) -> str:
    """``text`` without the article in front of it, if it has one."""
    first, _, rest = text.partition(" ")
    return rest if rest and first in ARTICLES else text


def singulars(text: str, exceptions: dict[str, str] | None = None) -> Iterator[str]:
    """The forms that ``text`` may be the plural of, the likeliest first; its last word counts."""
    before, space, word = text.rpartition(" ")
    found = [] if not exceptions or word not in exceptions else [exceptions[word]]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.append(word[:-1])
        if word.endswith("ies"):
            found.insert(0, f"{word[:-3]}y")
        elif word.endswith("ves"):
            found += [f"{word[:-3]}f", f"{word[:-3]}fe"]
        if word.endswith("es"):
            found.append(word[:-2])
    return (f"{before}{space}{one}" for one in found)


def is_noun(text: str) -> bool:
    """Whether ``text``, in lower case, is an English noun or a name of the hand-written table."""
    return text in _everyday_names() or text in nouns()[0]


def _known_form(text: str) -> str | None:
    """The known noun that ``text`` is, is the plural of, or is another spelling of; None where there is none."""
    spelled = everyday().spelled
    for written in dict.fromkeys((text, text.replace("-", " "), text.replace("-", ""))):
        if written in spelled or is_noun(written):
            return spelled.get(written, written)
        for one in singulars(written, nouns()[1]):
            if one in spelled or is_noun(one):
                return spelled.get(one, one)
    return None


def same_forms(names: Iterable[str], *, cased: bool = False) -> tuple[str, str] | None:
    """The first two of ``names`` with one form, in their order; None where all differ."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(form(name, cased=cased), name)) is not name:
            return other, name
    return None


def spelt_as(names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """``names``, each spelt as the one of ``known`` with its form, if there is one: "Cats" as a data set's "cat"."""
    by_form = {form(name): name for name in reversed(list(known))}
    return tuple(name if name in known else by_form.get(form(name), name) for name in names)


def script(text: str) -> str | None:
    """The script of the first letter that is not Latin, such as "Cyrillic"; None where all letters are Latin."""
    for character in text:
        if character.isalpha():
            kind = unicodedata.name(character, "unknown").split()[0]
            if kind not in ("LATIN", "FEMININE", "MASCULINE", "MODIFIER", "FULLWIDTH"):
                return {"CJK": "Chinese"}.get(kind, kind.capitalize())
    return None


def suggestions(name: str, known: Collection[str], *, first: Collection[str] = (), most: int = 2) -> list[str]:
    """Those of ``known`` and ``first`` that ``name`` may be a misspelling of, the nearest first.

    A step is a letter too many, too few or wrong, or two letters exchanged. A name of ``first`` may be a step away for
    every three letters of ``name``, one of ``known`` for every five, and any of them one step.
    """
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    found: dict[str, tuple[Any, ...]] = {}
    for names, letters in ((first, 3), (known, 5)):
        limit = max(1, len(name) // letters) if len(name) > 2 else 0
        for one, steps, _ in process.extract(name, list(names), scorer=OSA.distance, score_cutoff=limit, limit=10):
            found.setdefault(one, (steps, letters, one[:1] != name[:1], one))
    ranked = sorted(found, key=found.__getitem__)
    return [one for one in ranked if found[one][0] == found[ranked[0]][0]][:most]


@cache
def everyday() -> Everyday:
    """The hand-written table."""
    text = (resources.files("fusionerlib.encoders") / "everyday.json").read_text(encoding="utf-8")
    given = json.loads(text)
    wholes, alike = given["parts"].items(), given["alike"].items()
    return Everyday(
        words={name: tuple(words) for name, words in given["words"].items()},
        instead={name: tuple(words) for name, words in given["instead"].items()},
        alike={other: name for name, others in alike for other in others},
        parts={part: whole for whole, parts in wholes for part in parts},
        lacking=frozenset(given["lacking"]),
        spelled=given["spelled"],
        others=frozenset(given["others"]),
    )


def words_by_hand() -> str:
    """All words of the hand-written table as Markdown, for model cards."""
    table, alike = everyday(), dict[str, list[str]]()
    for other, name in table.alike.items():
        alike.setdefault(name, []).append(other)
    wholes: dict[str, list[str]] = {}
    for part, whole in table.parts.items():
        wholes.setdefault(whole, []).append(part)
    lines = [
        _listed("Asked as another name", {name: ", ".join(others) for name, others in alike.items()}, "stands for"),
        _listed("Joined with", {name: ", ".join(words) for name, words in table.words.items()}, "with"),
        _listed("Replaced by", {name: ", ".join(words) for name, words in table.instead.items()}, "by"),
        _listed("Parts, which are only noted", {whole: ", ".join(parts) for whole, parts in wholes.items()}, "has"),
        f"- Without a class of ImageNet, which is only noted: {', '.join(sorted(table.lacking))}.",
        _listed("Spellings", table.spelled, "is"),
    ]
    return "\n".join(lines)


def _listed(title: str, rows: Mapping[str, str], verb: str) -> str:
    return f"- {title}: {'; '.join(f'{name} {verb} {words}' for name, words in rows.items())}."


@cache
def _everyday_names() -> frozenset[str]:
    return everyday().names()


@cache
def nouns() -> tuple[frozenset[str], dict[str, str]]:
    """WordNet's common nouns in lower case, and its irregular plurals with their singulars."""
    packed = (resources.files("fusionerlib.encoders") / NOUNS).read_bytes()
    rows = lzma.decompress(packed).decode().splitlines()
    irregular = dict(row.split("\t") for row in rows if "\t" in row)
    return frozenset(row for row in rows if "\t" not in row), irregular


def rebuild(folder: Path, target: Path) -> None:
    """Write ``target`` from WordNet's ``data.noun`` and ``noun.exc`` in ``folder``, and ImageNet's class names.

    Names of single persons and places (instances), words with capitals that neither end in a common noun nor are made
    by people, and ``PLAIN_PLURALS`` are left out.
    """
    common: set[str] = set()
    capital, made = set[str](), set[str]()
    for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
        fields = line.partition("|")[0].split()
        if line.startswith("  ") or "@i" in fields:
            continue  # the licence at the top, or an instance
        words = [fields[4 + 2 * index].replace("_", " ") for index in range(int(fields[3], 16))]
        common |= {word for word in words if word == word.lower()}
        named = {word.lower() for word in words if word != word.lower()}
        capital |= named
        made |= named if fields[1] in MADE else set()
    # "Christmas tree", "T-shirt" and "Frisbee", not "Felis catus".
    common |= {word for word in capital if re.split(" |-", word)[-1] in common and re.search(" |-", word)} | made
    classes = (resources.files("fusionerlib.encoders") / "imagenet_names.txt").read_text(encoding="utf-8")
    common |= {name.lower() for line in classes.splitlines() for name in line.split(", ")}
    common -= PLAIN_PLURALS
    irregular = {}
    for line in (folder / "noun.exc").read_text(encoding="latin-1").splitlines():
        plural, *single = (word.replace("_", " ") for word in line.split())
        if plural not in common and single and single[0] in common and single[0] not in list(singulars(plural))[:1]:
            irregular[plural] = single[0]
    rows = [*sorted(common), *(f"{plural}\t{single}" for plural, single in sorted(irregular.items()))]
    target.write_bytes(lzma.compress("\n".join(rows).encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]), Path(__file__).parent / "encoders" / NOUNS)
