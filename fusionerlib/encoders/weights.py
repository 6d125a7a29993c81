"""Where published weights are, or what to do about it. Looking never touches the network; ``fetch`` alone does."""

import os
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from fusionerlib.encoders.row import EncoderRow, WeightFile
from fusionerlib.encoders.towers import file_digest
from fusionerlib.errors import FusionerError


def locate(row: EncoderRow, weights: str = "") -> Path:
    """The file of a row that has one file, the folder of a row that has several.

    weights: a path given by the user, or "" for the hub's and torch's caches. Raises FusionerError naming the encoder,
    the file, its size and both remedies where a file is missing.
    """
    found = [_at(Path(weights), file, of=row) if weights else cached(file) for file in row.files]
    for file, path in zip(row.files, found, strict=True):
        if path is None or not path.is_file():
            where = f"not in {weights}" if weights else "not on this machine"
            raise FusionerError(
                f"encoder {row.name!r} needs {file.file}{_size(file)} of {file.repo or file.url}, which is {where}: "
                f"run `fusioner fetch {row.name}`, or pass weights=PATH (a file or folder in the published format)"
            )
    paths = [path for path in found if path is not None]
    return paths[0] if len(paths) == 1 else paths[0].parents[len(Path(row.files[0].file).parts) - 1]


def cached(file: WeightFile) -> Path | None:
    """Where ``file`` lies after ``fetch``, None where it does not."""
    if file.repo:
        path = try_to_load_from_cache(file.repo, file.file, revision=file.revision)
        return Path(path) if isinstance(path, str) else None
    path = _torch_hub() / file.file
    return path if path.is_file() else None


def present(row: EncoderRow) -> bool:
    """Whether ``row`` can be loaded on this machine without a download."""
    return all(cached(file) is not None for file in row.files)


def fetch(row: EncoderRow) -> list[Path]:
    """All files of ``row``, downloaded with a progress bar where they are missing; a broken download goes on.

    Raises FusionerError naming the encoder, the file and the other remedy where it can't be had.
    """
    paths = []
    for file in row.files:
        try:
            paths.append(cached(file) or _download(file))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FusionerError(
                f"encoder {row.name!r}: {file.file}{_size(file)} can't be downloaded from {file.repo or file.url} "
                f"({reason}): get it on another machine and pass weights=PATH"
            ) from error
    return paths


def _download(file: WeightFile) -> Path:
    if file.repo:
        path = Path(hf_hub_download(file.repo, file.file, revision=file.revision))
    else:
        from torch.hub import download_url_to_file

        path = _torch_hub() / file.file
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(file.url, str(path), hash_prefix=file.sha256 or None)
    if file.sha256 and not file_digest(path).startswith(file.sha256):
        raise ValueError(f"{path} is not the published file: its sha256 does not start with {file.sha256}")
    return path


def _at(given: Path, file: WeightFile, *, of: EncoderRow) -> Path | None:
    if given.is_dir():
        return given / file.file
    return given if len(of.files) == 1 else None


def _torch_hub() -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"
    return Path(home) / "hub" / "checkpoints"


def _size(file: WeightFile) -> str:
    return f" ({file.bytes / 1e6:.0f} MB)" if file.bytes else ""
