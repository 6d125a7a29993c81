"""Pictures of any size, depth and source: the right pixels, or one message, before memory is taken."""

import enum
import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.io  # noqa: F401  JPEGs are decoded by it where it is loaded, as in training
from PIL import Image
from typer.testing import CliRunner

from fusionerlib import FusionerError, read_folder
from fusionerlib.cli.app import app
from fusionerlib.cli.segment import _standard_input
from fusionerlib.datasets.formats.names import read_names
from fusionerlib.images import ALLOW_LARGE, PIXEL_LIMIT, allow_large, read_header, read_image
from tests.inference.test_segmenter import make

ROOT = Path(__file__).resolve().parents[2]

# Many pixels ----------------------------------------------------------------------------------------------------------


def claiming(kind: str, width: int, height: int) -> bytes:
    """A file of a few hundred bytes whose header claims this size."""
    if kind == "png":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
        body = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, {"jpg": "JPEG", "bmp": "BMP", "gif": "GIF"}[kind])
    content = bytearray(stream.getvalue())
    if kind == "jpg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "bmp":
        content[18:26] = struct.pack("<ii", width, height)
    else:
        content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "gif"])
@pytest.mark.parametrize("size", [(65500, 65500), (20000, 20000), (65500, 2733)])
def test_a_size_over_the_limit_is_refused_before_any_decoder(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    """torchvision's decoder would take 16 GB for 333 bytes; the address space shows that nothing of it is taken."""
    file = tmp_path / f"huge.{kind}"
    file.write_bytes(claiming(kind, *size))
    assert file.stat().st_size < 2000 and size[0] * size[1] > PIXEL_LIMIT
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    readers: list[Callable[[], Any]] = [lambda: read_image(file), lambda: read_header(file)]
    for read in readers:
        with pytest.raises(FusionerError) as told:
            read()
        assert "at most 178,956,970 are read" in str(told.value) and "--allow-large" in str(told.value)
        assert "save it anew" not in str(told.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_pillow_image_over_the_limit_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "huge.png").write_bytes(claiming("png", 65500, 65500))
    with pytest.raises(FusionerError, match="the Pillow image has 65500x65500 pixels, and at most 178,956,970"):
        read_image(Image.open(tmp_path / "huge.png"))


def test_standard_input_and_masks_have_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = claiming("png", 65500, 65500)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(huge)))
    with pytest.raises(FusionerError, match=r"the image on standard input has .*--allow-large"):
        _standard_input()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    (tmp_path / "masks/a.png").write_bytes(huge)
    (tmp_path / "names.txt").write_text("cat")
    with pytest.raises(FusionerError, match=r"mask .*a\.png has 4,290,250,000 pixels, and at most"):
        read_folder(tmp_path)


