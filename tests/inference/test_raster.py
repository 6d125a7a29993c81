"""TIFF rasters: the bands give, to the last bit, what the whole image in memory gives, and little is kept."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import chelsea, coffee

from fusionerlib import FusionerError, Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.images import read_image
from fusionerlib.inference import batch, raster
from fusionerlib.inference.raster import Raster, is_raster
from fusionerlib.inference.requests import Settings
from fusionerlib.inference.windows import corners, merge, merged_tiles
from fusionerlib.models import build
from tests.inference.test_segmenter import make

NAMES = ("cat", "grass", "sky", "fur")
sides = st.integers(1, 40)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.tif"
    tifffile.imwrite(file, chelsea()[:230, :330], tile=(64, 48), compression="zlib")
    return file


@settings(max_examples=80, deadline=None)
@given(height=sides, width=sides, window=st.integers(2, 16), data=st.data())
def test_the_tiles_are_the_whole_mean_each_pixel_once(height: int, width: int, window: int, data: Any) -> None:
    stride = data.draw(st.integers(1, window))
    places = corners(height, width, window=window, stride=stride)
    logits = torch.from_numpy(np.random.default_rng(height).normal(size=(len(places), 2, window, window))).float()
    total, times = torch.zeros(2, height, width), torch.zeros(height, width)
    for part, (top, left) in zip(logits, places, strict=True):
        inside = part[:, : height - top, : width - left]
        total[:, top : top + window, left : left + window] += inside
        times[top : top + window, left : left + window] += 1
    assert torch.equal(merge(logits, places, names=2, height=height, width=width), total / times)
    seen = torch.zeros(height, width)
    for top, left, tile in merged_tiles(iter(logits), places, names=2, height=height, width=width):
        seen[top : top + tile.shape[1], left : left + tile.shape[2]] += 1
    assert torch.equal(seen, torch.ones(height, width))


def independent() -> Segmenter:
    """A toy segmenter whose model scores each name alone, at a lower resolution, and in chunks of 64 names."""
    torch.manual_seed(0)
    shape = {"preset": "small", "kind": "cost_aggregation", "width": 24, "heads": 2, "depth": 1}
    config = FusionConfig(**shape, similarity="learned", logit_bias=0.0)
    model = build(config, visual_width=3, text_width=5)
    return make(model=model, size=64, stride=42)


@pytest.mark.parametrize("choice", [{"threshold": 0.5}, {"background": False}, {"threshold": {"cat": 0.2}}])
@pytest.mark.parametrize("names", [NAMES, (*NAMES, *(f"thing {number}" for number in range(66)))])
def test_a_raster_has_the_labels_and_the_table_of_the_same_image_in_memory(photo, tmp_path, names, choice) -> None:
    segmenter = make(size=64, stride=42) if names is NAMES else independent()
    expected = segmenter.set_image(photo).segment(names, **choice)
    found = segmenter.segment_raster(photo, tmp_path / "mask.tif", names, **choice, quiet=True)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), expected.labels)
    assert len(np.unique(expected.labels)) > 2, "one label everywhere tests nothing"
    for ours, theirs in zip(found.table(), expected.table(), strict=True):
        assert {**ours, "mean": None} == {**theirs, "mean": None}
        assert ours["mean"] == theirs["mean"] or ours["mean"] == pytest.approx(theirs["mean"], rel=1e-6)
    assert not list(tmp_path.glob("*.part"))


def test_the_packaged_checkpoint_gives_the_same_bits(tmp_path) -> None:
    file = tmp_path / "coffee.tif"
    tifffile.imwrite(file, coffee()[:380, :540], tile=(128, 128))
    segmenter = Segmenter.load("packaged", sliding=True)
    names = ("cup", "table", "spoon")
    expected = segmenter.set_image(file).segment(names)
    found = segmenter.segment_raster(file, tmp_path / "mask.tif", names, quiet=True)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), expected.labels)
    assert [row["max"] for row in found.table()] == [row["max"] for row in expected.table()]


rgb, grey = chelsea()[:150, :190], chelsea()[:150, :190, 0]
rgba = np.dstack([rgb, grey])
LAYOUTS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "strips": (rgb, {"rowsperstrip": 16, "compression": "zlib"}),
    "one plain strip": (rgb, {}),
    "plain strips of planes": (rgb.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}),
    "tiles of planes": (
        rgb.transpose(2, 0, 1),
        {"planarconfig": "separate", "photometric": "rgb", "tile": (32, 64)},
    ),
    "tiles with a predictor": (rgb, {"tile": (64, 64), "compression": "zlib", "predictor": True}),
    "big": (rgb, {"tile": (64, 64), "bigtiff": True}),
    "grey": (grey, {"tile": (64, 64)}),
    "grey, white is 0": (grey, {"photometric": "miniswhite"}),
    "grey of 16 bits, big-endian": ((grey.astype(np.uint16) << 8) + 200, {"byteorder": ">"}),
    "transparent": (rgba, {"tile": (64, 64), "photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "palette": (
        grey % 7,
        {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 85},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_are_those_of_the_image_that_pillow_reads(tmp_path, layout) -> None:
    array, settings = LAYOUTS[layout]
    file = tmp_path / "raster.tif"
    tifffile.imwrite(file, array, **settings)
    expected = read_image(file)
    with Raster(file) as opened:
        assert (opened.height, opened.width) == expected.shape[:2] == (150, 190)
        for top, bottom, left, right in ((0, 40, 0, 190), (30, 110, 20, 90), (100, 400, 150, 400), (0, 150, 0, 190)):
            np.testing.assert_array_equal(opened[top:bottom, left:right], expected[top:bottom, left:right])


def test_what_can_not_be_read_by_parts_names_file_and_remedy(tmp_path, monkeypatch) -> None:
    def refused(name: str, array: np.ndarray, **settings: Any) -> str:
        tifffile.imwrite(tmp_path / name, array, **settings)
        with pytest.raises(FusionerError, match=name) as raised, Raster(tmp_path / name) as opened:
            opened[0:10, 0:10]
        return str(raised.value)

    assert "gdal_translate" in refused("float.tif", grey.astype(np.float32))
    many = np.zeros((40, 40, 7), np.uint8)
    assert "7 channels" in refused("bands.tif", many, photometric="minisblack", planarconfig="contig")
    assert "turned" in refused("turned.tif", rgb, extratags=[(274, "H", 1, 6, True)])
    assert "bits" in refused("bilevel.tif", grey > 100, photometric="minisblack")
    (tmp_path / "no.tif").write_bytes(b"II*\0 nothing")
    for name, reason in (("no.tif", "can't be read"), ("missing.tif", "not a file")):
        with pytest.raises(FusionerError, match=reason):
            Raster(tmp_path / name)
    torn = tmp_path / "torn.tif"
    tifffile.imwrite(torn, rgb, compression="zlib", rowsperstrip=2)
    torn.write_bytes(torn.read_bytes()[:-3000])
    with pytest.raises(FusionerError, match=r"torn\.tif can't be read"), Raster(torn) as opened:
        opened[100:150, 0:190]
    monkeypatch.setattr(raster, "MOST_BYTES", 1000)
    assert "TILED=YES" in refused("lump.tif", rgb, compression="zlib", rowsperstrip=150)


def test_the_mask_is_tiled_has_colours_and_lies_where_the_image_does(photo, tmp_path) -> None:
    place = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 400000.0, 5000000.0, 0.0), True)]
    tifffile.imwrite(photo, chelsea()[:230, :330], tile=(64, 48), extratags=place)
    make(size=64).segment_raster(photo, tmp_path / "mask.tif", NAMES, quiet=True)
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        page = file.pages[0]
        assert page.is_tiled and page.tags.valueof(33922)[3:5] == (400000.0, 5000000.0)
    with Image.open(tmp_path / "mask.tif") as opened:
        assert opened.mode == "P" and tuple(opened.getpalette()[3:6]) == (0xE6, 0x9F, 0x00)
    before = photo.read_bytes()
    for target, reason in ((photo, "replace its image"), (tmp_path / "mask.png", r"ends in \.tif")):
        with pytest.raises(FusionerError, match=reason):
            make(size=64).segment_raster(photo, target, NAMES, quiet=True)
    with pytest.raises(FusionerError, match="windows need a size"):
        make(size=None).segment_raster(photo, tmp_path / "mask.tif", NAMES)
    assert photo.read_bytes() == before


def test_predict_writes_rasters_beside_pictures_and_goes_on(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(raster, "SLIDING_PIXELS", 150 * 150)
    files = [tmp_path / name for name in ("a.png", "large.tif", "small.tif", "torn.tif")]
    Image.fromarray(chelsea()[:90, :120]).save(files[0])
    tifffile.imwrite(files[1], chelsea()[:230, :330], tile=(64, 48), compression="zlib")
    tifffile.imwrite(files[2], chelsea()[:60, :80])
    files[3].write_bytes(files[1].read_bytes()[:-20_000])
    segmenter = make(size=64, stride=42)
    asked = Settings(names=NAMES, sliding=True)
    assert [is_raster(file, sliding=True) for file in files] == [False, True, False, True]
    done = batch.predict_into(tmp_path / "out", segmenter, files, asked)
    assert done.images == 3 and [file for file, _ in done.failed] == [files[3].as_posix()]
    assert "large.tif: 100%, 40 of 40 windows" in capsys.readouterr().err
    masks = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert masks == ["a.png", "large.tif", "small.png"]
    expected = segmenter.set_image(files[1]).segment(NAMES)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "masks" / "large.tif"), expected.labels)
    mask = tmp_path / "out" / "masks" / "large.tif"
    changed = mask.stat().st_mtime_ns
    assert batch.predict_into(tmp_path / "out", segmenter, files, asked, quiet=True).kept == 3
    assert mask.stat().st_mtime_ns == changed
    other = Settings(names=NAMES, sliding=True, formats=("index", "coco"))
    failed = dict(batch.predict_into(tmp_path / "coco", segmenter, files[:2], other, quiet=True).failed)
    assert "--format index" in failed[files[1].as_posix()]


def test_without_tifffile_a_raster_is_told_and_a_picture_is_read(photo, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert not is_raster(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(FusionerError, match=r"tifffile: pip install 'fusioner\[data\]'"):
        is_raster(photo)


SIDE, MOST = 20_000, 1.5 * 2**30
SOAK = """
import re, sys
from pathlib import Path
import tests.inference.test_segmenter as toys
toys.MeanColours.seen = property(lambda self: [], lambda self, value: None)  # it would remember every window
from fusionerlib.config import FusionConfig
from fusionerlib.models import build
small = FusionConfig(preset="small", width=8, heads=1, depth=1, decoder_scales=())
segmenter = toys.make(model=build(small, visual_width=3, text_width=5), size=640, stride=540)
segmenter.segment_raster(sys.argv[1], sys.argv[2], [f"thing {number}" for number in range(20)])
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's unit")
def test_a_raster_of_20_000_by_20_000_with_20_names_in_little_memory(tmp_path: Path) -> None:
    """With a toy tower: the true one, 260 MiB more with its weights, would take an hour.

    Large windows that overlap by 100 rows: as much is kept of a row of windows as with the default stride of windows of
    320 pixels (107 rows), and a pixel is computed 1.4 times instead of 2.3.
    """
    band = np.asarray(Image.fromarray(chelsea()).resize((SIDE, 256), Image.Resampling.BICUBIC))

    def tiles() -> Any:
        for _ in range(0, SIDE, 256):
            for left in range(0, SIDE, 256):
                tile = np.zeros((256, 256, 3), np.uint8)
                part = band[:, left : left + 256]
                tile[:, : part.shape[1]] = part
                yield tile

    source, target = tmp_path / "large.tif", tmp_path / "mask.tif"
    tifffile.imwrite(source, tiles(), shape=(SIDE, SIDE, 3), dtype=np.uint8, tile=(256, 256), compression="zlib")
    assert is_raster(source)
    run = subprocess.run(
        [sys.executable, "-c", SOAK, source, target],
        stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    memory = int(run.stdout)
    print(f"{memory / 2**20:.0f} MiB resident at most")
    assert memory < MOST
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].shape == (SIDE, SIDE)
