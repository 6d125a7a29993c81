"""Where published weights lie on this machine, and ``fetch``, the only function that downloads them.

A file with a published sha256 is checked against it. Of any other file the sha256 of the first download is recorded
(``fusioner/digests.json`` in the user's cache folder), and each later ``fetch`` compares with the record.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusionerlib.digests import read_json, write_json
from fusionerlib.encoders.base import EncoderSpec, WeightFile, file_digest
from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive, unusable_cache, user_cache, using_cache
from fusionerlib.progress import size_text

PATIENCE = 10.0
"""Seconds to wait for a silent server."""
TRIES = 3
"""Attempts in a row without a new byte: a machine without a network gets the error within seconds."""
LOCK = ".fusioner.lock"
"""Beside the files from URLs: two downloads of one file would write into the same ``.part``."""


def locate(spec: EncoderSpec, weights: str = "") -> Path:
    """The file of an encoder that has one file, the folder of an encoder that has several. Nothing is downloaded.

    weights: a path given by the user, or "" for the caches of huggingface_hub and torch. Raises FusionerError naming
    the encoder, the file, its size and both remedies where a file is missing.
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
    """Where ``file`` lies after ``fetch``, None if it does not."""
    if file.repo:
        path = _in_hub_cache(file)
        return Path(path) if isinstance(path, str) else None
    with suppress(FusionerError, OSError):  # a user without a home, or with one that it may not read
        path = _torch_hub() / file.file
        return path if path.is_file() else None
    return None


def present(spec: EncoderSpec) -> bool:
    """Whether the encoder can be loaded on this machine without a download."""
    return all(cached(file) is not None or _known_absent(file) for file in spec.files)


def licence_notice(spec: EncoderSpec) -> str:
    """The licence of an encoder's weights as one line, with its terms where they restrict the use."""
    terms = f" ({spec.terms})" if spec.terms else ""
    return f"{spec.role} {spec.name}: licence {spec.licence}{terms}"


def fetch(spec: EncoderSpec, *, accept_digest: str = "") -> list[Path]:
    """The files of an encoder, downloaded where they are missing, with a progress bar; all are checked.

    An interrupted download leaves nothing under the file's name, and is resumed by the next call where the server can.
    accept_digest: a sha256 (hex) that is accepted for a file although the published or recorded one differs; from then
    on it is the recorded one. Raises FusionerError naming the encoder, the file and the remedy where a file can't be
    downloaded, or has another digest; such a file stays on the disk, so that accepting it needs no second download.
    """
    paths = []
    for file in spec.files:
        if _known_absent(file):
            continue
        path = cached(file)
        if path is None:
            path = _from_hub(spec, file) if file.repo else _from_url(spec, file, accept_digest)
        if path is not None:
            _check(spec, file, path, accept_digest)
            paths.append(path)
    return paths


def _from_hub(spec: EncoderSpec, file: WeightFile) -> Path | None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    from fusionerlib.private_hosts import PrivateAddress, guarded_hub

    try:
        with guarded_hub():
            # hf_hub_download alone asks six times, for up to minutes, before it reports that there is no network.
            with suppress(EntryNotFoundError):  # which it must meet itself, to remember what a repository does not have
                get_hf_file_metadata(hf_hub_url(file.repo, file.file, revision=file.revision), timeout=PATIENCE)
            return Path(hf_hub_download(file.repo, file.file, revision=file.revision))
    except PrivateAddress as error:
        raise FusionerError(
            f"encoder {spec.name!r}: {_named(file)} can't be downloaded: {error}; or get it on another machine and set "
            f"{spec.role}_weights=PATH"
        ) from error
    except Exception as error:  # the hub's client raises its HTTP library's errors, which are not always an OSError
        if isinstance(error, OSError) and error.filename:
            raise unusable_cache(constants.HF_HOME, error, "HF_HOME") from error
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


