"""The same checks on both ways to bring own data: masks beside pictures, and a COCO file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from fusionerlib import FusionerError, read_folder
from tests.faults.coco_files import rle
from tests.faults.test_coco_shapes import told

FORMS = ["masks", "coco"]
Sample = tuple[str, int, tuple[int, int], bool]


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array as EXIF's definition shows it: row 0 and column 0 of what is stored are at these sides."""
    flips: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    return np.ascontiguousarray(flips[orientation](array))


def drawn(size: tuple[int, int]) -> np.ndarray:
    """A mask that no turn leaves as it is."""
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 3, : size[1] // 2] = True
    mask[size[0] // 3, 0] = True
    return mask


def made(root: Path, form: str, samples: list[Sample], *, kind: str = "jpg") -> Path:
    """Pictures that are white where their mask is; (name, orientation, stored size, whether masks are as stored)."""
    import json

    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows, things = [], []
    for number, (name, orientation, size, as_stored) in enumerate(samples, start=1):
        stored = drawn(size)
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo = Image.fromarray(np.repeat(np.where(stored, 255, 0).astype(np.uint8)[..., None], 3, -1))
        photo.save(root / f"images/{name}.{kind}", exif=exif, quality=100)
        mask = stored if as_stored else turned(stored, orientation)
        Image.fromarray(mask.astype(np.uint8)).save(root / f"masks/{name}.png")
        rows.append({"id": number, "file_name": f"{name}.{kind}", "height": mask.shape[0], "width": mask.shape[1]})
        things.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": rle(mask)})
    (root / "names.txt").write_text("cell\n")
    if form == "coco":
        content = {"images": rows, "annotations": things, "categories": [{"id": 1, "name": "cell"}]}
        (root / "annotations.json").write_text(json.dumps(content))
        (root / "masks").rename(root / ".masks")
    return root


def agreement(scene: Any) -> float:
    """IoU of the white pixels and the mask."""
    white, mask = scene.image[..., 0] > 127, scene.labels == 1
    return float((white & mask).sum() / (white | mask).sum())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_stored", [False, True])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_masks_fit_pictures_that_exif_turns(
    tmp_path: Path, form: str, orientation: int, as_stored: bool, kind: str
) -> None:
    """Square and upside-down ones too, where another picture of the set shows how the masks were drawn."""
    samples = [
        ("wide", 6, (48, 64), as_stored),
        ("same", orientation, (48, 64), as_stored),
        ("square", orientation, (48, 48), as_stored),
    ]
    scenes = read_folder(made(tmp_path, form, samples, kind=kind))
    assert len(scenes) == 3
    for index in range(3):
        scene = scenes[index]
        assert agreement(scene) > 0.97, scene.key
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"images/same.{kind}")).convert("RGB"))
    stored = np.asarray(Image.open(tmp_path / f"images/same.{kind}").convert("RGB"))
    if kind == "tif":  # Pillow turns them by itself
        stored = np.repeat(np.where(drawn((48, 64)), 255, 0).astype(np.uint8)[..., None], 3, -1)
    image = scenes[next(index for index in range(3) if scenes[index].key in ("same", "2"))].image
    np.testing.assert_array_equal(image, stored if as_stored else shown)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "others", [[], [("wide", 1, (48, 64), False)], [("a", 6, (48, 64), True), ("b", 8, (48, 64), False)]]
)
@pytest.mark.parametrize(
    ("orientation", "size"), [(3, (48, 64)), (2, (48, 64)), (4, (48, 64)), (6, (48, 48)), (8, (48, 48))]
)
def test_where_nothing_tells_the_picture_is_left_out(
    tmp_path: Path, form: str, others: list[Sample], orientation: int, size: tuple[int, int]
) -> None:
    plain: Sample = ("plain", 1, (48, 64), False)
    scenes, text = told(made(tmp_path, form, [plain, *others, ("unclear", orientation, size, True)]))
    assert len(scenes) == 1 + len(others) and all(agreement(scenes[index]) > 0.97 for index in range(len(scenes)))
    assert f"save them upright: 1 (unclear.jpg (orientation {orientation}))" in text
    with pytest.raises(FusionerError, match="save them upright: 1"):
        read_folder(tmp_path, strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_our_own_predictions_are_drawn_as_shown(tmp_path: Path, form: str) -> None:
    root = made(tmp_path, form, [("plain", 1, (48, 64), False), ("down", 3, (48, 64), False)])
    (root / "run.json").write_text("{}")
    scenes, text = told(root)
    assert text == "" and [agreement(scenes[index]) > 0.97 for index in range(2)] == [True, True]


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_another_size_is_named_with_both(tmp_path: Path, form: str) -> None:
    root = made(tmp_path, form, [("a", 1, (48, 64), False), ("b", 1, (48, 64), False)])
    Image.new("RGB", (63, 48)).save(root / "images/a.jpg")
    scenes = read_folder(root)
    with pytest.raises(FusionerError, match=r"a\.(jpg|png) is \(?6[34](x|, )48.*6[34](x|, )48"):
        scenes[0]
    assert agreement(scenes[1]) > 0.97


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out_is_counted_with_three_examples(tmp_path: Path, form: str) -> None:
    root = made(tmp_path, form, [(f"{number}", 1, (48, 64), False) for number in range(6)])
    for number in range(1, 6):
        (root / f"images/{number}.jpg").write_bytes(b"")
    scenes, text = told(root)
    assert len(scenes) == 1 and "is not here: 5 (1.jpg" in text and text.count("an empty file") == 3 and "..." in text
    with pytest.raises(FusionerError, match="is not here: 5"):
        read_folder(root, strict=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["0 Background", "_background_", "BACKGROUND"])
def test_background_is_no_class_on_both_ways(tmp_path: Path, form: str, name: str) -> None:
    root = made(tmp_path, form, [("a", 1, (48, 64), False)])
    file = root / ("names.txt" if form == "masks" else "annotations.json")
    text = f"1 {name}\n2 cell" if form == "masks" else file.read_text().replace('"cell"', f'"{name}"')
    file.write_text(text)
    if form == "masks":
        assert read_folder(root).names(0) == () and not read_folder(root)[0].labels.any()
    else:
        with pytest.raises(FusionerError, match="no object that can be used"):
            read_folder(root)


@pytest.mark.parametrize("others", [[], [("wide", 6, (48, 64), False)], [("wide", 6, (48, 64), True)]])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_picture_without_a_size_in_the_file(tmp_path: Path, orientation: int, others: list[Sample]) -> None:
    """Its own size says nothing: only others that are drawn as shown let it in."""
    import json

    root = made(tmp_path, "coco", [("plain", 1, (48, 64), False), *others, ("turned", orientation, (48, 64), False)])
    content = json.loads((root / "annotations.json").read_text())
    for row in content["images"]:
        if row["file_name"] == "turned.jpg":
            del row["height"], row["width"]
    (root / "annotations.json").write_text(json.dumps(content))
    scenes, text = told(root)
    shown = bool(others) and not others[0][3]
    assert len(scenes) == 1 + len(others) + shown
    assert all(agreement(scenes[index]) > 0.97 for index in range(len(scenes)))
    assert ("save them upright: 1 (turned.jpg" in text) != shown


def save_pages(file: Path, kind: str) -> None:
    pages = [Image.new("RGB", (64, 48), (shade, 0, 0)) for shade in (10, 20, 30)]
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "GIF", "WEBP", "MPO"])
def test_pages_and_frames_that_are_not_read_are_told(tmp_path: Path, form: str, kind: str) -> None:
    root = made(tmp_path, form, [("a", 1, (48, 64), False), ("b", 1, (48, 64), False)], kind="png")
    save_pages(root / "images/a.png", kind)
    scenes, text = told(root)
    assert abs(int(scenes[0].image[0, 0, 0]) - 10) < 3
    # The second picture of a phone's JPEG is another view or a preview.
    assert ("of which the first is read: 1 (a.png (3))" in text) == (kind != "MPO")


