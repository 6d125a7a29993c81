"""How like each patch is to each name, as maps that say the same of any name.

Word maps: each name's likeness to every patch, made into a mask by convolutions that all names share.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models.base import SegmentationModel
from fusionerlib.models.decoder import resize

CLUES = 4
"""Maps made for each name: its likeness to the patch, to the image as a whole, and to the patches most like it, each by
what is usual for that name; and a plain likeness to the patch."""
MOST_ALIKE = 0.05
"""Share of the patches that count as most like a name."""
MOMENTUM = 0.02
"""Share of a training batch in the running statistics, once there were enough batches."""
FLOOR = 0.01
"""Added to a ratio of probabilities before its logarithm."""

Patches = Float[Tensor, "batch patches text"]
Words = Float[Tensor, "batch names text"]
Clues = Float[Tensor, "batch names clues patches"]


class TokenSimilarity(nn.Module):
    """Compares patch tokens and text tokens of one space, by running statistics of the patches that trained."""

    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros(()))

    @abstractmethod
    def clues(self, patches: Patches, words: Words) -> Clues:
        """The maps that ``CLUES`` names, of unit size or so; a name's do not depend on the other names."""

    @torch.no_grad()
    def follow(self, patches: Patches) -> None:
        """Takes a training batch into the statistics: averages over the first batches, then exponential."""
        self.batches += 1
        self._lerp(patches, (1 / self.batches).clamp(min=MOMENTUM))

    @abstractmethod
    def _lerp(self, patches: Patches, share: Tensor) -> None: ...


class CosineSimilarity(TokenSimilarity):
    """Products of words and patches, standardised by what the word would give on the patches of training (their mean
    and covariance); the plain one is the cosine. For embeddings such as CLIP's. width: channels of a word."""

    mean: Tensor
    covariance: Tensor
    pooled: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.eye(width))
        self.register_buffer("pooled", torch.eye(width))

    def clues(self, patches: Patches, words: Words) -> Clues:
        """The maps that ``CLUES`` names."""
        local = _standard(patches, words, mean=self.mean, covariance=self.covariance)
        whole = _standard(patches.mean(1, keepdim=True), words, mean=self.mean, covariance=self.pooled)
        cosine = torch.einsum("bnd,bkd->bkn", F.normalize(patches, dim=-1), words)
        maps = torch.broadcast_tensors(local, whole, _peak(local), 8 * cosine)
        return torch.stack(maps, dim=2) / 2

    def _lerp(self, patches: Patches, share: Tensor) -> None:
        flat, pooled = patches.flatten(0, 1), patches.mean(1)
        self.mean.lerp_(flat.mean(0), share)
        for kept, tokens in ((self.covariance, flat), (self.pooled, pooled)):
            off = tokens - self.mean
            kept.lerp_(off.T @ off / len(off), share)


class ClassPosteriorSimilarity(TokenSimilarity):
    """Both sides are distributions over the classes of one classifier: the chance that patch and name mean the same
    class, as log odds against the average patch of training; the plain one is the log chance itself.

    Neither side needs to sum to 1. width: number of classes.
    """

    prior: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("prior", torch.full((width,), 1 / width))

    def clues(self, patches: Patches, words: Words) -> Clues:
        """The maps that ``CLUES`` names."""
        meant = words / words.sum(-1, keepdim=True).clamp(min=1e-12)
        chance = torch.einsum("bnd,bkd->bkn", _summed(patches), meant)
        odds = chance / (meant @ self.prior)[..., None].clamp(min=1e-12)
        ratios = (odds, odds.mean(-1, keepdim=True), _peak(odds))
        plain = (chance + 1e-4).log() / 2 + 2
        return torch.stack(torch.broadcast_tensors(*((ratio + FLOOR).log() for ratio in ratios), plain), dim=2) / 2

    def _lerp(self, patches: Patches, share: Tensor) -> None:
        self.prior.lerp_(_summed(patches).mean((0, 1)), share)


def _summed(patches: Tensor) -> Tensor:
    """Distributions from tokens that were scaled to unit length."""
    return patches / patches.sum(-1, keepdim=True).clamp(min=1e-12)


def _peak(likeness: Tensor) -> Tensor:
    most = max(1, round(MOST_ALIKE * likeness.shape[-1]))
    return likeness.topk(most, dim=-1).values.mean(-1, keepdim=True)


def _standard(tokens: Tensor, words: Tensor, *, mean: Tensor, covariance: Tensor) -> Tensor:
    spread = torch.einsum("bkd,de,bke->bk", words, covariance, words).clamp(min=1e-12).sqrt()
    likeness = torch.einsum("bnd,bkd->bkn", tokens - mean, words)
    return likeness / spread[..., None]