def _from_url(spec: EncoderSpec, file: WeightFile, accept_digest: str) -> Path:
    from fusionerlib import download  # its HTTP client takes 0.2 s to import

    path = _torch_hub() / file.file
    with using_cache(path.parent, "TORCH_HOME"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()
    aside, wanted = download.unverified(path), _expected(file)
    other = f"get it on another machine and set {spec.role}_weights=PATH"

    def accepted() -> bool:
        if not (accept_digest and aside.is_file() and file_digest(aside) == accept_digest.lower()):
            return False
        aside.replace(path)
        return True

    try:
        with exclusive(path.parent / LOCK, f"downloading into {path.parent}"):
            if accepted():
                return path
            try:
                download.fetch(
                    [file.url],
                    path,
                    # WeightFile.bytes may be an estimate, so it is not compared.
                    digests={"sha256": wanted} if wanted else {},
                    timeout=PATIENCE,
                    tries=TRIES,
                    instead=other,
                    accept=_accepting(spec, "{sha256}"),
                )
            except FusionerError:
                if not accepted():
                    raise
    except (FusionerError, OSError) as error:
        raise FusionerError(f"encoder {spec.name!r}: {error}") from error
    return path


def _check(spec: EncoderSpec, file: WeightFile, path: Path, accept_digest: str) -> None:
    """Compare with the published or recorded digest; record the first and an accepted one."""
    found, wanted = file_digest(path), _expected(file)
    if accept_digest and found == accept_digest.lower():
        _record(file, found, accepted=True)
    elif not wanted:
        _record(file, found, accepted=False)
    elif not found.startswith(wanted):
        where = path
        if file.repo and path.is_symlink():  # the file stays in the hub's cache, and the next fetch links it again
            where = path.resolve()
            path.unlink()
        elif not file.repo:
            where = path.replace(path.with_name(f"{path.name}.unverified"))
        raise FusionerError(
            f"encoder {spec.name!r}: {file.file} has sha256 {found}, expected {wanted}: it is kept as {where}: delete "
            f"it and fetch again, or {_accepting(spec, found)} if you trust it"
        )


def _accepting(spec: EncoderSpec, sha256: str) -> str:
    return f"run `fusioner fetch {spec.name} --accept-digest {sha256}`"


def _expected(file: WeightFile) -> str:
    """The digest that a file must have: an accepted one, else the published one, else the recorded one, else ""."""
    known = _digests().get(_address(file), {})
    recorded: str = known.get("sha256", "")
    return recorded if known.get("accepted") else file.sha256 or recorded


def _record(file: WeightFile, sha256: str, *, accepted: bool) -> None:
    folder = _records().parent
    with using_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / LOCK, f"writing {_records()}"):
            known = {**_digests(), _address(file): {"sha256": sha256, "accepted": accepted}}
            write_json(_records(), dict(sorted(known.items())))


def _digests() -> dict[str, Any]:
    file = _records()
    remedy = "delete it; what it records is recorded anew at the next load"
    with using_cache(file.parent):
        return read_json(file, what="the digests of what was downloaded", remedy=remedy) if file.exists() else {}


def _records() -> Path:
    return user_cache() / "fusioner" / "digests.json"


def _address(file: WeightFile) -> str:
    return f"{file.repo}@{file.revision}/{file.file}" if file.repo else file.url


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
    """Whether an earlier ``fetch`` found that the repository has no such optional file."""
    if not file.optional:
        return False
    from huggingface_hub import _CACHED_NO_EXIST

    return _in_hub_cache(file) is _CACHED_NO_EXIST


def _in_hub_cache(file: WeightFile) -> object:
    from huggingface_hub import try_to_load_from_cache  # takes 0.2 s, which the packaged pair does not need

    return try_to_load_from_cache(file.repo, file.file, revision=file.revision)


def _torch_hub() -> Path:
    home = os.environ.get("TORCH_HOME") or user_cache() / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _named(file: WeightFile) -> str:
    return f"{file.file} ({size_text(file.bytes)})" if file.bytes else file.file
