"""What was prepared, file by file: written beside the data, and held against them at the next look."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from fusionerlib.config import Frozen
from fusionerlib.datasets.verify import in_threads, told
from fusionerlib.download import check
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text


class Archive(Frozen):
    """A file that data were unpacked from. checked: what of it was compared with the publisher's ("" for nothing)."""

    name: str
    bytes: int
    sha256: str
    checked: str


class Manifest(Frozen):
    """A prepared data set.

    linked: part to the folder that it is a link to. counts: files a part (and COCO objects). published: the same as
    the publisher gives it. opened: how many images were opened when it was made. files: path under the root, with
    "/", to (bytes, sha256). It holds no date and no machine but ``linked``: equal data give equal manifests.
    """

    dataset: str
    title: str
    archives: tuple[Archive, ...]
    linked: dict[str, str]
    counts: dict[str, int]
    published: dict[str, int]
    opened: int
    files: dict[str, tuple[int, str]]

    def write(self, file: Path) -> None:
        """As JSON, one of ``files`` a line."""
        head = json.dumps(self.model_dump(exclude={"files"}), indent=1)
        rows = ",\n".join(f"  {json.dumps(path)}: {json.dumps(row)}" for path, row in sorted(self.files.items()))
        write_text(file, f'{head[:-2]},\n "files": {{\n{rows}\n }}\n}}\n')


def manifest_file(root: Path, name: str) -> Path:
    """Where the manifest of data set ``name`` under ``root`` is."""
    return root / f"{name}.manifest.json"


def read_manifest(file: Path) -> Manifest | None:
    """The manifest, None where there is no file. Raises FusionerError where it is no manifest."""
    if not file.exists():
        return None
    try:
        return Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise FusionerError(f"{file} can't be read as a manifest: delete it, the next look writes it anew") from error


def listing(root: Path, files: list[Path], *, quiet: bool = False) -> dict[str, tuple[int, str]]:
    """Path under ``root``, bytes and sha256 of ``files``."""
    sums = in_threads(lambda file: check(file, quiet=True), files, "summing", quiet=quiet)
    return {
        file.relative_to(root).as_posix(): (file.stat().st_size, sha256)
        for file, sha256 in zip(files, sums, strict=True)
    }


def compare(
    manifest: Mapping[str, tuple[int, str]], root: Path, files: list[Path], *, thorough: bool, quiet: bool = False
) -> None:
    """Hold ``files`` against the rows of a manifest that are theirs: names and bytes; with ``thorough``, sha256 too.

    Raises FusionerError naming what is missing, new, cut short or altered, and the remedy.
    """
    there = {file.relative_to(root).as_posix(): file for file in files}
    problems = [f"{root / path} is missing" for path in manifest if path not in there]
    problems += [f"{file} is new" for path, file in there.items() if path not in manifest]
    for path, (size, _) in manifest.items():
        if path in there and there[path].stat().st_size != size:
            problems.append(f"{there[path]} has {there[path].stat().st_size} bytes instead of {size}")
    if thorough and not problems:
        found = listing(root, files, quiet=quiet)
        problems = [f"{root / path} is altered" for path, row in found.items() if row != tuple(manifest[path])]
    if problems:
        raise told(
            [f"by the manifest {problem}" for problem in problems],
            remedy="delete the folder and run the command again to have it unpacked anew, or delete the manifest to "
            "accept the files as they are",
        )
