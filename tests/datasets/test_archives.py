"""Archives as publishers pack them come out byte for byte; those that want out of the folder, or are broken, don't."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionerlib.datasets.download.archives import unpack
from fusionerlib.errors import FusionerError

FILES = {
    "kit/images/a.jpg": np.random.default_rng(1).bytes(5000),
    "kit/images/deep/b.jpg": b"",
    "kit/lists/train.txt": b"a\n",
    "kit/code/run.m": b"unwanted",
    "kit/images/._a.jpg": b"macOS",
}
TAKE = {"images": ["images", "kit/images"], "lists/train.txt": ["kit/lists/train.txt"]}
WANTED = {"images/a.jpg", "images/deep/b.jpg", "lists/train.txt"}
Entry = tuple[str, bytes | tarfile.TarInfo]


def make_tar(file: Path, *extra: tarfile.TarInfo, mode: str = "w", files: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("./kit")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in (FILES if files is None else files).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(content), 0o7777
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return file


def make_zip(file: Path, *extra: tuple[str, int, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("kit")
        for name, content in FILES.items():
            archive.writestr(name, content)
        for name, mode, content in extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def out_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_what_is_wanted_comes_out_byte_for_byte(tmp_path: Path, kind: str) -> None:
    archive = make_zip(tmp_path / "a") if kind == "zip" else make_tar(tmp_path / "a", mode=kind)
    assert unpack(archive, tmp_path / "out", take=TAKE, quiet=True) == 3
    found = out_of(tmp_path / "out")
    assert found == {name: FILES[f"kit/{name}"] for name in WANTED}
    mode = stat.S_IMODE((tmp_path / "out" / "images" / "a.jpg").stat().st_mode)
    assert not mode & 0o7111, f"no archive decides who may do what: {mode:o}"


def test_the_longest_name_counts_and_the_folder_itself_can_be_the_target(tmp_path: Path) -> None:
    files = {"data/data/cat/1.jpg": b"1", "data/data/cat/1.png": b"2"}
    take = {".": ["data/data", "data"]}
    assert unpack(make_tar(tmp_path / "a", files=files), tmp_path / "out", take=take, quiet=True) == 2
    assert out_of(tmp_path / "out") == {"cat/1.jpg": b"1", "cat/1.png": b"2"}


SLY = {
    "up": entry("kit/images/../../../evil"),
    "up, unwanted": entry("kit/code/../../../evil"),
    "absolute": entry("/tmp/evil"),
    "of another system": entry("kit/images/..\\..\\evil"),
    "a drive": entry("C:/evil"),
    "symlink": entry("kit/images/out", tarfile.SYMTYPE, "../../.."),
    "symlink inside": entry("kit/images/c.jpg", tarfile.SYMTYPE, "a.jpg"),
    "hard link": entry("kit/images/c.jpg", tarfile.LNKTYPE, "/etc/passwd"),
    "device": entry("kit/images/null", tarfile.CHRTYPE),
    "pipe": entry("kit/images/pipe", tarfile.FIFOTYPE),
    "twice": entry("kit/images/a.jpg", size=3),
}


@pytest.mark.parametrize("what", SLY)
def test_a_sly_tar_is_refused(tmp_path: Path, what: str) -> None:
    inner = tmp_path / "one" / "two" / "three" / "out"
    archive = make_tar(tmp_path / "sly.tar", SLY[what], entry("kit/images/out/written", size=3))
    with pytest.raises(FusionerError, match=r"sly\.tar can't be unpacked .*delete it and download it again"):
        unpack(archive, inner, take=TAKE, quiet=True)
    assert not [file for file in tmp_path.rglob("*") if file.is_symlink() or file.name in ("evil", "pipe", "null")]
    assert {file.parts[0] for file in map(Path, out_of(tmp_path))} <= {"sly.tar", "one"}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("kit/images/../../../evil", stat.S_IFREG),
        ("/tmp/evil", stat.S_IFREG),
        ("kit/images/out", stat.S_IFLNK | 0o777),
        ("kit/images/pipe", stat.S_IFIFO),
        ("kit/images/a.jpg", stat.S_IFREG),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_sly_zip_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    archive = make_zip(tmp_path / "sly.zip", (name, mode, b"/etc"))
    with pytest.raises(FusionerError, match=r"sly\.zip can't be unpacked"):
        unpack(archive, tmp_path / "one" / "out", take=TAKE, quiet=True)
    assert not [file for file in tmp_path.rglob("*") if file.is_symlink() or file.name in ("evil", "pipe")]


def test_links_that_nobody_wants_are_passed_over(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a", entry("kit/code/link", tarfile.SYMTYPE, "/etc"))
    assert unpack(archive, tmp_path / "out", take=TAKE, quiet=True) == 3


def test_a_link_that_lies_in_the_folder_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "a.jpg").symlink_to(tmp_path / "victim")
    with pytest.raises(FusionerError, match="a link that leads nowhere"):
        unpack(make_tar(tmp_path / "a"), tmp_path / "out", take=TAKE, quiet=True)
    assert not (tmp_path / "victim").exists()


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from(["kit", "images", "..", ".", "", "a", "...", "~", "C:", "x\\y"]), min_size=1))
def test_no_path_that_is_accepted_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    # The standard library's own filter, where there is one, is a judge too: it knows where a member would land.
    name, folder = "/".join(parts), tmp_path_factory.mktemp("path") / "out"
    archive = make_tar(folder.parent / "a", entry(f"kit/images/{name}" if name[:1] != "/" else name, size=1))
    try:
        unpack(archive, folder, take=TAKE, quiet=True)
    except FusionerError:
        return
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4
        tarfile.data_filter(entry(f"kit/images/{name}" if name[:1] != "/" else name), str(folder))
    assert all(Path(os.path.realpath(file)).is_relative_to(folder) for file in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_archive_is_named(tmp_path: Path, kind: str, share: float) -> None:
    archive = make_zip(tmp_path / "cut.x") if kind == "zip" else make_tar(tmp_path / "cut.x", mode=kind)
    content = archive.read_bytes()
    if kind == "w":
        content = content.rstrip(b"\0")  # a plain tar is padded with blocks that carry nothing
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FusionerError, match=r"cut\.x can't be unpacked .*cut short"):
        unpack(archive, tmp_path / "out", take=TAKE, quiet=True)


def test_a_tar_cut_between_two_members_or_with_a_broken_header_is_named(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "cut.tar").read_bytes()
    with tarfile.open(tmp_path / "cut.tar") as archive:
        edges = [info.offset for info in archive][2:]
    for edge in edges:
        for broken in (whole[:edge], whole[:edge] + b"\xff" * 512 + whole[edge + 512 :]):
            (tmp_path / "cut.tar").write_bytes(broken)
            with pytest.raises(FusionerError, match="end of the archive is missing"):
                unpack(tmp_path / "cut.tar", tmp_path / f"out{edge}{len(broken)}", take=TAKE, quiet=True)


@settings(max_examples=120, deadline=None)
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7), kind=st.sampled_from(["zip", "w:gz", "w:bz2", "w:xz"]))
def test_a_flipped_bit_is_an_error_for_people_or_without_effect(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("bit")
    archive = make_zip(folder / "a") if kind == "zip" else make_tar(folder / "a", mode=kind)
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    archive.write_bytes(content)
    try:
        unpack(archive, folder / "out", take=TAKE, quiet=True)
    except FusionerError as error:
        assert str(archive) in str(error)
    else:
        found = out_of(folder / "out")
        assert all(found[name] == FILES[f"kit/{name}"] for name in WANTED & set(found))


def test_an_archive_without_what_is_wanted_is_named(tmp_path: Path) -> None:
    take = {**TAKE, "masks": ["kit/masks", "masks"]}
    with pytest.raises(FusionerError, match=r"a has no file in kit/masks or masks: .*--link"):
        unpack(make_tar(tmp_path / "a"), tmp_path / "out", take=take, quiet=True)


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "a").read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for place in [k for k in range(len(content)) if content[k : k + 4] == magic]:
            content[place + offset] |= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FusionerError, match="encrypted"):
        unpack(tmp_path / "a", tmp_path / "out", take=TAKE, quiet=True)


def tar_of(folder: Path, *, name: str = "kit/a.txt", **headers: str) -> Path:
    file = folder / "a.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = 1, headers
        archive.addfile(member, io.BytesIO(b"a"))
    return file


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,1,x"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "GNU.sparse.name": "kit/a.txt"},
        {"GNU.sparse.size": "9" * 20, "GNU.sparse.map": "0,1"},
        {"size": "-1"},
        {"size": "9" * 30},
        {"path": "../../x"},
        {"path": "/etc/x"},
        {"path": ""},
    ],
    ids=str,
)
def test_headers_of_a_tar_that_hold_anything_are_told(headers: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(FusionerError):
        unpack(tar_of(tmp_path, **headers), tmp_path / "deep" / "out", take={"kit": ["kit"]}, quiet=True)
    assert {path.name for path in tmp_path.rglob("*")} <= {"a.tar", "deep", "out", "kit", "a.txt"}


@pytest.mark.parametrize("seed", range(4))
def test_archives_with_flipped_bits_are_told_or_whole(seed: int, tmp_path: Path) -> None:
    """Of headers, too, whose numbers then are of any size: never a traceback, never a file outside."""
    rng = np.random.default_rng(seed)
    plain = tar_of(tmp_path).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kit/a.txt", "a" * 50)
    packed = (tmp_path / "a.zip").read_bytes()
    for number in range(40):
        for content, ending in ((plain, "tar"), (packed, "zip"), (gzip.compress(plain), "tgz")):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(damaged), 1200), int(rng.integers(1, 6))):
                damaged[place] ^= 1 << int(rng.integers(8))
            folder = tmp_path / f"{number}-{ending}"
            folder.mkdir()
            (folder / f"b.{ending}").write_bytes(damaged)
            with suppress(FusionerError):
                unpack(folder / f"b.{ending}", folder / "out", take={"kit": ["kit"]}, quiet=True)
            assert all(path.is_relative_to(folder / "out") or path.name == f"b.{ending}" for path in folder.rglob("*"))
