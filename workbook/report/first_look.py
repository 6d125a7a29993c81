"""The first page of a run: the packaged checkpoint on sample photographs, seconds after the start."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from fusionerlib.datasets.names import unseen
from fusionerlib.files import write_text
from workbook.report.figures import data_uri
from workbook.report.notebook_pages import POLICY

NAME = "first_look.html"
ASKED: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("chelsea", ("cat", "sofa"), ("sofa",)),
    ("astronaut", ("helmet", "rocket", "flag"), ()),
    ("rocket", ("rocket", "dog"), ("dog",)),
    ("coffee", ("cup", "spoon", "dog"), ("dog",)),
)
"""Photographs of scikit-image, the names asked of each, and those of them that it does not show."""


@dataclass(frozen=True)
class Look:
    """One photograph of the page. unseen: names that had no training masks. Names that no pixel was given to are in
    ``absent`` where the photograph does not show them, and in ``missed`` where it does.
    """

    title: str
    names: tuple[str, ...]
    unseen: tuple[str, ...]
    absent: tuple[str, ...]
    missed: tuple[str, ...]
    overlay: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.overlay.size

    @property
    def uri(self) -> str:
        """The overlay as a ``data:`` URI."""
        return data_uri(self.overlay, quality=85)


def write_first_look(folder: Path, *, steps: Sequence[tuple[str, str]] = ()) -> Path:
    """Segment sample photographs with the packaged checkpoint and write ``folder``/first_look.html; returns its path.

    steps: title and relative page ("" for none) of each step of the run that follows; without steps the page names
    the commands to try next.
    """
    began = time.perf_counter()
    from skimage import data

    from fusionerlib import Segmenter

    segmenter = Segmenter.load("packaged")
    shown = []
    for photo, names, absent in ASKED:
        found = segmenter.set_image(getattr(data, photo)()).segment(names)
        empty = tuple(name for name, mask in zip(names, found.masks, strict=True) if not mask.any())
        shown.append(
            Look(
                title=photo,
                names=names,
                unseen=unseen(names, trained=segmenter.trained_names),
                absent=tuple(name for name in empty if name in absent),
                missed=tuple(name for name in empty if name not in absent),
                overlay=found.overlay(),
            )
        )
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("first_look.html").render(
        policy=POLICY,
        style=(here / "page.css").read_text(encoding="utf-8"),
        shown=shown,
        parameters=segmenter.model.trainable()["total"],
        trained=len(segmenter.trained_names),
        seconds=time.perf_counter() - began,
        steps=steps,
    )
    write_text(folder / NAME, f"{page}\n")
    return folder / NAME
