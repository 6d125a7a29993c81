"""Export of the inspector: all panels as one picture, and the line of Python that reproduces its state."""

import io
import os
import textwrap
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from fusionerlib.inference.overlay import printable, shorten
from fusionerlib.inspector.drawing import Picture, swatch
from fusionerlib.inspector.panels import draw_large, draw_panel, pixel_probabilities, title
from fusionerlib.inspector.state import HEIGHT, PANELS, WIDTH, InspectorState

GAP = 16
HEAD, FOOT = 30, 44
"""Heights of the title and of the caption of a panel, which has up to two lines, in pixels."""
FLAT = ("argmax", "truth", "error", "difference")
"""Panels with flat colours, which PNG compresses better than JPEG."""
LARGE = 1600
LISTED = 10
"""Most names in the table of the clicked pixel; below it the number of others is written."""


def encode_panel(picture: Picture, key: str) -> tuple[bytes, str]:
    """The panel ``key`` as the bytes of an image file, and their media type. Fast rather than small."""
    stream = io.BytesIO()
    if key in FLAT:
        Image.fromarray(picture).save(stream, "PNG", compress_level=1)
        return stream.getvalue(), "image/png"
    Image.fromarray(picture).save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue(), "image/jpeg"


@lru_cache(maxsize=16)
def encoded_message(pixels: bytes, shape: tuple[int, ...]) -> tuple[bytes, str]:
    """A panel that is only a message, encoded: the same few are wanted again and again."""
    return encode_panel(np.frombuffer(pixels, np.uint8).reshape(shape), "argmax")


def enlarged(state: InspectorState, key: str) -> tuple[bytes, str]:
    """The panel ``key`` for the whole screen, encoded: masks at up to ``LARGE`` pixels a side, others as drawn."""
    if key not in ("overlay", "argmax") or state.answer is None:
        return encode_panel(draw_panel(state, key)[0], key)
    return encode_panel(draw_large(state, key, longest=LARGE), key)


def export_png(state: InspectorState) -> bytes:
    """``export_image`` as a PNG file; its text chunk "parameters" holds the parameter line."""
    stream, information = io.BytesIO(), PngInfo()
    information.add_itxt("parameters", parameter_line(state))
    export_image(state).save(stream, "PNG", compress_level=1, pnginfo=information)
    return stream.getvalue()


def parameter_line(state: InspectorState) -> str:
    """The line of Python that reproduces the state, given the same ``segmenter`` and ``images``.

    Where two models are compared, the other one is called ``second``.
    An image file is written into the line; an uploaded image is named in a comment, strokes are told there.
    """
    images, index, comment = "images", state.index, ""
    if state.case is not None and isinstance(state.case.image, str | os.PathLike) and state.case.labels is None:
        images, index = repr([os.fspath(state.case.image)]), 0
    elif state.index >= state.given:
        comment = (
            f"  # image {state.index} was uploaded: put {printable(state.case.title)!r} there" if state.case else ""
        )
    first, beside = "segmenter", {}
    if state.compares_models:
        first = "[segmenter, second]"
    if state.beside is not None:
        beside = {"beside_threshold": state.beside_threshold}
    settings = {
        "names": list(state.names),
        "off": [name for name in state.names if name in state.off],
        "threshold": state.threshold,
        "opacity": state.opacity,
        "temperature": float(f"{state.temperature:.12g}"),
        "image": max(0, index),
        "word": state.word,
        "layer": state.layer,
        "pixel": state.pixel,
        **beside,
    }
    always = ("names", "threshold", "opacity", "temperature", *beside)
    arguments = [f"{key}={value!r}" for key, value in settings.items() if key in always or value]
    if state.strokes:
        comment += "  # without the strokes: save them as a data set"
    return f"inspect({first}, {', '.join([images, *arguments])}){comment}"