INDICES = drawn((48, 64)).astype(np.uint8)
BAD_MASKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a JPEG inside": (lambda file: Image.fromarray(INDICES).save(file, "JPEG"), "is a JPEG file, whatever its"),
    "pages": (lambda file: save_pages(file, "TIFF"), "has 3 pages or frames"),
    "frames": (lambda file: save_pages(file, "PNG"), "has 3 pages or frames"),
    "fractions": (lambda file: Image.fromarray(INDICES / np.float32(2)).save(file, "TIFF"), "fractions instead of ind"),
    "16 bits": (lambda file: Image.fromarray(INDICES * np.uint16(257)).save(file), "holds 257: not in"),
    **{
        f"index {odd}": (
            lambda file, odd=odd: Image.fromarray(np.where(INDICES == 1, odd, 0).astype(np.int32)).save(file, "TIFF"),
            f"holds {odd}: not in",
        )
        for odd in (-1, -100, -254, -255, 256, 65537)
    },
}  # fmt: skip


@pytest.mark.parametrize(("save", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_mask_that_is_none_is_named(tmp_path: Path, save: Callable[[Path], Any], message: str) -> None:
    root = made(tmp_path, "masks", [("a", 1, (48, 64), False), ("b", 1, (48, 64), False)])
    save(root / "masks/a.png")
    with pytest.raises(FusionerError, match=rf"mask .*a\.png .*{message}"):
        read_folder(root)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_that_exif_turns_is_refused(tmp_path: Path, orientation: int) -> None:
    root = made(tmp_path, "masks", [("a", 1, (48, 48), False)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(drawn((48, 48)).astype(np.uint8)).save(root / "masks/a.png", exif=exif)
    with pytest.raises(FusionerError, match=rf"a\.png has an EXIF orientation \({orientation}\).*without EXIF data"):
        read_folder(root)
