import numpy as np
import pytest
import torch
import torchvision.io  # noqa: F401  JPEGs are decoded by it where it is loaded, as in training
from PIL import Image, ImageOps
from skimage.data import chelsea

from fusionerlib.errors import FusionerError
from fusionerlib.images import read_image


@pytest.fixture
def photo():
    return chelsea()[:120, :200]


def test_forms_of_one_image_agree(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    for form in (
        Image.fromarray(photo),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        photo[:, ::-1][:, ::-1],
        opaque,
    ):
        np.testing.assert_array_equal(read_image(form), photo)
    grey = photo[..., 0]
    for form in (grey, Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 256 + 17)):
        np.testing.assert_array_equal(read_image(form), np.repeat(grey[..., None], 3, axis=2))


def test_transparent_pixels_are_white():
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    for form in (clear, Image.fromarray(clear)):
        assert read_image(form).reshape(-1, 3).tolist() == [[10, 20, 30], *[[255] * 3] * 3]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((3, 40, 50), np.uint8), r"\(3, 40, 50\)"),
        (np.zeros((4, 4, 1), np.uint8), r"\(4, 4, 1\).*expected uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), "Tensor is no image"),
        ("nowhere/cat.jpg", "'nowhere/cat.jpg' is not a file"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(FusionerError, match=message):
        read_image(image)


@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (75, 2), (30, 1)])
def test_a_jpegs_pixels_are_pillows(tmp_path, photo, quality, subsampling):
    photo = np.ascontiguousarray(photo[:101, :67])
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=quality, subsampling=subsampling, progressive=True)
    with Image.open(tmp_path / "photo.jpg") as opened:
        np.testing.assert_array_equal(read_image(tmp_path / "photo.jpg"), np.asarray(opened))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_jpegs_right_side_is_up_in_every_mode(tmp_path, photo, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).convert(mode).save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "photo.jpg"), expected)


def test_a_jpeg_that_breaks_off_is_named(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    whole = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "part.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FusionerError, match=r"part.jpg' can't be read .* save it anew"):
        read_image(tmp_path / "part.jpg")
