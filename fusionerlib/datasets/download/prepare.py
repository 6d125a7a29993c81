"""The installer of published data sets: archives, a folder or downloads become a verified folder for the readers."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusionerlib import download
from fusionerlib.datasets.download.archives import unpack
from fusionerlib.datasets.download.catalogue import DataSet, Source, load_catalogue
from fusionerlib.datasets.download.mat_masks import augmented_masks, context_masks
from fusionerlib.datasets.download.verify import (
    Archive,
    Manifest,
    compare,
    listing,
    manifest_file,
    read_manifest,
    verify,
)
from fusionerlib.errors import FusionerError, writing
from fusionerlib.files import exclusive

DOWNLOADS = "downloads"
"""The folder under the root that archives are downloaded to; they are not needed once the data set is prepared."""

BUILDERS: dict[str, Callable[..., int]] = {
    "VOCdevkit/VOC2012/SegmentationClassAug": augmented_masks,
    "VOCdevkit/VOC2010/SegmentationClassContext": context_masks,
}


def prepare(
    names: Sequence[str],
    root: Path,
    *,
    archives: Sequence[Path] = (),
    link: Path | None = None,
    thorough: bool = False,
    partial: bool = False,
    accept_digest: str = "",
    quiet: bool = False,
    catalogue: Mapping[str, DataSet] | None = None,
) -> list[Manifest]:
    """Bring the data sets ``names`` into ``root`` in their published layout, verify them, write their manifests.

    Parts that ``root`` already has are kept, and compared with their manifest. A missing part is taken from ``link``, a
    folder that has it unpacked (it is verified there and linked to); else from ``archives``, which have the publishers'
    file names; else, where no ``link`` is given, it is downloaded to ``root/downloads``, labels before images. Nothing
    of a data set appears under ``root`` before all of it is verified.
    thorough: open every image and compare every file's digest, not a sample. partial: accept other numbers of files
    than the published ones. accept_digest: the sha256 of an archive that is taken although it is not the published one;
    a download with another digest is kept beside the others, never deleted. catalogue: other data sets than those of
    ``load_catalogue``.
    Raises FusionerError for an unknown name or archive, a part that can't be obtained, and failed verification.
    """
    table = load_catalogue() if catalogue is None else catalogue
    if unknown := [name for name in names if name not in table]:
        raise FusionerError(f"data set {unknown[0]!r} is unknown: choose one of {', '.join(table)}")
    offered = list(dict.fromkeys(source.name for name in names for source in table[name].files))
    if strangers := [str(file) for file in archives if file.name not in offered]:
        raise FusionerError(
            f"{strangers[0]} is no file of {', '.join(names)}: expected {', '.join(offered)}; archives are known by "
            "their publishers' names: rename it, or link to it under that name"
        )
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    manifests = []
    with exclusive(root / ".fusioner-data.lock", f"preparing {root}"):
        for name in names:
            job = _Job(
                name, table[name], root, {file.name: file for file in archives}, link, partial, quiet, accept_digest
            )
            manifests.append(job.run(thorough=thorough))
    return manifests


@dataclass
class _Job:
    """The preparation of one data set.

    places: where each part lies so far. used: the archives that were unpacked, by name. linked: the folders that parts
    are links to.
    """

    name: str
    data: DataSet
    root: Path
    archives: dict[str, Path]
    link: Path | None
    partial: bool
    quiet: bool
    accept_digest: str = ""
    places: dict[str, Path] = field(default_factory=dict)
    used: dict[str, Archive] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)

    @property
    def staging(self) -> Path:
        """The folder for parts until all are verified; at the start it exists only after an interrupted run."""
        return self.root / f".{self.name}.part"

    def run(self, *, thorough: bool) -> Manifest:
        old = read_manifest(manifest_file(self.root, self.name))
        if old is not None:
            self.used, self.linked = {archive.name: archive for archive in old.archives}, dict(old.linked)
        interrupted = self.staging.exists()
        missing = [key for key in self.data.layout if not self._have(key, interrupted=interrupted)]
        optional = [key for key in missing if self.data.parts[key].optional and not self._linked(key)]
        try:
            shutil.rmtree(self.staging, ignore_errors=True)
            self._get([key for key in missing if key not in optional], optional)
            if old is not None:
                self._compare(old, thorough=thorough)
            changed = any(key in self.places for key in missing)
            # A manifest that was written with --partial stays valid without it.
            partial = self.partial or (old is not None and not changed)
            counts, opened = verify(self.data, self.places, thorough=thorough, partial=partial, quiet=self.quiet)
        except BaseException:
            shutil.rmtree(self.staging, ignore_errors=True)
            if interrupted:
                self.staging.mkdir()
            raise
        self._install()
        manifest = Manifest(
            dataset=self.name,
            title=self.data.title,
            archives=tuple(self.used.values()),
            linked=self.linked,
            counts=counts,
            published=self._published(),
            opened=opened,
            files=self._listing() if old is None or changed else old.files,
        )
        manifest.write(manifest_file(self.root, self.name))
        return manifest

    def _have(self, key: str, *, interrupted: bool = False) -> bool:
        """Whether the root has the part.

        After an interruption a part at the root itself may be incomplete: its files are moved there one by one, other
        folders as a whole.
        """
        return not (interrupted and self.data.parts[key].path == ".") and self._take_from(self.root, key)

    def _linked(self, key: str) -> bool:
        """Whether the folder to link to has the part."""
        return self.link is not None and self._take_from(self.link.resolve(), key)

    def _take_from(self, folder: Path, key: str) -> bool:
        place = self.data.parts[key].look_in(folder)
        if place is not None:
            self.places[key] = place
        return place is not None

    def _get(self, missing: Sequence[str], optional: Sequence[str]) -> None:
        """Link, unpack or build the missing parts; take optional ones from archives that are unpacked anyway."""
        wanted, builds = [], []
        for key in missing:
            part = self.data.parts[key]
            if self._linked(key):
                continue
            if part.built_from and not any(source.name in self.archives for source in self.data.givers(part)):
                builds.append(key)
                wanted += [step for step in part.built_from if not self._have(step) and not self._linked(step)]
            else:
                wanted.append(key)
        sources = {key: self._source(key) for key in wanted}
        for key in optional:
            opened = (source for source in self.data.givers(self.data.parts[key]) if source in sources.values())
            if source := next(opened, None):
                sources[key] = source
        self.places |= {key: self.staging / self.data.parts[key].path for key in sources}
        # Every archive is checked before the first one is unpacked.
        needed = sorted({source.name: source for source in sources.values()}.values(), key=self._order)
        files = {source.name: self._archive(source) for source in needed}
        for name, file in files.items():
            paths = {self.data.parts[key].path: its for key, its in sources.items() if its.name == name}
            take = {path: its.take[path] for path, its in paths.items()}
            unpack(file, self.staging, take=take, quiet=self.quiet)
        for key in builds:
            path = self.data.parts[key].path
            self.places[key] = self.staging / path
            BUILDERS[path](self.places, self.places[key], quiet=self.quiet)

    def _order(self, source: Source) -> tuple[bool, bool]:
        """Given archives before downloads, and images last: they are large, and useless without their labels."""
        images = any("images" in key and source in self.data.givers(part) for key, part in self.data.parts.items())
        downloaded = source.name not in self.archives
        return downloaded, downloaded and images

    def _source(self, key: str) -> Source:
        """The file that the part ``key`` is taken from: one that was given, else one that can be downloaded."""
        part = self.data.parts[key]
        givers = self.data.givers(part)
        if given := [source for source in givers if source.name in self.archives]:
            return given[0]
        names = " or ".join(source.name for source in givers)
        if self.link is not None:
            looked = ", ".join(str(self.link / path) for path in (part.path, *part.also))
            raise FusionerError(
                f"{self.link} has no {key} of {self.data.title}: looked for {part.files or 'a file'} at {looked}; give "
                f"the folder that holds one of these, or add --from {names}"
            )
        if not givers[0].urls:
            raise FusionerError(f"{names} can't be downloaded here: {givers[0].by_hand}, then pass --from {names}")
        return givers[0]

    def _archive(self, source: Source) -> Path:
        """The archive on disk, given or downloaded, once its size and digests agree with the published ones."""
        given = self.archives.get(source.name)
        file = given or self.root / DOWNLOADS / source.name
        size, digests = source.size, source.digests
        accepted = {self.accept_digest.lower()} - {""}
        ways: dict[str, Any] = {"accepted": accepted, "accept": "repeat the command with --accept-digest {sha256}"}
        if given:
            sha256 = download.check(file, size=size, digests=digests, quiet=self.quiet, **ways)
        else:
            sha256 = download.fetch(source.urls, file, size=size, digests=digests, quiet=self.quiet, **ways)
        checked = "accepted" if sha256 in accepted else ", ".join([*(["size"] if size else []), *digests])
        self.used[source.name] = Archive(name=source.name, bytes=file.stat().st_size, sha256=sha256, checked=checked)
        return file

    def _compare(self, old: Manifest, *, thorough: bool) -> None:
        """Compare the parts that were under the root with their manifest."""
        kept = [key for key in self._keys() if self._under(self.root, key) and not self._under(self.staging, key)]
        places = [self.places[key].relative_to(self.root) for key in kept]
        rows = {path: row for path, row in old.files.items() if any(Path(path).is_relative_to(at) for at in places)}
        compare(rows, self.root, self._files(kept), thorough=thorough, quiet=self.quiet)

    def _keys(self) -> list[str]:
        """The parts of the layout that were found so far."""
        return [key for key in self.data.layout if key in self.places]

    def _under(self, folder: Path, key: str) -> bool:
        return self.places[key].is_relative_to(folder)

    def _files(self, keys: Iterable[str]) -> list[Path]:
        return [file for key in keys for file in self.data.parts[key].found(self.places[key])]

    def _install(self) -> None:
        """Move or link the verified parts to their places under the root."""
        for key in self._keys():
            part, place = self.data.parts[key], self.places[key]
            target = self.root / part.path
            if self._under(self.staging, key):
                self.linked.pop(key, None)
                move(place, target)
            elif self._under(self.root, key):
                continue
            else:
                self.linked[key] = str(place)
                # The root itself can't be a link: link the entries in it.
                inside = {file.relative_to(place).parts[0] for file in part.found(place)} if part.path == "." else {""}
                for entry in sorted(inside):
                    link(place / entry, target / entry)
            self.places[key] = target
        shutil.rmtree(self.staging, ignore_errors=True)

    def _listing(self) -> dict[str, tuple[int, str]]:
        return listing(self.root, self._files(self._keys()), quiet=self.quiet)

    def _published(self) -> dict[str, int]:
        counts = {key: self.data.parts[key].count for key in self._keys()}
        return counts if self.data.instances is None else {**counts, "objects": self.data.instances.objects}


def move(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; where both are folders, move the entries one by one."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            move(entry, target / entry.name)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def link(place: Path, target: Path) -> None:
    """Make ``target`` a link to ``place``. Raises FusionerError where ``target`` exists and is no link."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise FusionerError(f"{target} is in the way of a link to {place}: move it away, or give another root")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(place)