def export_image(state: InspectorState) -> Image.Image:
    """All panels in one or two rows, the table of names as the fourth cell, and the parameter line below.

    Ground truth, errors, attention and similarity are left out where they have nothing to show.
    """
    drawn = {key: draw_panel(state, key) for key in PANELS}
    # A panel without a caption is only a message.
    cells = ["overlay", "probability", "argmax", "", *(key for key in PANELS[3:] if drawn[key][1])]
    rows = 1 if len(cells) == 4 else 2
    columns, wide, tall = -(-len(cells) // rows), WIDTH + GAP, HEAD + HEIGHT + FOOT + GAP
    line = textwrap.wrap(printable(parameter_line(state)), 45 * columns, subsequent_indent="    ")
    canvas = Image.new("RGB", (columns * wide + GAP, rows * tall + 2 * GAP + 24 * len(line)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, key in enumerate(cells):
        left, top = GAP + place % columns * wide, GAP + place // columns * tall
        if not key:
            _table(draw, canvas, state, left, top)
            continue
        picture, caption = drawn[key]
        if picture.shape[1] > WIDTH:  # a panorama
            size = WIDTH, max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
            picture = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        _text(draw, (left, top), title(state, key), size=20)
        # The frame has the same size for all proportions of the image, as in the browser.
        draw.rectangle((left, top + HEAD, left + WIDTH - 1, top + HEAD + HEIGHT - 1), fill=(242, 242, 242))
        inside = (left + (WIDTH - picture.shape[1]) // 2, top + HEAD + (HEIGHT - picture.shape[0]) // 2)
        canvas.paste(Image.fromarray(picture), inside)
        for row, part in enumerate(_lines(caption)):
            _text(draw, (left, top + HEAD + HEIGHT + 5 + 19 * row), part, size=15, fill=(70, 70, 70))
    for row, part in enumerate(line):
        _text(draw, (GAP, rows * tall + GAP + 24 * row), part, size=16, room=canvas.width - 2 * GAP)
    return canvas


def table_rows(state: InspectorState) -> list[tuple[str, int, float | None]]:
    """The rows of the table: name, its index among all names, its probability at the clicked pixel (None without)."""
    probabilities: list[tuple[str, float | None]] = [*pixel_probabilities(state)]
    rows = probabilities or [(name, None) for name in state.on]
    return [(name, state.names.index(name), value) for name, value in rows]


def table_title(state: InspectorState) -> str:
    """The title of the table of names."""
    if state.pixel is None:
        return "Names"
    row, column = state.pixel
    return f"Pixel at row {row}, column {column}{': first / second model' if state.compares_models else ''}"


def _table(draw: ImageDraw.ImageDraw, canvas: Image.Image, state: InspectorState, left: int, top: int) -> None:
    """Draw the names with their swatches, and their probabilities at the clicked pixel with a line at the threshold."""
    _text(draw, (left, top), table_title(state), size=20)
    rows, bar = table_rows(state), left + 225
    second = dict(pixel_probabilities(state, second=True)) if state.compares_models else {}
    length = 60 if second else 110
    for place, (name, index, value) in enumerate(rows[:LISTED]):
        y = top + HEAD + 28 * place
        canvas.paste(Image.fromarray(swatch(index)), (left, y))
        _text(draw, (left + 30, y + 1), name, size=17, room=185 if value is not None else WIDTH - 30)
        if value is not None:
            limit = bar + round(length * state.threshold)
            draw.rectangle((bar, y + 4, bar + round(length * value), y + 18), fill=(120, 120, 120))
            draw.line((limit, y, limit, y + 22), fill="black")
            both = f"{value:.3f} / {second[name]:.3f}" if second else f"{value:.3f}"
            _text(draw, (bar + length + 10, y + 1), both, size=17)
    if len(rows) > LISTED:
        _text(draw, (left, top + HEAD + 28 * LISTED), f"and {len(rows) - LISTED} more", size=15, fill=(70, 70, 70))


def _lines(caption: str) -> list[str]:
    """``caption`` in one line, or in two where it is too wide; the second is shortened when it is drawn."""
    font = ImageFont.load_default(15)
    words, first = caption.split(), 0
    while first < len(words) and font.getlength(" ".join(words[: first + 1])) <= WIDTH:
        first += 1
    return [part for part in (" ".join(words[:first]), " ".join(words[first:])) if part]


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    *,
    size: int,
    fill: str | tuple[int, int, int] = "black",
    room: int = WIDTH,
) -> None:
    font = ImageFont.load_default(size)
    draw.text(place, shorten(printable(text), font, float(room)), fill=fill, font=font)
