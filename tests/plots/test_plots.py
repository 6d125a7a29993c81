"""Figures hold the values that they were given, and nothing on them is cut off."""

import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from skimage.data import chelsea, coffee

from fusionerlib import plots
from fusionerlib.datasets.scene import Scene
from fusionerlib.encoders.base import TokenMap
from fusionerlib.errors import FusionerError
from fusionerlib.plots.features import principal_components
from fusionerlib.plots.metrics import trailing_mean
from fusionerlib.plots.style import COLUMN, SIZE
from tests.inference.test_segmenter import MeanColours, make
from tests.inference.test_sliding import OneScene

LONG = "a name that goes on and on " * 7


def heights(axes):
    return [bar.get_height() for container in axes.containers for bar in getattr(container, "patches", [])]


def assert_nothing_clipped(figure):
    """Every visible text lies within the canvas, and no two tick labels of an axis overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    canvas = figure.bbox
    for axes in figure.axes:
        for text in [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]:
            box = text.get_window_extent(renderer)
            if text.get_text() and text.get_visible():
                assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.x1 + 1 and box.y1 <= canvas.y1 + 1, text
        labels = [label for label in axes.get_yticklabels() if label.get_text() and label.get_visible()]
        boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


def test_components_agree_with_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 12)).astype(np.float32) * np.linspace(3, 0.2, 12) + 5
    left, values, _ = np.linalg.svd(points.astype(np.float64) - points.mean(axis=0), full_matrices=False)
    expected = left[:, :3] * values[:3]
    found = principal_components(points)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-4)


def test_colours_are_shared_by_all_images_and_span_the_range():
    tokens = np.random.default_rng(1).normal(size=(2, 50, 6)).astype(np.float32)
    tokens[1, 0] = tokens[0, 7]
    colours = plots.pca_colours(tokens)
    assert colours.shape == (2, 50, 3)
    assert colours.min() == 0 and colours.max() == 1
    np.testing.assert_allclose(colours[1, 0], colours[0, 7])
    reordered = plots.pca_colours(tokens[::-1])
    np.testing.assert_allclose(reordered[::-1], colours, atol=1e-5)


def test_components_without_spread_are_grey():
    assert (plots.pca_colours(np.ones((1, 5, 4), np.float32)) == 0.5).all()
    line = np.arange(5, dtype=np.float32)[None, :, None] * np.array([1, 2, 0, 0], np.float32)
    colours = plots.pca_colours(line)
    assert (np.diff(colours[0, :, 0]) > 0).all()
    assert (colours[0, :, 1:] == 0.5).all()


def test_pca_figure_shows_every_map_beside_its_image():
    tokens = torch.rand(2, 12, 8)
    maps = {"joined": TokenMap(tokens, (3, 4), 16, "s"), "coarse": TokenMap(torch.rand(2, 4, 5), (2, 2), 32, "s")}
    figure = plots.pca_tokens([chelsea(), coffee()], maps)
    assert len(figure.axes) == 6
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[:3]] == ["image", "joined", "coarse"]
    shown = figure.axes[4].images[0]
    np.testing.assert_allclose(shown.get_array(), plots.pca_colours(tokens.numpy())[1].reshape(3, 4, 3), atol=1e-6)
    assert shown.get_extent() == [-0.5, 599.5, 399.5, -0.5]
    assert_nothing_clipped(figure)
    with pytest.raises(FusionerError, match="'joined' holds 2 images but 1"):
        plots.pca_tokens([chelsea()], maps)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_similarity_shows_scores_on_one_scale(count):
    scores = np.random.default_rng(0).uniform(-0.5, 0.9, size=(count, 5, 7)).astype(np.float32)
    figure = plots.similarity(chelsea(), scores, [f"name {i} $x$" for i in range(count - 1)] + [LONG])
    panels = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(panels) == count
    for panel, heat in zip(panels, scores, strict=True):
        np.testing.assert_array_equal(panel.images[1].get_array(), heat)
        assert panel.images[1].get_clim() == pytest.approx((scores.min(), scores.max()))
    assert figure.axes[-1].get_ylabel() == "cosine"
    assert_nothing_clipped(figure)


def test_attention_has_a_panel_a_layer_and_name():
    rows = np.random.default_rng(0).dirichlet(np.ones(12), size=(3, 2)).astype(np.float32) * 0.6
    figure = plots.attention(chelsea(), rows, ["cat", LONG], grid=(3, 4))
    assert len(figure.axes) == 6
    np.testing.assert_array_equal(figure.axes[3].images[1].get_array(), rows[1, 1].reshape(3, 4))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["layer 1", "layer 2", "layer 3"]
    assert figure.axes[0].get_title() == "cat"
    assert figure.axes[0].get_xlabel().startswith("60% on patches")
    assert_nothing_clipped(figure)
    same = plots.attention(chelsea(), rows.reshape(3, 2, 3, 4), ["cat", "dog"])
    np.testing.assert_array_equal(same.axes[3].images[1].get_array(), figure.axes[3].images[1].get_array())
    with pytest.raises(FusionerError, match="12 patches"):
        plots.attention(chelsea(), rows, ["cat", "dog"], grid=(3, 3))
    with pytest.raises(FusionerError, match="2 maps for 1 names"):
        plots.attention(chelsea(), rows, ["cat"], grid=(3, 4))


def test_curves_hold_loss_and_validation():
    history = [{"step": step, "loss": 1 / step} for step in range(1, 31)]
    history[9]["miou"], history[29]["miou"] = 0.2, 0.4
    history[19]["miou"] = None
    figure = plots.curves(history, smooth=5)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("training loss", "validation mIoU")
    np.testing.assert_allclose(left.lines[0].get_ydata(), 1 / np.arange(1, 31))
    assert right.lines[0].get_xydata().tolist() == [[10, 0.2], [30, 0.4]]
    assert right.texts[0].get_text() == "0.400"
    assert_nothing_clipped(figure)
    assert [axes.get_title() for axes in plots.curves(history[:5]).axes] == ["training loss"]  # nothing validated
    with pytest.raises(FusionerError, match="history is empty"):
        plots.curves([])


def test_trailing_mean_agrees_with_pandas():
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(trailing_mean(values, 7), pd.Series(values).rolling(7, min_periods=1).mean())


def test_rows_of_two_segmenters_show_each_ones_own_masks_beside_the_other():
    image = chelsea()[:96, :128]
    labels = np.zeros(image.shape[:2], np.uint8)
    labels[:, :50] = 1
    one, other = make(), make(visual=Upside())
    scene = Scene(image=image, labels=labels, names=("cat",), key="one")
    names = ("sky", "cat")
    [row] = plots.segmented_rows(OneScene(scene), [0], {"mine": one, "theirs": other}, names)
    np.testing.assert_array_equal(row.truth, np.where(labels == 1, 2, 0))
    np.testing.assert_array_equal(row.predicted, one.set_image(image).segment(names).labels)
    np.testing.assert_array_equal(row.beside["theirs"], other.set_image(image).segment(names).labels)
    assert (row.predicted != row.beside["theirs"]).any()
    figure = plots.scene_rows([row])
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "ground truth", "prediction", "theirs"]


class Upside(MeanColours):
    """A toy tower that sees its images upside down."""

    def __call__(self, images, *, outside=None):
        return super().__call__(images.flip(-2))


def test_scene_rows_show_image_truth_and_prediction_with_names():
    image = chelsea()
    truth, predicted = np.zeros((2, *image.shape[:2]), np.uint8)
    truth[:, :200] = 1
    predicted[:, 200:] = 2
    names = ("cat", "red ball", LONG)
    row = plots.SceneRow(title="scene/1, IoU 0.00", image=image, names=names, truth=truth, predicted=predicted)
    tall = plots.SceneRow(
        title="tall", image=image[:, :90], names=("cat",), truth=truth[:, :90], predicted=truth[:, :90]
    )
    figure = plots.scene_rows([row, tall])
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "ground truth", "prediction"]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]
    assert (pictures[0] == image).all()
    changed = [(picture != picture[..., :1]).any(axis=2) for picture in pictures]  # labels are drawn over grey
    assert changed[1][:, :200].mean() > 0.95 and not changed[1][:, 201:].any()
    assert changed[2][:, 200:].mean() > 0.95 and not changed[2][:, :199].any()
    legend = figure.axes[3].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["cat", "red ball *"]
    assert texts[2].startswith("a name that") and texts[2].endswith("… *")
    assert legend.get_title().get_text().endswith("\n* not in the image")
    assert "*" not in figure.axes[-1].get_legend().get_title().get_text(), "every name is there"
    assert [tuple(patch.get_facecolor()[:3]) for patch in legend.get_patches()[:1]] == [(230 / 255, 159 / 255, 0)]
    assert_nothing_clipped(figure)
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_class_bars_hold_the_best_and_the_worst():
    table = [{"name": f"class {i}", "iou": i / 40, "episodes": i + 1} for i in range(40)]
    table.append({"name": "never seen", "iou": float("nan"), "episodes": 1})
    figure = plots.per_class_bars(table, top=3, bottom=2)
    zeros = [{"name": f"class {i}", "iou": max(0, i - 4) / 40, "episodes": 1} for i in range(40)]
    assert plots.per_class_bars(zeros, top=3, bottom=2).axes[1].get_title().endswith("of 40 classes (5 have IoU 0)")
    best, worst = figure.axes
    assert (best.get_title(), worst.get_title()) == ("best 3 of 40 classes", "worst 2 of 40 classes")
    assert [bar.get_width() for bar in best.patches] == [39 / 40, 38 / 40, 37 / 40]
    assert [label.get_text() for label in best.get_yticklabels()] == ["class 39", "class 38", "class 37"]
    assert [bar.get_width() for bar in worst.patches] == [1 / 40, 0]
    assert best.texts[0].get_text() == "0.97  (40)"
    assert_nothing_clipped(figure)
    assert len(plots.per_class_bars(table[:5]).axes) == 1
    with pytest.raises(FusionerError, match="no class"):
        plots.per_class_bars(table[-1:])


@pytest.mark.parametrize("form", [list, pd.DataFrame])
def test_ablation_bars_are_the_means_over_seeds(form):
    rows = [
        {"setting": setting, "metric": metric, "value": base + seed / 10}
        for base, setting in ((0.2, "depth 1"), (0.5, "late fusion of both sides"))
        for metric in ("mIoU", "assignment")
        for seed in range(3)
    ]
    figure = plots.ablation_bars(form(rows), chance=0.25, title="depth")
    (axes,) = figure.axes
    assert heights(axes) == pytest.approx([0.3, 0.6, 0.3, 0.6])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["chance of assignment", "mIoU", "assignment"]
    assert [text.get_text() for text in axes.texts] == ["0.30", "0.60", "0.30", "0.60"]
    assert axes.get_ylim()[1] > 0.7
    # Chance is a level of assignment alone, the second bar of each group.
    (line,) = axes.collections[-1:]
    spans = [path.vertices[:, 0] for path in line.get_paths()]
    assert [path.vertices[0, 1] for path in line.get_paths()] == [0.25, 0.25]
    bars = [bar for container in axes.containers for bar in getattr(container, "patches", [])]
    for span, bar in zip(spans, bars[2:], strict=True):  # two bars of mIoU come first
        assert span.min() <= bar.get_x() and bar.get_x() + bar.get_width() <= span.max()
    assert_nothing_clipped(figure)
    with pytest.raises(FusionerError, match="no 'value'"):
        plots.ablation_bars([{"setting": 1, "metric": 2}])


def test_save_writes_a_whole_picture_and_leaves_no_figure_open(tmp_path):
    before = plt.get_fignums()
    path = plots.save(plots.curves([{"step": 1, "loss": 1.0, "miou": 0.5}]), tmp_path / "new" / "curve.png", dpi=50)
    with Image.open(path) as picture:
        assert picture.width > 200
        border = np.asarray(picture.convert("L"))
    assert (border[0] == 255).all() and (border[:, -1] == 255).all()
    assert plt.get_fignums() == before
    assert "<svg" in path.with_suffix(".svg").read_text() and path.with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"


def test_a_mask_has_the_colour_of_its_legend_over_any_picture():
    from colorsys import rgb_to_hsv

    from fusionerlib.datasets.scene import Scene
    from fusionerlib.inference.palette import colour

    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 1] = 200  # a green board, which made an orange mask olive
    labels = np.pad(np.ones((20, 20), np.uint8), 10)
    figure = plots.scenes([Scene(image, labels, ("dartboard",), "x")])
    drawn = np.asarray(figure.axes[1].get_images()[0].get_array())
    wanted, found = (rgb_to_hsv(*(part / 255 for part in pixel)) for pixel in (colour(0), drawn[20, 20]))
    assert found[0] == pytest.approx(wanted[0], abs=0.01)
    assert len(set(drawn[2, 2].tolist())) == 1, "outside the mask the picture is grey"


def test_a_notebook_shows_the_figure_once_as_png():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(plots.curves([{"step": 1, "loss": 1.0, "miou": 0.5}]))
    with Image.open(io.BytesIO(data["image/png"])) as picture:
        assert picture.width > 600


def test_figures_fit_a_column_and_have_one_size_of_type():
    kind = {"assignment": 0.5, "miou": 0.4, "miou_permuted": 0.1, "chance": 0.25, "absent_painted": 0.2}
    row = {"curve": "blur", "level": 0, "assignment": 0.9, "miou": 0.5, "chance": 0.25, "clean": True}
    scene = Scene(chelsea(), np.zeros(chelsea().shape[:2], np.uint8), ("cat", LONG), "x")
    for figure in (
        plots.curves([{"step": 1, "loss": 1.0, "miou": 0.5}]),
        plots.kind_bars({"one absent": kind, LONG: kind}),
        plots.robustness([row, {**row, "level": 4, "clean": False}]),
        plots.scenes([scene] * 5),
        plots.shapes([("image", (3, 8, 8))], [("names", (2,)), ("text tokens", (2, 5))], [("logits", (2, 8, 8))]),
    ):
        with plots.style():  # ticks are made when they are drawn
            figure.draw(FigureCanvasAgg(figure).get_renderer())
        assert figure.get_figwidth() <= COLUMN
        assert {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()} == {SIZE}


def test_style_is_put_back():
    size = plt.rcParams["font.size"]
    with plots.style():
        assert plt.rcParams["axes.spines.top"] is False
    assert plt.rcParams["font.size"] == size and plt.rcParams["axes.spines.top"] is True


def test_the_core_does_not_import_matplotlib():
    code = (
        "import sys; from fusionerlib import Segmenter; import fusionerlib.evaluation.metrics;"
        "print([name for name in ('matplotlib', 'seaborn', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