def test_allow_large_lifts_the_limit_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real picture of 180 million pixels in one bit each, and workers that are started later."""
    monkeypatch.setenv(ALLOW_LARGE, "")
    file = tmp_path / "large.png"
    Image.new("1", (18_000, 10_000), 1).save(file)
    with pytest.raises(FusionerError, match=r"18000x10000 pixels|180,000,000 pixels"):
        read_header(file)
    code = (
        f"from fusionerlib.images import read_header; print(read_header(__import__('pathlib').Path({str(file)!r}))[:2])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 1
    most = Image.MAX_IMAGE_PIXELS
    allow_large()
    assert read_header(file)[:2] == (10_000, 18_000)
    assert most == Image.MAX_IMAGE_PIXELS
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == "(10000, 18000)\n"


def test_the_option_reaches_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_LARGE, "")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        (tmp_path / f"images/{number}.png").write_bytes(claiming("png", 60000, 3000))
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / f"masks/{number}.png")
    (tmp_path / "names.txt").write_text("cat")
    told = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--quiet"])
    assert told.exit_code == 1 and "at most 178,956,970 are read" in told.output
    lifted = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--quiet", "--allow-large"])
    assert lifted.exit_code == 1 and "178,956,970" not in lifted.output and os.environ[ALLOW_LARGE] == "1"
    for command in ("segment", "predict", "evaluate", "train"):
        assert "--allow-large" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output


DECODED = """
import re, sys
from pathlib import Path
from fusionerlib.images import read_image
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = most()
print(read_image(sys.argv[1]).shape, most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_a_picture_takes_its_pixels_and_no_more_copies(tmp_path: Path) -> None:
    """Pillow takes 4 bytes a pixel and the array 3; with copies it was 1.6 GB for 169 million pixels."""
    Image.new("L", (6000, 6000)).convert("RGB").save(tmp_path / "large.png")
    command = [sys.executable, "-c", DECODED, str(tmp_path / "large.png")]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shape, most = output.rsplit(None, 1)
    assert shape == "(6000, 6000, 3)" and int(most) < 9.5 * 6000 * 6000


def tiff(width: int, height: int, photometric: int = 1) -> bytes:
    """A TIFF of one strip without compression, written by hand."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: photometric, 273: 200, 277: 1, 278: height, 279: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)).ljust(400, b"\0")


@pytest.mark.parametrize("content", [tiff(0, 0), tiff(0, 5), tiff(10, 10, 9999), tiff(10, 10)[:60], b"II*\0"])
def test_a_damaged_raster_is_one_message(tmp_path: Path, content: bytes) -> None:
    from fusionerlib.inference.raster import Raster

    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FusionerError, match=r"a\.tif"):
        Raster(tmp_path / "a.tif")


# More than eight bits -------------------------------------------------------------------------------------------------

WIDE = np.random.default_rng(1).integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, written by hand."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path: Path, channels: int) -> None:
    values = WIDE[..., :channels].copy()
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    (tmp_path / "wide.png").write_bytes(png16(values[..., 0] if channels == 1 else values))
    colour = values[..., :1].repeat(3, -1) if channels < 3 else values[..., :3]
    np.testing.assert_array_equal(read_image(tmp_path / "wide.png"), colour >> 8)


@pytest.mark.parametrize("form", ["I;16", "I;16B", "I of 16", "I of 8", "tiff"])
def test_wide_pillow_images(tmp_path: Path, form: str) -> None:
    grey = WIDE[..., 0]
    image = {
        "I;16": lambda: Image.fromarray(grey),
        "I;16B": lambda: Image.frombytes("I;16B", (7, 5), grey.astype(">u2").tobytes()),
        "I of 16": lambda: Image.fromarray(grey.astype(np.int32)),
        "I of 8": lambda: Image.fromarray((grey >> 8).astype(np.int32)),
        "tiff": lambda: Image.fromarray(grey),
    }[form]()
    if form == "tiff":
        image.save(tmp_path / "wide.tif")
        image = tmp_path / "wide.tif"
    np.testing.assert_array_equal(read_image(image), np.repeat((grey >> 8)[..., None], 3, -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "floating-point pixels has no known range: scale it"),
        (Image.fromarray(np.full((4, 4), -3, np.int32)), "values from -3 to -3: scale it to 0-255"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "values from 70000 to 70000: scale it"),
        (np.zeros((4, 4, 3), np.uint16), r"\(array // 257\)\.astype\(np\.uint8\)"),
        (np.zeros((4, 4, 3), np.float32), r"\(array \* 255\)\.round\(\)"),
        (np.zeros((3, 40, 50), np.uint8), r"array\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 1), np.uint8), r"array\[:, :, 0\]"),
        (np.zeros((4, 4, 3), bool), "type bool is no image: expected uint8"),
        (np.array(["a"]), "is no image: expected uint8"),
        (Image.new("RGB", (0, 4)), "an image of 0x4 pixels has none"),
    ],
)
def test_what_has_no_known_range_is_named_with_a_remedy_that_works(image: Any, words: str) -> None:
    with pytest.raises(FusionerError, match=words):
        read_image(image)


def test_the_remedies_for_arrays_work() -> None:
    for array, mended in (
        (np.full((4, 4, 3), 65535, np.uint16), lambda a: (a // 257).astype(np.uint8)),
        (np.ones((4, 4, 3), np.float32), lambda a: (a * 255).round().astype(np.uint8)),
        (np.full((3, 4, 4), 255, np.uint8), lambda a: a.transpose(1, 2, 0)),
        (np.full((4, 4, 1), 255, np.uint8), lambda a: a[:, :, 0]),
    ):
        np.testing.assert_array_equal(read_image(mended(array)), np.full((4, 4, 3), 255, np.uint8))


# Closed files, odd paths, other types ---------------------------------------------------------------------------------


def closed_image(folder: Path) -> Image.Image:
    with Image.open(saved(folder)) as opened:
        return opened


def saved(folder: Path) -> Path:
    Image.new("RGB", (8, 8), "olive").save(folder / "a.png")
    return folder / "a.png"


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a closed Pillow image": (
        closed_image,
        "the Pillow image can't be read .*open it again, and use it before it is clos",
    ),
    "an open file": (lambda folder: saved(folder).open("rb"), "a BufferedReader is no image: .*PIL.Image.open"),
    "a stream": (lambda folder: io.BytesIO(saved(folder).read_bytes()), "a BytesIO is no image: .*PIL.Image.open"),
    "bytes": (lambda folder: saved(folder).read_bytes(), "a bytes is no image: pass a Pillow image"),
    "a list": (lambda folder: [[0, 0], [0, 0]], "a list is no image: pass a Pillow image"),
    "a path object that gives no text": (
        lambda folder: type("Odd", (os.PathLike,), {"__fspath__": lambda self: 3})(),
        "can't be opened",
    ),
    "nothing": (lambda folder: None, "a NoneType is no image"),
    "a lone surrogate": (lambda folder: "cat\ud800.png", r"image 'cat\\ud800\.png' is not a file"),
    "bytes that are no text": (lambda folder: os.fsdecode(b"cat\xff.png"), r"image 'cat\\udcff\.png' is not a file"),
    "a zero byte": (lambda folder: "cat\0.png", r"image 'cat\\x00\.png' is not a file"),
    "a name of 5000 letters": (lambda folder: "c" * 5000, "(can't be opened .*too long|is not a file)"),
    "an empty path": (lambda folder: "", "image '' is not a file"),
    "a folder": (lambda folder: folder, "is not a file"),
    "a file in a file": (lambda folder: saved(folder) / "b.png", "is not a file"),
}


@pytest.mark.parametrize(("make", "words"), ODD.values(), ids=ODD)
def test_what_is_no_picture_is_one_message(tmp_path: Path, make: Callable[[Path], Any], words: str) -> None:
    with pytest.raises(FusionerError, match=words):
        read_image(make(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="paths are text there")
def test_a_path_that_is_no_text_is_read_and_printed(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem in (b"a\xff", b"b", b"c"):
        name = os.fsdecode(stem)
        Image.new("RGB", (8, 8), "olive").save(tmp_path / f"images/{name}.png")
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "names.txt").write_text("cat")
    assert len(read_folder(tmp_path)) == 3
    (tmp_path / "masks" / os.fsdecode(b"a\xff.png")).write_bytes(b"broken")
    command = [sys.executable, "-m", "fusionerlib.cli.app", "data", "check", str(tmp_path), "--quiet"]
    for locale in ("C.UTF-8", "C"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "LC_ALL": locale})
        assert done.returncode == 1 and b"can't be read as an image" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
@pytest.mark.parametrize("place", ["images/0.png", "masks/0.png", "names.txt"])
def test_a_pipe_where_a_file_should_be_is_not_waited_for(tmp_path: Path, place: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), "olive").save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / f"masks/{number}.png")
    (tmp_path / "names.txt").write_text("cat")
    (tmp_path / place).unlink()
    os.mkfifo(tmp_path / place)
    command = [sys.executable, "-m", "fusionerlib.cli.app", "data", "check", str(tmp_path), "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1) and Path(place).name in done.stdout and "Traceback" not in done.stderr


def test_what_is_there_but_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    from fusionerlib.cli.inputs import no_such_file

    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    for path, words in ((tmp_path / "gone.png", "a link to nowhere.png"), (tmp_path / "folder.png", "is a folder")):
        assert words in str(no_such_file(str(path)))
    assert "a device or a pipe" in str(no_such_file(os.devnull))


# Any iterable ---------------------------------------------------------------------------------------------------------

ITERABLES: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda names: (name for name in names),
    "map": lambda names: map(str, names),
    "keys": lambda names: dict.fromkeys(names).keys(),
    "dictionary": dict.fromkeys,
    "array": np.array,
    "objects": lambda names: np.array(names, dtype=object),
}


@pytest.mark.parametrize("form", ITERABLES.values(), ids=ITERABLES)
def test_names_come_in_any_iterable(tmp_path: Path, form: Callable[[list[str]], Any]) -> None:
    from fusionerlib.datasets.transforms import Subset
    from fusionerlib.evaluation.scores import checked_against
    from fusionerlib.inference.requests import checked_names

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), "olive").save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.full((8, 8), number + 1, np.uint8)).save(tmp_path / f"masks/{number}.png")
    (tmp_path / "names.txt").write_text("\n".join(read_names_of(tmp_path)))
    scenes = read_folder(tmp_path)
    assert checked_names(form(["cat", "dog"])) == ("cat", "dog")
    assert checked_against(form(["cat", "dog"]), scenes) == ("cat", "dog")
    assert checked_against(form([]), scenes) == ("bird", "cat", "dog")
    assert len(Subset(scenes, (int(place) for place in form(["0", "2"])))) == 2


def test_names_of_iterables_that_mislead() -> None:
    from itertools import count

    import pandas as pd

    from fusionerlib.inference.requests import checked_names

    # Of a set the order differs from process to process.
    assert checked_names({"dog", "cat", "bird"}) == checked_names(frozenset({"cat", "dog", "bird"})) == (
        "bird", "cat", "dog",
    )  # fmt: skip
    assert checked_names(pd.Series(["cat", "dog"], index=[7, 3])) == ("cat", "dog")
    assert {type(name) for name in checked_names([np.str_("cat"), enum.StrEnum("Dog", {"dog": "dog"}).dog])} == {str}
    with pytest.raises(FusionerError, match="pass the column"):
        checked_names(pd.DataFrame({"name": ["cat"]}))
    with pytest.raises(FusionerError, match="does it end"):
        checked_names(f"thing {number}" for number in count())
    for wrong in (Path("cat"), b"cat", [b"cat"], None, 3, [None], [["cat"]], range(3), pd.Series(["cat", None])):
        with pytest.raises(FusionerError, match="expected a"):
            checked_names(wrong)


@pytest.mark.parametrize("value", [10**400, -(10**400), {"cat": 10**400}, np.bool_(True), np.float64("nan"), 1j, b"1"])
def test_a_threshold_that_is_no_share_is_one_message(value: Any) -> None:
    from fusionerlib.inference.requests import checked_threshold

    with pytest.raises(FusionerError, match="threshold"):
        checked_threshold(value, ["cat"])


@pytest.mark.parametrize("name", ["#cat", "# cat", "- 5", "10 20 30 cat", "cat:1,2,3::", "ca\0t", "=cat", "a #b"])
def test_a_name_that_a_list_of_names_would_not_give_back_is_refused_for_index_masks(tmp_path: Path, name: str) -> None:
    """In names.txt "1 #cat" and "2 zebra" were read as the names "1" and "2 zebra"."""
    from fusionerlib.inference.requests import Settings

    with pytest.raises(FusionerError, match=r"would not be read back from names\.txt"):
        Settings(names=(name, "zebra"))
    assert Settings(names=(name, "zebra"), formats=("overlay",)).names == (name, "zebra")
    with pytest.raises(FusionerError, match=r"would not be read back from names\.txt"):
        make().set_image(np.zeros((64, 64, 3), np.uint8)).segment([name, "zebra"]).save(tmp_path / "mask.png")
    assert not list(tmp_path.iterdir())


def read_names_of(folder: Path) -> list[str]:
    (folder / "all.json").write_text('["cat", "dog", "bird"]')
    return list(read_names(folder / "all.json").values())
