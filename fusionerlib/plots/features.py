"""Figures of features: principal components as colours, similarity between names and patches, attention."""

from collections.abc import Mapping, Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from fusionerlib.encoders.base import TokenMap
from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import short
from fusionerlib.plots.style import COLUMN, LETTER, figure, picture, style, wrapped

Photo = UInt8[np.ndarray, "_ _ 3"]
"""RGB, 0-255, of any height and width; the images of one figure may differ in size."""


def pca_colours(
    tokens: Float[np.ndarray, "images patches dim"], *, percentile: float = 1.0
) -> Float[np.ndarray, "images patches 3"]:
    """The first three principal components of all tokens as RGB (0-1), with the same colours in all images.

    Each component is rescaled so that its ``percentile`` and 100 - ``percentile`` become 0 and 1, which limits the
    effect of outliers. The sign of a component makes its largest weight positive. A constant component is 0.5.
    """
    components = principal_components(rearrange(tokens, "b n d -> (b n) d"))
    low, high = np.percentile(components, [percentile, 100 - percentile], axis=0)
    spread = high - low
    flat = spread <= 1e-6 * max(1e-12, float(np.abs(components).max(initial=0.0)))
    scaled = np.where(flat, 0.5, (components - low) / np.where(flat, 1.0, spread))
    return rearrange(scaled.clip(0, 1), "(b n) c -> b n c", b=len(tokens))


