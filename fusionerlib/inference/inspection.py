"""Inspection of features: patch tokens of sample photos, attention, and similarity between names and patches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.datasets.scene import Scene
from fusionerlib.encoders.base import TokenMap, VisualEncoder, VisualTokens
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import list_encoders, load_text, load_visual
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError
from fusionerlib.models import SegmentationModel


def encode_image(visual: VisualEncoder, image: UInt8[Tensor, "height width 3"]) -> VisualTokens:
    """All token maps of one RGB image (0-255), as a batch of one. Both sides must be multiples the encoder accepts."""
    return visual(rearrange(image, "h w c -> 1 c h w"))


def sample_photo(name: str, *, multiple: int, height: int = 320) -> UInt8[Tensor, "height width 3"]:
    """A colour photo of ``skimage.data`` (chelsea, coffee, astronaut, ...) about ``height`` pixels high, RGB 0-255.

    Both sides are rounded to a multiple of ``multiple``. Raises FusionerError where scikit-image has no such photo.
    """
    from skimage import data

    try:
        photo = np.asarray(getattr(data, name)())
    except (AttributeError, TypeError, OSError) as error:
        raise FusionerError(f"no sample photo {name!r}: try chelsea, coffee, astronaut or rocket") from error
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise FusionerError(f"sample {name!r} is no colour photo: try chelsea, coffee, astronaut or rocket")
    sides = (photo.shape[1] * height / photo.shape[0], height)
    width, height = (max(1, round(side / multiple)) * multiple for side in sides)
    return torch.from_numpy(np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)))


@dataclass(frozen=True)
class EncodedPhoto:
    """One photo encoded by several visual encoders.

    maps: the main token map, by encoder. scores: cosines (-1 to 1) between names and patches, for the encoders that
    have an installed text encoder in the same embedding space. missing: why an encoder is not in ``maps``.
    """

    maps: dict[str, TokenMap]
    scores: dict[str, Float[Tensor, "names rows columns"]]
    missing: dict[str, str]


def encode_photo(photo: str, encoders: Sequence[str], names: Sequence[str], *, height: int = 320) -> EncodedPhoto:
    """Encode a sample photo with each of the visual ``encoders`` whose weights are on this machine.

    photo, height: as in ``sample_photo``. names: compared with the patches where the embedding space is shared.
    """
    maps, scores, missing = {}, {}, {}
    for encoder in encoders:
        try:
            visual = load_visual(encoder)
        except FusionerError as error:
            missing[encoder] = str(error)
            continue
        tokens = encode_image(visual, sample_photo(photo, multiple=visual.multiple, height=height)).main
        maps[encoder] = tokens
        texts = [row for row in list_encoders("text") if row.space == tokens.space and present(row)]
        if texts:
            text_tokens = load_text(texts[0].name)(names, templates("photo"))
            heat = text_tokens @ F.normalize(tokens.tokens[0], dim=-1).T
            scores[encoder] = rearrange(heat, "k (h w) -> k h w", h=tokens.grid[0])
    return EncodedPhoto(maps=maps, scores=scores, missing=missing)


def sample_scene(*, size: int, seed: int = 0) -> Scene:
    """A Mosaic-4 scene of ``size`` x ``size`` pixels: four OpenMoji glyphs, two of them recoloured.

    seed: of their positions and sizes.
    """
    from fusionerlib.datasets.mosaics import mosaic
    from fusionerlib.datasets.openmoji import glyphs

    scenes = []
    for place, (colour, thing) in enumerate(
        (("", "penguin"), ("blue", "bicycle"), ("", "mushroom"), ("pink", "elephant"))
    ):
        glyph = glyphs.draw(glyphs.things()[thing])
        glyph = glyphs.tint(glyph, colour) if colour else glyph
        image, mask = glyphs.posed(glyph, size=size, rng=np.random.default_rng((seed, place)))
        labels = (np.asarray(mask) >= 128).astype(np.uint8)
        scenes.append(Scene(image=np.array(image), labels=labels, names=(f"{colour} {thing}".strip(),), key=thing))
    return mosaic(scenes, size=size)


def patch_similarity(tokens: TokenMap, *, row: int, column: int) -> Float[Tensor, "rows columns"]:
    """Cosine (-1 to 1) between the patch at (``row``, ``column``) of the first image and all patches of that image."""
    unit = F.normalize(tokens.tokens[0], dim=-1)
    return rearrange(unit @ unit[row * tokens.grid[1] + column], "(h w) -> h w", h=tokens.grid[0])


@torch.no_grad()
def text_attention(
    model: SegmentationModel, tokens: VisualTokens, text_tokens: Float[Tensor, "names dim"]
) -> Float[Tensor, "layers names rows columns"]:
    """Attention of each text token to each patch token, by layer: mean over heads, 0-1.

    Text tokens also attend to text tokens, so the sum over all patches is at most 1.
    Raises FusionerError for a model in which text tokens do not attend to patches, such as late fusion.
    """
    layers = model.attention(tokens.main.tokens, text_tokens[None])
    if not layers:
        raise FusionerError(f"a model of kind {model.config.kind!r} has no attention between text tokens and patches")
    patches = tokens.main.tokens.shape[1]
    rows = torch.stack([layer[0].mean(0)[patches:, :patches] for layer in layers])
    return rearrange(rows, "l k (h w) -> l k h w", h=tokens.main.grid[0])


@torch.no_grad()
def similarity(
    model: SegmentationModel, tokens: VisualTokens, text_tokens: Float[Tensor, "names dim"]
) -> Float[Tensor, "names rows columns"]:
    """Cosine (-1 to 1) between fused text tokens and fused pixel features, at the resolution of the model's head."""
    return model.similarity(tokens.main.tokens, text_tokens[None], grid=tokens.main.grid)[0]
