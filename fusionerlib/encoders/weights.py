"""Where published weights are, or what to do about it. Looking never touches the network; ``fetch`` alone does."""

import os
from contextlib import suppress
from pathlib import Path

from fusionerlib.encoders.base import EncoderSpec, WeightFile, file_digest
from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from fusionerlib.progress import size_text

PATIENCE = 10.0
"""Seconds that a silent server is waited for."""
TRIES = 3
"""Attempts in a spec without a new byte: a machine without a network is told so within seconds."""
LOCK = ".fusioner.lock"
"""Beside the files from URLs: of two downloads of one file, each would write into what the other has."""


def locate(spec: EncoderSpec, weights: str = "") -> Path:
    """The file of a spec that has one file, the folder of a spec that has several.

    weights: a path given by the user, or "" for the hub's and torch's caches. Raises FusionerError naming the encoder,
    the file, its size and both remedies where a file is missing.
    """
    if not weights:
        missing = [file for file in spec.files if cached(file) is None and not _known_absent(file)]
        if missing:
            raise _missing(spec, missing, "not on this machine")
        return _root(spec, cached(spec.files[0]) or Path())
    given = Path(weights)
    if not given.exists():
        raise FusionerError(f"encoder {spec.name!r}: weights {weights!r} do not exist: pass a file or a folder")
    if given.is_file():
        if len(spec.files) > 1:
            raise FusionerError(
                f"encoder {spec.name!r}: weights {weights!r} are one file, expected a folder with "
                + ", ".join(file.file for file in spec.files)
            )
        return given
    missing = [file for file in spec.files if not (given / file.file).is_file() and not file.optional]
    if missing:
        raise _missing(spec, missing, f"not in {weights}")
    return _root(spec, given / spec.files[0].file)


def cached(file: WeightFile) -> Path | None:
    """Where ``file`` lies after ``fetch``, None where it does not."""
    if file.repo:
        path = _in_hub_cache(file)
        return Path(path) if isinstance(path, str) else None
    path = _torch_hub() / file.file
    return path if path.is_file() else None


def present(spec: EncoderSpec) -> bool:
    """Whether ``spec`` can be loaded on this machine without a download."""
    return all(cached(file) is not None or _known_absent(file) for file in spec.files)


def fetch(spec: EncoderSpec) -> list[Path]:
    """The files of ``spec``, downloaded with a progress bar where they are missing.

    A broken download leaves nothing under the file's name; it goes on where it stopped, in this call and in the next
    one, where the file is the hub's or its sha256 is known, and from its first byte otherwise. Raises FusionerError
    naming the encoder, the file and the other remedy where it can't be had.
    """
    paths = [cached(file) or _downloaded(spec, file) for file in spec.files if not _known_absent(file)]
    return [path for path in paths if path is not None]


def _downloaded(spec: EncoderSpec, file: WeightFile) -> Path | None:
    if not file.repo:
        return _from_url(spec, file)
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    try:
        return _from_hub(file)
    except Exception as error:  # the hub's client raises what its HTTP library does, which is no OSError everywhere
        gone = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        if gone and file.optional:
            return None
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = f"get it on another machine and set {spec.role}_weights=PATH"
        if isinstance(error, GatedRepoError):
            remedy = f"accept its terms at https://huggingface.co/{file.repo}, run `hf auth login`, and fetch again"
        raise FusionerError(
            f"encoder {spec.name!r}: {_named(file)} can't be downloaded from {file.repo} ({reason[:300]}): {remedy}"
        ) from error


def _from_hub(file: WeightFile) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    # hf_hub_download alone asks six times, for half a minute up to several, before it says that there is no network.
    with suppress(EntryNotFoundError):  # which it must meet itself, to remember what a repository does not have
        get_hf_file_metadata(hf_hub_url(file.repo, file.file, revision=file.revision), timeout=PATIENCE)
    path = Path(hf_hub_download(file.repo, file.file, revision=file.revision))
    try:
        _check(file, file_digest(path) if file.sha256 else "")
    except ValueError:
        path.resolve().unlink()  # else it would pass for the published file from now on
        path.unlink(missing_ok=True)
        raise
    return path


def _from_url(spec: EncoderSpec, file: WeightFile) -> Path:
    from fusionerlib import download  # its HTTP client takes 0.2 s that looking does not need

    path = _torch_hub() / file.file
    # WeightFile.bytes may be an estimate: nothing to hold a download against.
    digests = {"sha256": file.sha256} if file.sha256 else {}
    other = f"get it on another machine and set {spec.role}_weights=PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent / LOCK, f"downloading into {path.parent}"):
            download.fetch([file.url], path, digests=digests, timeout=PATIENCE, tries=TRIES, instead=other)
    except (FusionerError, OSError) as error:
        raise FusionerError(f"encoder {spec.name!r}: {error}") from error
    return path


def _check(file: WeightFile, sha256: str) -> None:
    if not sha256.startswith(file.sha256):
        raise ValueError(f"its sha256 is {sha256}, that of the published file starts with {file.sha256}")


def _missing(spec: EncoderSpec, files: list[WeightFile], where: str) -> FusionerError:
    first, more = files[0], len(files) - 1
    others = f" and {more} more file{'s' * (more > 1)}" if more else ""
    return FusionerError(
        f"encoder {spec.name!r} needs {_named(first)}{others} of {first.repo or first.url}, {where}: "
        f"run `fusioner fetch {spec.name}`, or set {spec.role}_weights=PATH (a file or folder in the published format)"
    )


def _root(spec: EncoderSpec, first: Path) -> Path:
    # A file's name may hold folders: the root is above them.
    return first if len(spec.files) == 1 else first.parents[len(Path(spec.files[0].file).parts) - 1]


def _known_absent(file: WeightFile) -> bool:
    """Whether a former ``fetch`` learned that the repository has no such optional file."""
    if not file.optional:
        return False
    from huggingface_hub import _CACHED_NO_EXIST

    return _in_hub_cache(file) is _CACHED_NO_EXIST


def _in_hub_cache(file: WeightFile) -> object:
    from huggingface_hub import try_to_load_from_cache  # 0.2 s that the packaged pair does not need

    return try_to_load_from_cache(file.repo, file.file, revision=file.revision)


def _torch_hub() -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _named(file: WeightFile) -> str:
    return f"{file.file} ({size_text(file.bytes)})" if file.bytes else file.file