MOST = 3.0
"""Evidence counts up to this, in units of likeness."""


class CostAggregation(SegmentationModel):
    """Cost aggregation over likenesses of words and patches, by weights that all names share: no name changes another's
    logit.

    With ``likeness`` ``cosine`` or ``classes`` the last ``text_width`` channels of a patch token are in the space of
    the words, embeddings or distributions over classes; with ``learned`` a linear map into it is trained. ``context``
    channels that no name has a part in bring in what the image looks like.
    """

    names_independent = True

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        shared = config.likeness != "learned"
        if shared and visual_width < text_width:
            raise FusionerError(
                f"likeness {config.likeness!r}: patch tokens of {visual_width} channels can't hold words of "
                f"{text_width}: choose a pair in one space (visual_tokens and text_tokens 'class_posteriors' for the "
                "packaged one), or likeness = 'learned'"
            )
        self.projection = None if shared else nn.Linear(visual_width, text_width)
        self.likeness: TokenSimilarity = (
            ClassPosteriorSimilarity if config.likeness == "classes" else CosineSimilarity
        )(text_width)
        seen = visual_width - text_width if shared and visual_width > text_width else visual_width
        self.context = nn.Sequential(nn.Conv2d(seen, config.context, 1), nn.GroupNorm(1, config.context), nn.GELU())
        width = config.width
        inside = (CLUES + config.context, *[width] * (config.depth - 1))
        self.coarse = nn.Sequential(*(_block(channels, width) for channels in inside))
        self.fine = nn.ModuleList(_block(width, width) for _ in config.decoder_scales)
        self.presence = nn.Linear(2 * width, 1) if config.presence else None
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.head.bias, config.logit_bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout2d(config.dropout)

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
        names = text_tokens.shape[1]
        # Ratios of small numbers: in half precision they would be noise.
        with torch.autocast(alike.device.type, enabled=False):
            clues = self.likeness.clues(alike.float(), text_tokens.float())
        clues = rearrange(clues, "b k c (h w) -> (b k) c h w", h=grid[0])
        seen = patch_tokens[..., : self.context[0].in_channels]
        context = self.dropout(self.context(rearrange(seen, "b (h w) c -> b c h w", h=grid[0])))
        maps = self.coarse(torch.cat([clues, repeat(context, "b c h w -> (b k) c h w", k=names)], dim=1))
        there = self._there(maps)
        for scale, block in zip(self.config.decoder_scales, self.fine, strict=True):
            maps = block(resize(maps, (grid[0] * scale, grid[1] * scale)))
        logits: Tensor = self.head(maps) + there
        if self.config.evidence and not self.training:
            logits = logits * (self.config.evidence * _evidence(logits, clues[:, :1])).exp()
        logits = resize(logits, size)
        return rearrange(logits, "(b k) 1 h w -> b k h w", k=names)

    @torch.no_grad()
    def follow(self, patch_tokens: Float[Tensor, "batch patches visual"]) -> None:
        """Takes the tokens of a training batch into what is usual for a name."""
        self.likeness.follow(self._in_words(patch_tokens).float())

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

    def local_likeness(
        self, patch_tokens: Float[Tensor, "batch patches visual"], text_tokens: Float[Tensor, "batch names text"]
    ) -> Float[Tensor, "batch names patches"]:
        """Half of how like each patch is to each name, by what is usual for that name: the first of the clues."""
        clues: Tensor = self.likeness.clues(self._in_words(patch_tokens), text_tokens)
        return clues[:, :, 0]

    def _there(self, maps: Float[Tensor, "maps channels rows columns"]) -> Tensor:
        """What the whole image says of each name, added to its logits."""
        if self.presence is None:
            return maps.new_zeros(())
        score: Tensor = self.presence(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))
        return score[..., None, None]

    def _in_words(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens in the space of the words."""
        if self.projection is not None:
            projected: Tensor = self.projection(patch_tokens)
            return projected
        return patch_tokens[..., -self.text_width :]


def _evidence(logits: Float[Tensor, "maps 1 h w"], local: Float[Tensor, "maps 1 rows columns"]) -> Tensor:
    """How like a name the patches are, on average, that its own map paints.

    Logits are stretched by it, so no mask at a half changes, but names that want the same pixel do: shapes are learnt
    on seen names, which would win too often; what the frozen towers say favours no name.
    """
    chances = F.adaptive_avg_pool2d(logits.float().sigmoid(), (local.shape[-2], local.shape[-1]))
    # Clues are halved likenesses. A map that paints less than a patch has little to go by.
    mean = 2 * (chances * local).sum((2, 3), keepdim=True) / (chances.sum((2, 3), keepdim=True) + 1)
    return mean.clamp(-MOST, MOST)


def _block(inside: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU())