def principal_components(points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points 3"]:
    """Coordinates on the first three principal axes, float64; 0 for axes beyond ``dim``."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    # The covariance is dim x dim however many tokens there are; eigh sorts in ascending order.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    return np.pad(centred @ axes, ((0, 0), (0, 3 - axes.shape[1])))


def pca_tokens(images: Sequence[Photo], maps: Mapping[str, TokenMap]) -> Figure:
    """One row for each image: the image, then its tokens in each of ``maps`` coloured by ``pca_colours``.

    The title of a map tells the rows and columns of its grid, and the number of channels.

    maps: token maps by name, the batch dimension in the order of ``images``. Colours are comparable between the rows of
    one map, not between maps. Raises FusionerError where a map holds another number of images.
    """
    for name, tokens in maps.items():
        if len(tokens.tokens) != len(images):
            raise FusionerError(f"map {name!r} holds {len(tokens.tokens)} images but {len(images)} are shown")
    with style():
        width = min(2.1, COLUMN / (1 + len(maps)))
        heights = [width * image.shape[0] / image.shape[1] for image in images]
        result = figure(width * (1 + len(maps)), sum(heights) + 0.08 * len(images) + 0.65)
        panels = result.subplots(len(images), 1 + len(maps), squeeze=False, height_ratios=heights)
        for row, image in enumerate(images):
            panels[row, 0].imshow(image)
            picture(panels[row, 0], "" if row else "image")
        for column, (name, tokens) in enumerate(maps.items(), start=1):
            colours = pca_colours(tokens.tokens.detach().cpu().float().numpy())
            for row, image in enumerate(images):
                shown = rearrange(colours[row], "(h w) c -> h w c", h=tokens.grid[0])
                panels[row, column].imshow(shown, extent=_extent(image), aspect="equal")
                size = f"{tokens.grid[0]} x {tokens.grid[1]}\n{tokens.tokens.shape[-1]}-d"
                title = f"{wrapped(name, int(width / LETTER))}\n{size}"
                picture(panels[row, column], "" if row else title)
        return result


def similarity(
    image: Photo, scores: Float[np.ndarray, "names rows columns"], names: Sequence[str], *, label: str = "cosine"
) -> Figure:
    """The image, then for each name a heat map of its scores over the image; all maps share one colour scale.

    scores: on any grid that covers the image, such as ``inspection.similarity``. label: of the colour bar.
    Raises FusionerError where scores and names differ in number.
    """
    _one_each(scores, names)
    with style():
        # At most four panels in a row, so that each stays large enough.
        columns = min(len(names) + 1, 4)
        rows = -(-(len(names) + 1) // columns)
        width = min(2.1, (COLUMN - 0.7) / columns)
        result = figure(width * columns + 0.7, width * rows * image.shape[0] / image.shape[1] + 0.45 * rows)
        panels = result.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(names) + 1 :]:
            axes.set_axis_off()
        panels[0].imshow(image)
        picture(panels[0], "image")
        limits = float(np.min(scores)), float(np.max(scores))
        for axes, name, heat in zip(panels[1:], names, scores, strict=False):
            mapped = _heat(axes, image, heat, limits)
            picture(axes, wrapped(name, int(width / LETTER)))
        result.colorbar(mapped, ax=list(panels), label=label, shrink=0.8, pad=0.02)
        return result


def attention(
    image: Photo,
    rows: Float[np.ndarray, "layers names *patches"],
    names: Sequence[str],
    *,
    grid: tuple[int, int] | None = None,
) -> Figure:
    """Attention of each name (columns) to the patches, in each layer (rows).

    rows: attention weights (0-1), (layers, names, grid rows, grid columns) as from ``inspection.text_attention``, or
        (layers, names, patches) with ``grid``. Every panel has its own colour scale from 0; below it are the sum over
        all patches and the maximum.
    Raises FusionerError where the patches do not fill ``grid``, or weights and names differ in number.
    """
    if rows.ndim == 3:
        if grid is None or grid[0] * grid[1] != rows.shape[2]:
            raise FusionerError(f"attention over {rows.shape[2]} patches on grid {grid}: pass the grid they lie on")
        rows = rearrange(rows, "l k (h w) -> l k h w", h=grid[0])
    layers = len(rows)
    _one_each(rows[0], names)
    with style():
        width = max(1.0, min(2.0, (COLUMN - 0.4) / len(names)))
        result = figure(width * len(names) + 0.4, (width * image.shape[0] / image.shape[1] + 0.45) * layers + 0.3)
        panels = result.subplots(layers, len(names), squeeze=False)
        for layer in range(layers):
            for column, name in enumerate(names):
                axes, heat = panels[layer, column], rows[layer, column]
                _heat(axes, image, heat, (0.0, max(float(heat.max()), 1e-12)))
                picture(axes, "" if layer else wrapped(name, int(width / LETTER)))
                axes.set_xlabel(f"{heat.sum():.0%} on patches,\nmax {heat.max():.1%}")
            panels[layer, 0].set_ylabel(f"layer {layer + 1}")
        return result


def heat_rows(
    image: Photo,
    rows: Sequence[Float[np.ndarray, "names _ _"]],
    names: Sequence[str],
    titles: Sequence[str],
    *,
    label: str = "",
) -> Figure:
    """Heat maps of each name (columns) over the image, a row for each of ``titles``, such as steps of a training.

    rows: maps on any grid that covers the image. Each row has its own colour scale, which its bar shows. label: of the
    bars. Raises FusionerError where rows and titles, or maps and names, differ in number.
    """
    if len(rows) != len(titles):
        raise FusionerError(f"{len(rows)} rows for {len(titles)} titles: pass one title a row")
    for maps in rows:
        _one_each(maps, names)
    with style():
        width = max(0.9, min(1.75, (COLUMN - 1.1) / len(names)))
        height = width * image.shape[0] / image.shape[1]
        result = figure(width * len(names) + 1.1, (height + 0.08) * len(rows) + 0.3)
        panels = result.subplots(len(rows), len(names), squeeze=False)
        for place, (axes, maps, title) in enumerate(zip(panels, rows, titles, strict=True)):
            limits = float(maps.min()), max(float(maps.max()), float(maps.min()) + 1e-12)
            for panel, name, heat in zip(axes, names, maps, strict=True):
                mapped = _heat(panel, image, heat, limits)
                picture(panel, "" if place else wrapped(name, int(width / LETTER)))
            axes[0].set_ylabel(title)
            result.colorbar(mapped, ax=list(axes), label=label, shrink=0.85, pad=0.02)
        return result


def _one_each(scores: np.ndarray, names: Sequence[str]) -> None:
    if len(scores) != len(names) or not len(names):
        raise FusionerError(f"{len(scores)} maps for {len(names)} names: pass one map a name, at least one")


def _extent(image: np.ndarray) -> tuple[float, float, float, float]:
    """The extent in which matplotlib draws ``image``, so that a map lies exactly over it."""
    return -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5


def _heat(axes: Axes, image: np.ndarray, heat: np.ndarray, limits: tuple[float, float]) -> AxesImage:
    grey = np.asarray(Image.fromarray(image).convert("L"))
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    low, high = limits
    return axes.imshow(
        heat, cmap="inferno", alpha=0.65, vmin=low, vmax=high, extent=_extent(image), interpolation="bilinear"
    )


def cosine_matrix(cosines: Float[np.ndarray, "names names"], names: Sequence[str]) -> Figure:
    """Matrix of the cosines (-1 to 1) between all pairs of names, with the numbers in the cells.

    The colour scale covers 0 to 1; negative cosines have the colour of 0.
    """
    with style():
        side = 0.4 * len(names) + 1.2
        result = figure(side + 0.8, side)
        axes = result.subplots()
        shown = axes.imshow(cosines, cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), [short(name, 20) for name in names], rotation=40, ha="right")
        axes.set_yticks(range(len(names)), [short(name, 20) for name in names])
        for row, column in np.ndindex(*cosines.shape):
            ink = "black" if cosines[row, column] > 0.6 else "white"
            axes.text(column, row, f"{cosines[row, column]:.2f}", ha="center", va="center", color=ink)
        result.colorbar(shown, ax=axes, shrink=0.8, label="cosine")
    return result
