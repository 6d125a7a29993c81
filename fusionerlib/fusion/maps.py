"""Word maps: each name's likeness to every patch, made into a mask by convolutions that all names share."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.fusion.decoder import resize
from fusionerlib.fusion.model import SegmentationModel

CLUES = 4
"""Maps made for each name: its likeness to the patch, to the image as a whole, and to the patches most like it; and its
plain cosine with the patch."""
MOST_ALIKE = 0.05
"""Share of the patches that count as most like a name."""
MOMENTUM = 0.02
"""Share of a training batch in the running statistics, once there were enough batches."""


class WordMaps(SegmentationModel):
    """Cost aggregation over likenesses of words and patches, by weights that all names share: no name changes another's
    logit.

    With an aligned pair the last ``text_width`` channels of a patch token are in the space of the words; otherwise
    a linear map into it is trained. A likeness is the product of word and patch, standardised by what the word would
    give on the patches of training (running mean and covariance of the tokens), so that it says the same of any name.
    ``context`` channels that no name has a part in bring in what the image looks like.
    """

    mean: Tensor
    covariance: Tensor
    pooled: Tensor
    batches: Tensor

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        if config.aligned and visual_width < text_width:
            raise FusionerError(
                f"aligned tokens of {visual_width} channels can't hold words of {text_width}: choose a pair in one "
                "space (visual_tokens = 'worded' for the packaged one), or set aligned = false"
            )
        self.projection = None if config.aligned else nn.Linear(visual_width, text_width)
        seen = visual_width - text_width if config.aligned and visual_width > text_width else visual_width
        self.context = nn.Sequential(nn.Conv2d(seen, config.context, 1), nn.GroupNorm(1, config.context), nn.GELU())
        width = config.width
        inside = (CLUES + config.context, *[width] * (config.depth - 1))
        self.coarse = nn.Sequential(*(_block(channels, width) for channels in inside))
        self.fine = nn.ModuleList(_block(width, width) for _ in config.decoder_scales)
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.head.bias, config.logit_bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout2d(config.dropout)
        self.register_buffer("mean", torch.zeros(text_width))
        self.register_buffer("covariance", torch.eye(text_width))
        self.register_buffer("pooled", torch.eye(text_width))
        self.register_buffer("batches", torch.zeros(()))

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> Float[Tensor, "batch names height width"]:
        """Logits as in ``SegmentationModel``; a name's do not depend on the other names at all."""
        self.check_widths(patch_tokens, text_tokens)
        alike = self._in_words(patch_tokens)
        if self.training:
            self._follow(alike.detach())
        names = text_tokens.shape[1]
        clues = rearrange(self._clues(alike, text_tokens), "b k c (h w) -> (b k) c h w", h=grid[0])
        seen = patch_tokens[..., : self.context[0].in_channels]
        context = self.dropout(self.context(rearrange(seen, "b (h w) c -> b c h w", h=grid[0])))
        maps = self.coarse(torch.cat([clues, repeat(context, "b c h w -> (b k) c h w", k=names)], dim=1))
        for scale, block in zip(self.config.decoder_scales, self.fine, strict=True):
            maps = block(resize(maps, (grid[0] * scale, grid[1] * scale)))
        logits: Tensor = resize(self.head(maps), size)
        return rearrange(logits, "(b k) 1 h w -> b k h w", k=names)

    def similarity(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch names height width"]:
        """Cosine (-1 to 1) between words and patches, before any convolution."""
        alike = F.normalize(self._in_words(patch_tokens), dim=-1)
        cosine = torch.einsum("bnd,bkd->bkn", alike, F.normalize(text_tokens, dim=-1))
        return rearrange(cosine, "b k (h w) -> b k h w", h=grid[0])

    def _in_words(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens in the space of the words."""
        if self.projection is not None:
            projected: Tensor = self.projection(patch_tokens)
            return projected
        return patch_tokens[..., -self.text_width :]

    def _clues(
        self, alike: Float[Tensor, "batch patches text"], words: Float[Tensor, "batch names text"]
    ) -> Float[Tensor, "batch names clues patches"]:
        """The maps that ``CLUES`` names, of unit size or so."""
        local = _standard(alike, words, mean=self.mean, covariance=self.covariance)
        whole = _standard(alike.mean(1, keepdim=True), words, mean=self.mean, covariance=self.pooled)
        most = max(1, round(MOST_ALIKE * alike.shape[1]))
        peak = local.topk(most, dim=-1).values.mean(-1, keepdim=True)
        count = alike.shape[1]
        cosine = torch.einsum("bnd,bkd->bkn", F.normalize(alike, dim=-1), words)
        return torch.stack([local, whole.expand(-1, -1, count), peak.expand(-1, -1, count), 8 * cosine], dim=2) / 2

    @torch.no_grad()
    def _follow(self, alike: Float[Tensor, "batch patches text"]) -> None:
        """Running mean and covariances of the tokens: averages over the first batches, then exponential."""
        self.batches += 1
        share = max(MOMENTUM, 1 / float(self.batches))
        flat, pooled = alike.flatten(0, 1), alike.mean(1)
        self.mean.lerp_(flat.mean(0), share)
        for kept, tokens in ((self.covariance, flat), (self.pooled, pooled)):
            off = tokens - self.mean
            kept.lerp_(off.T @ off / len(off), share)


def _standard(tokens: Tensor, words: Tensor, *, mean: Tensor, covariance: Tensor) -> Tensor:
    spread = torch.einsum("bkd,de,bke->bk", words, covariance, words).clamp(min=1e-12).sqrt()
    likeness = torch.einsum("bnd,bkd->bkn", tokens - mean, words)
    return likeness / spread[..., None]


def _block(inside: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU())
