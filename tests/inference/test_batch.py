"""Predictions of many images: resumed, sharded, and read back by what else reads such files."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from skimage.data import astronaut, chelsea, coffee

from fusionerlib import FusionerError, Segmenter, read_folder
from fusionerlib.inference import batch, formats
from fusionerlib.inference.batch import predict_into
from fusionerlib.inference.requests import Settings, Shard
from tests.inference.test_segmenter import make

NAMES = ("cat", "grass", "sky")
EVERY = ("index", "coco", "overlay", "soft")


@pytest.fixture
def segmenter() -> Segmenter:
    return make()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Seven photos, the fourth of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        pixels = (chelsea, coffee, astronaut)[number % 3]()[number : 90 + 7 * number, : 100 + 5 * number]
        Image.fromarray(pixels).save(folder / f"frame {number}.{'png' if number % 2 else 'jpg'}")
    (folder / "frame 3.png").write_bytes(b"no image")
    return sorted(folder.iterdir())


def settings(**changes: Any) -> Settings:
    # Toy probabilities lie around 0.5: half of the pixels are background.
    return Settings(**{"names": NAMES, "formats": EVERY, "threshold": 0.5, **changes})


def content(out: Path) -> dict[str, bytes]:
    """Every file of ``out`` but the records, by its path."""
    found = [path for path in sorted(out.rglob("*")) if path.is_file() and "records" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_what_is_predicted_is_what_segment_gives_and_the_image_stays(segmenter, files) -> None:
    segmenter.set_image(files[0])
    before = segmenter.segment(NAMES).coarse
    results = list(segmenter.predict(files, NAMES, threshold={"cat": 0.4}))
    assert [file for file, _ in results] == files
    assert isinstance(results[3][1], FusionerError) and "frame 3.png" in str(results[3][1])
    assert torch.equal(segmenter.segment(NAMES).coarse, before)
    for file, result in results[:3] + results[4:]:
        expected = segmenter.set_image(file).segment(NAMES, threshold={"cat": 0.4})
        np.testing.assert_array_equal(result.labels, expected.labels)
        assert torch.equal(result.coarse, expected.coarse)
    with pytest.raises(FusionerError, match="'cat' is given twice"):
        segmenter.predict(files, ["cat", "cat"])


def test_images_are_read_only_as_far_ahead_as_said(segmenter, files) -> None:
    asked: list[Path] = []

    def source() -> Iterator[Path]:
        for file in files:
            asked.append(file)
            yield file

    results = segmenter.predict(source(), NAMES, ahead=2)
    next(results)
    assert len(asked) == 2
    results.close()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_call_goes_on_and_ends_byte_equal(segmenter, files, tmp_path, stop, monkeypatch) -> None:
    predict_into(tmp_path / "whole", segmenter, files, settings(), quiet=True)
    write, count = batch._write, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > stop:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(batch, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_into(tmp_path / "out", segmenter, files, settings(), quiet=True)
    monkeypatch.setattr(batch, "_write", write)
    records = tmp_path / "out" / "records" / "part-1-of-1.jsonl"
    with records.open("ab") as stream:
        stream.write(b'{"file": "torn')  # as by a loss of power in the middle of a line
    done = predict_into(tmp_path / "out", segmenter, files, settings(), quiet=True)
    assert done.images == 6 and 0 < done.kept + 1 <= stop + 1 and len(done.failed) == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert records.read_bytes() == (tmp_path / "whole" / "records" / "part-1-of-1.jsonl").read_bytes()
    again = predict_into(tmp_path / "out", segmenter, files, settings(), quiet=True)
    assert again.kept == 6 and content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_photo_that_was_exchanged_is_predicted_again(segmenter, files, tmp_path, capsys) -> None:
    """Under its old name, with its old size and time: table, mask, overlay and copy follow the new photo."""
    out, photos = tmp_path / "out", [tmp_path / f"{place}.bmp" for place in range(2)]
    for place, photo in enumerate(photos):
        Image.effect_noise((64, 48), 40 + 40 * place).convert("RGB").save(photo)
    predict_into(out, segmenter, photos, settings(images="copy"), quiet=True)
    before, state = content(out), photos[0].stat()
    photos[0].write_bytes(photos[1].read_bytes())
    os.utime(photos[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert photos[0].stat().st_size == state.st_size
    assert batch.remaining(out, photos, settings(images="copy")) == [photos[0]]
    assert f"1 images changed since and are predicted again, {photos[0]} first" in capsys.readouterr().err
    predict_into(out, segmenter, photos, settings(images="copy"), quiet=True)
    predict_into(tmp_path / "fresh", segmenter, photos, settings(images="copy"), quiet=True)
    assert content(out) == content(tmp_path / "fresh") != before
    assert batch.remaining(out, photos, settings(images="copy")) == []


def test_shards_are_collected_into_the_same_bytes(segmenter, files, tmp_path) -> None:
    predict_into(tmp_path / "whole", segmenter, files, settings(), quiet=True)
    for number in (3, 1, 2):
        done = predict_into(tmp_path / "out", segmenter, files, settings(), shard=Shard(number, 3), quiet=True)
        assert done.images + len(done.failed) == len(files[number - 1 :: 3])
        assert not (tmp_path / "out" / "predictions.parquet").exists()
    left = batch.remaining(tmp_path / "out", files, settings())
    assert left == [files[3]], "the broken one alone is tried again"
    predict_into(tmp_path / "out", segmenter, files, settings(), quiet=True)
    (tmp_path / "out" / "failed-part-1-of-3.txt").unlink()
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_other_settings_need_another_folder(segmenter, files, tmp_path) -> None:
    predict_into(tmp_path / "out", segmenter, files[:1], settings(), quiet=True)
    for changed, named in ((settings(names=("cat",)), "names"), (settings(threshold=0.4), "threshold")):
        with pytest.raises(FusionerError, match=f"predictions of other settings .*{named}.*another folder"):
            predict_into(tmp_path / "out", segmenter, files, changed, quiet=True)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["names"] == list(NAMES) and len(record["checkpoint_sha256"]["model.safetensors"]) == 64
    assert "torch" in record["environment"]["packages"]


def test_two_files_of_one_stem_are_refused(segmenter, files, tmp_path) -> None:
    twin = tmp_path / "Frame 0.png"
    twin.write_bytes(files[1].read_bytes())
    with pytest.raises(FusionerError, match="would share one mask"):
        predict_into(tmp_path / "out", segmenter, [*files, twin], settings(), quiet=True)


@pytest.mark.parametrize("instances", [False, True])
def test_all_readers_see_the_same_pixels(segmenter, files, tmp_path, instances) -> None:
    out = tmp_path / "out"
    predict_into(out, segmenter, files, settings(instances=instances), quiet=True)
    good = [file for file in files if file != files[3]]
    expected = {file.stem: segmenter.set_image(file).segment(NAMES) for file in good}
    assert any(0 < (result.labels == 0).mean() < 1 for result in expected.values())
    # Our own reader takes the folder as a data set.
    scenes = read_folder(out)
    assert len(scenes) == 6
    for index, file in enumerate(good):
        scene = scenes[index]
        assert scene.key == file.stem and (file.suffix != ".png" or (scene.image == expected[file.stem].image).all())
        for number, name in enumerate(NAMES, start=1):
            mine = scene.names.index(name) + 1 if name in scene.names else -1
            np.testing.assert_array_equal(scene.labels == mine, expected[file.stem].labels == number)
    # pycocotools and our reader of COCO files.
    api = COCO(str(out / "annotations" / "instances.json"))
    assert len(api.imgs) == 6 and [row["name"] for row in api.loadCats(api.getCatIds())] == list(NAMES)
    for row in api.imgs.values():
        found = expected[Path(row["file_name"]).stem].labels
        assert (row["height"], row["width"]) == found.shape and (out / "images" / row["file_name"]).is_file()
        drawn = np.zeros_like(found)
        for annotation in api.imgToAnns[row["id"]]:
            mask = api.annToMask(annotation).astype(bool)
            assert not drawn[mask].any() and mask.sum() == annotation["area"] and annotation["iscrowd"] == 0
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
            drawn[mask] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, found)
    (out / "masks").rename(out / "index")
    for scene in read_folder(out):
        found = expected[good[int(scene.key) - 1].stem].labels
        for number, name in enumerate(NAMES, start=1):
            mine = scene.names.index(name) + 1 if name in scene.names else -1
            np.testing.assert_array_equal(scene.labels == mine, found == number)
    # The soft masks and the table.
    table = pd.read_parquet(out / "predictions.parquet")
    assert list(table.columns) == list(formats.COLUMNS) and len(table) == 18
    for file in good:
        result = expected[file.stem]
        with np.load(out / "soft" / f"{file.stem}.npz") as soft:
            np.testing.assert_allclose(soft["probabilities"], result.coarse.sigmoid().numpy(), atol=1e-3)
            assert tuple(soft["names"]) == NAMES and tuple(soft["size"]) == result.labels.shape
        rows = table[table.file == file.as_posix()].set_index("name")
        for name, mask, probability in zip(NAMES, result.masks, result.probabilities.numpy(), strict=True):
            row = rows.loc[name]
            assert row.share == mask.mean() and row["max"] == pytest.approx(
                float(result.coarse[NAMES.index(name)].sigmoid().max())
            )
            if mask.any():
                assert row["mean"] == pytest.approx(probability[mask].mean(), abs=1e-6)
                across, down = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
                assert (row.left, row.top) == (across[0], down[0])
                assert (row.left + row.width - 1, row.top + row.height - 1) == (across[-1], down[-1])
            else:
                assert np.isnan(row["mean"]) and np.isnan(row.left)
        with Image.open(out / "overlays" / f"{file.stem}.jpg") as drawn:
            assert drawn.size == result.overlay().size


def test_holes_and_parts_survive() -> None:
    ring = np.zeros((9, 12), bool)
    ring[1:6, 1:6] = True
    ring[3, 3] = False
    ring[7:, 9:] = True
    parts = formats._parts(ring)
    assert [int(part.sum()) for part in parts] == [24, 6] and not parts[0][3, 3]


def test_without_pyarrow_the_table_is_csv(segmenter, files, tmp_path, monkeypatch) -> None:
    found = batch.find_spec
    monkeypatch.setattr(batch, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    predict_into(tmp_path / "out", segmenter, files, settings(formats=("index",)), quiet=True)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    monkeypatch.undo()
    predict_into(tmp_path / "other", segmenter, files, settings(formats=("index",)), quiet=True)
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "other" / "predictions.parquet"), check_dtype=False)


def test_images_are_linked_copied_or_left_where_they_are(segmenter, files, tmp_path) -> None:
    for images in ("link", "copy", "none"):
        out = tmp_path / images
        predict_into(out, segmenter, files[:2], settings(images=images), quiet=True)
        there = sorted(os.listdir(out / "images")) if images != "none" else []
        assert there == ([file.name for file in files[:2]] if images != "none" else [])
        assert all((out / "images" / name).is_symlink() == (images == "link") for name in there)
    assert not (tmp_path / "none" / "images").exists()


def test_a_result_is_saved_shown_and_listed(segmenter, files, tmp_path) -> None:
    result = segmenter.set_image(files[0]).segment(NAMES)
    result.save(tmp_path / "cat.png")
    with Image.open(tmp_path / "cat.png") as opened:
        assert opened.mode == "P"
        np.testing.assert_array_equal(np.asarray(opened), result.labels)
    assert (tmp_path / "cat.names.txt").read_text() == "1 cat\n2 grass\n3 sky\n"
    result.save(tmp_path / "cat.json")
    assert json.loads((tmp_path / "cat.json").read_text()) == result.to_coco(file="cat")
    result.save(tmp_path / "cat.npz")
    assert np.load(tmp_path / "cat.npz")["probabilities"].dtype == np.float16
    with pytest.raises(FusionerError, match=r"'.jpg': write .png .*overlay\(\)"):
        result.save(tmp_path / "cat.jpg")
    assert result._repr_png_().startswith(b"\x89PNG")
    rows = result.table()
    assert [row["name"] for row in rows] == list(NAMES)
    assert sum(row["share"] for row in rows) == pytest.approx((result.labels > 0).mean())
    with pytest.raises(FusionerError, match="at most 254 names"):
        formats.index_png(np.full((2, 2), 255))
