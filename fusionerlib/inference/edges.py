"""Edges of masks from the picture: joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) of coarse logits.

Logits come on a grid of cells that are much larger than a pixel, so masks enlarged bilinearly have its edges. Here each
place of a grid ``FINER`` times finer takes a weighted mean of the logits of the cells around it. A cell weighs more the
nearer it lies and the more its colour is like that of the place. The weights depend on the image alone: they are
computed once an image and serve all names, and no name changes another's logits.

``RADIUS``, ``SPREAD`` and ``COLOUR`` were chosen on training images.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.inference.requests import Edges, checked_edges
from fusionerlib.models.base import SegmentationModel, Size
from fusionerlib.models.decoder import resize

FINER = 4
"""Places of the fine grid along one side of a cell."""
RADIUS = 2
"""Cells averaged on each side of a place's own: (2 ``RADIUS`` + 1)^2 in all."""
SPREAD = 2.0
"""Standard deviation of the weight by distance, in cells."""
COLOUR = 6.0
"""Standard deviation of the weight by colour, as a distance in CIELAB (2.3 is just noticeable)."""
MOST_CELLS = 128 * 128
"""Grids of more cells are enlarged bilinearly: their cells are already small in any picture."""
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
"""From linear sRGB to CIE XYZ (IEC 61966-2-1)."""
WHITE = (0.9505, 1.0, 1.089)
"""XYZ of sRGB's white (D65)."""


@dataclass(frozen=True)
class Guide:
    """What one image tells its masks: the weight of each neighbouring cell at each place of the fine grid.

    weights: 0-1, they sum to 1 over the neighbours; rows and columns are those of the coarse grid, ``down`` and
    ``right`` the places inside a cell.
    """

    weights: Float[Tensor, "neighbours down right rows columns"]

    @classmethod
    def of(cls, image: UInt8[np.ndarray, "height width 3"], grid: Size) -> "Guide | None":
        """The guide of ``image`` (RGB, 0-255) for logits on ``grid`` (rows, columns).

        None for a grid of more than ``MOST_CELLS`` cells, which is enlarged bilinearly.
        """
        rows, columns = grid
        if rows * columns > MOST_CELLS:
            return None
        small = Image.fromarray(image).resize((columns * FINER, rows * FINER), Image.Resampling.BOX)
        # Distances in standard deviations. A place's own square is the same for all its neighbours: softmax drops it.
        colours = lab(torch.from_numpy(np.array(small))) / COLOUR
        places = rearrange(colours, "(r down) (c right) lab -> lab down right r c", r=rows, c=columns).contiguous()
        cells = places.mean((1, 2))
        steps = torch.arange(-RADIUS, RADIUS + 1)
        inside = (torch.arange(FINER) + 0.5) / FINER - 0.5
        away = ((steps[:, None] - inside) / SPREAD).square() / 2
        scores = torch.empty(len(steps) ** 2, FINER, FINER, rows, columns)
        for score, own, (down, right) in zip(scores, _neighbours(cells), product(away, away), strict=True):
            torch.sub(-(down[:, None] + right)[..., None, None], own.square().sum(0) / 2, out=score)
            for channel, level in zip(places, own, strict=True):
                score.addcmul_(channel, level)
        return cls(scores.softmax(0))

    @property
    def grid(self) -> Size:
        """Rows and columns of the coarse grid."""
        return self.weights.shape[3], self.weights.shape[4]

    def __call__(self, coarse: Float[Tensor, "names rows columns"]) -> Float[Tensor, "names finerows finecolumns"]:
        """Logits on the fine grid: weighted means of ``coarse``, each name by itself.

        The bits of a name's logits are the same whatever other names are given.
        """
        coarse = self.pooled(coarse)
        fine = coarse.new_zeros(len(coarse), *self.weights.shape[1:])
        # Product and sum apart: fused they would round otherwise for another number of names.
        for own, weight in zip(_neighbours(coarse), self.weights, strict=True):
            fine += own[:, None, None] * weight
        return rearrange(fine, "k down right r c -> k (r down) (c right)")

    def pooled(self, coarse: Float[Tensor, "names rows columns"]) -> Float[Tensor, "names gridrows gridcolumns"]:
        """``coarse`` averaged over the guide's cells, where it comes on a finer grid, such as the input's size."""
        return coarse if coarse.shape[1:] == self.grid else F.interpolate(coarse[None], size=self.grid, mode="area")[0]


def enlarged(
    coarse: Float[Tensor, "names rows columns"], size: tuple[int, ...], *, guide: Guide | None
) -> Float[Tensor, "names height width"]:
    """Logits at ``size`` (height, width): through ``guide`` where there is one, then bilinearly."""
    fine = coarse if guide is None else guide(coarse)
    return fine if fine.shape[1:] == tuple(size) else resize(fine[None], (size[0], size[1]))[0]


def lab(colours: UInt8[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    """sRGB (0-255) as CIELAB: lightness 0-100, and two axes of colour of about -100 to 100."""
    levels = torch.arange(256) / 255
    linear = torch.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    xyz = linear[colours.long()] @ torch.tensor(TO_XYZ).T / torch.tensor(WHITE)
    bent = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-6) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = bent.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def chosen_edges(edges: str, model: SegmentationModel) -> Edges:
    """``edges``, or the default of ``model`` for "". Raises FusionerError for another word.

    The default is guided for models whose names are independent: they decide on the coarse grid. The others enlarge
    features, not logits, or follow the paper, and keep bilinear.
    """
    checked_edges(edges)
    return "guided" if edges == "guided" or (not edges and model.names_independent) else "bilinear"


def _neighbours(maps: Float[Tensor, "channels rows columns"]) -> list[Float[Tensor, "channels rows columns"]]:
    """The maps moved by each step of up to ``RADIUS`` cells, row by row; beyond the edge stand its own cells."""
    rows, columns = maps.shape[1:]
    padded = F.pad(maps[None], (RADIUS,) * 4, mode="replicate")[0]
    steps = range(2 * RADIUS + 1)
    return [padded[:, down : down + rows, right : right + columns] for down in steps for right in steps]
