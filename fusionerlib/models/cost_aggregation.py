"""Cost aggregation (the preset ``modern``): the similarity of a name to every patch, made into a mask by convolutions
that all names share.

Cost channels are maps of similarity between patches and one name. They are standardised by statistics of the training
patches, so that they mean the same for any name and the convolutions carry over to names that never trained.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models.base import Logits, NamesMask, PatchTokens, SegmentationModel, Size, TextTokens
from fusionerlib.models.decoder import resize
from fusionerlib.models.examples import ADDED, EXAMPLE_CHANNELS, ExampleTable, example_channels, top_mean

COST_CHANNELS = 4
"""Maps made for each name: its standardised similarity to the patch, to the whole image, and to the patches most
similar to it (the latter two constant over the image); and the similarity to the patch, not standardised."""
MOMENTUM = 0.02
"""Weight of a training batch in the running statistics, once there were 1 / MOMENTUM batches."""
ODDS_FLOOR = 0.01
"""Added to a ratio of probabilities before its logarithm."""
MAX_SIMILARITY = 3.0
"""Confidence rescaling clamps the mean similarity to +-this, in standard deviations or log odds."""
CERTAIN_RATIO = 2.0
"""Mean log likelihood ratio of the examples inside a mask, in their units, from which they do not lower confidence."""

Patches = Float[Tensor, "batch patches text"]
"""Patch tokens in the space of the text tokens."""
CostChannels = Float[Tensor, "batch names costs patches"]


class SimilarityStatistics(nn.Module):
    """Compares patches with text tokens of one space, given running statistics of the training patches."""

    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros(()))

    @abstractmethod
    def cost_channels(self, patches: Patches, text: TextTokens) -> CostChannels:
        """The maps of ``COST_CHANNELS``, of about unit size; those of a name do not depend on the other names."""

    @torch.no_grad()
    def update(self, patches: Patches) -> None:
        """Update the running statistics with one batch: the average of all batches at first, then exponential."""
        self.batches += 1
        self._blend(patches, (1 / self.batches).clamp(min=MOMENTUM))

    @abstractmethod
    def _blend(self, patches: Patches, weight: Tensor) -> None:
        """Move the statistics towards those of ``patches`` by ``weight`` (0-1)."""


class CosineSimilarity(SimilarityStatistics):
    """For embeddings such as CLIP's: (p - mean) . t / sqrt(t' C t), with mean and covariance C of the training patches.

    That is the product of patch p and text token t in standard deviations of its values on training patches. The
    similarity that is not standardised is the cosine. width: channels of a text token.
    """

    mean: Tensor
    covariance: Tensor
    pooled: Tensor
    """Covariance of the mean token of an image, for the similarity to the whole image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.eye(width))
        self.register_buffer("pooled", torch.eye(width))

    def cost_channels(self, patches: Patches, text: TextTokens) -> CostChannels:
        """The maps of ``COST_CHANNELS``."""
        local = _standardised(patches, text, mean=self.mean, covariance=self.covariance)
        whole = _standardised(patches.mean(1, keepdim=True), text, mean=self.mean, covariance=self.pooled)
        cosine = torch.einsum("bnd,bkd->bkn", F.normalize(patches, dim=-1), text)
        maps = torch.broadcast_tensors(local, whole, top_mean(local), 8 * cosine)
        return torch.stack(maps, dim=2) / 2

    def _blend(self, patches: Patches, weight: Tensor) -> None:
        flat, pooled = patches.flatten(0, 1), patches.mean(1)
        self.mean.lerp_(flat.mean(0), weight)
        for kept, tokens in ((self.covariance, flat), (self.pooled, pooled)):
            off = tokens - self.mean
            kept.lerp_(off.T @ off / len(off), weight)


class ClassPosteriorSimilarity(SimilarityStatistics):
    """For distributions over the classes of one classifier: log(sum_c p_c t_c / sum_c prior_c t_c).

    The sum is the probability that patch p and name t mean the same class; ``prior`` is the mean distribution of the
    training patches. The similarity that is not standardised is the log probability. Neither side needs to sum to 1.
    width: number of classes.
    """

    prior: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("prior", torch.full((width,), 1 / width))

    def cost_channels(self, patches: Patches, text: TextTokens) -> CostChannels:
        """The maps of ``COST_CHANNELS``."""
        posterior = text / text.sum(-1, keepdim=True).clamp(min=1e-12)
        probability = torch.einsum("bnd,bkd->bkn", _sum_to_one(patches), posterior)
        odds = probability / (posterior @ self.prior)[..., None].clamp(min=1e-12)
        ratios = (odds, odds.mean(-1, keepdim=True), top_mean(odds))
        plain = (probability + 1e-4).log() / 2 + 2
        return torch.stack(torch.broadcast_tensors(*((ratio + ODDS_FLOOR).log() for ratio in ratios), plain), dim=2) / 2

    def _blend(self, patches: Patches, weight: Tensor) -> None:
        self.prior.lerp_(_sum_to_one(patches).mean((0, 1)), weight)


def _sum_to_one(patches: Tensor) -> Tensor:
    """Distributions again, of tokens that were scaled to unit length."""
    return patches / patches.sum(-1, keepdim=True).clamp(min=1e-12)


def _standardised(tokens: Tensor, text: Tensor, *, mean: Tensor, covariance: Tensor) -> Tensor:
    deviation = torch.einsum("bkd,de,bke->bk", text, covariance, text).clamp(min=1e-12).sqrt()
    products = torch.einsum("bnd,bkd->bkn", tokens - mean, text)
    return products / deviation[..., None]


class CostAggregation(SegmentationModel):
    """Convolutions over the cost channels of one name and the guidance channels of the image, weights shared by names.

    ``depth`` convolutions at the resolution of the patch grid, then one at each of ``decoder_scales``. No name changes
    another's logit. With ``examples``, names known by labelled regions have ``EXAMPLE_CHANNELS`` more cost channels.
    With similarity ``cosine`` or ``class_posteriors`` the last ``text_width`` channels of a patch
    token are in the space of the text tokens, with ``learned`` a linear projection into it is trained.
    """

    names_independent = True

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        shared = config.similarity != "learned"
        if shared and visual_width < text_width:
            raise FusionerError(
                f"similarity {config.similarity!r}: patch tokens of {visual_width} channels can't end in the "
                f"{text_width} channels of the text tokens: choose a pair in one space (visual_tokens and text_tokens "
                "'class_posteriors' for the packaged one), or similarity = 'learned'"
            )
        self.projection = None if shared else nn.Linear(visual_width, text_width)
        posteriors = config.similarity == "class_posteriors"
        self.statistics: SimilarityStatistics = (ClassPosteriorSimilarity if posteriors else CosineSimilarity)(
            text_width
        )
        guiding = visual_width - text_width if shared and visual_width > text_width else visual_width
        self.guiding = guiding
        channels, width = config.guidance_channels, config.width
        self.guidance = nn.Sequential(nn.Conv2d(guiding, channels, 1), nn.GroupNorm(1, channels), nn.GELU())
        self.costs = COST_CHANNELS
        if config.examples:
            self.examples, self.costs = ExampleTable(width=guiding), COST_CHANNELS + EXAMPLE_CHANNELS
        inputs = (self.costs + channels, *[width] * (config.depth - 1))
        self.coarse = nn.Sequential(*(_block(count, width) for count in inputs))
        self.fine = nn.ModuleList(_block(width, width) for _ in config.decoder_scales)
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.head.bias, config.logit_bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout2d(config.dropout)
        # A fifth less time on a CPU: maps in this layout are enlarged without being copied.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        patch_tokens: PatchTokens,
        text_tokens: TextTokens,
        *,
        grid: Size,
        size: Size,
        names_mask: NamesMask | None = None,
    ) -> Logits:
        """Logits as in ``SegmentationModel``."""
        self.check_widths(patch_tokens, text_tokens)
        names = text_tokens.shape[1]
        costs = rearrange(self.cost_channels(patch_tokens, text_tokens), "b k c (h w) -> (b k) c h w", h=grid[0])
        guiding = rearrange(patch_tokens[..., : self.guiding], "b (h w) c -> b c h w", h=grid[0])
        guidance = repeat(self.dropout(self.guidance(guiding)), "b c h w -> (b k) c h w", k=names)
        maps = self.coarse(torch.cat([costs, guidance], dim=1))
        for scale, block in zip(self.config.decoder_scales, self.fine, strict=True):
            maps = block(resize(maps, (grid[0] * scale, grid[1] * scale)))
        logits: Tensor = self.head(maps)
        if self.config.confidence_rescaling and not self.training:
            logits = _rescaled(logits, self._confidence(logits, costs))
        return rearrange(resize(logits, size), "(b k) 1 h w -> b k h w", k=names)

    def cost_channels(self, patch_tokens: PatchTokens, text_tokens: TextTokens) -> CostChannels:
        """All cost channels of each name: those of the text token, then those of its examples if the model has them."""
        text, known = text_tokens[..., : self.text_width], text_tokens[..., self.text_width :]
        # Ratios of small numbers, which half precision would round to noise.
        with torch.autocast(patch_tokens.device.type, enabled=False):
            costs = self.statistics.cost_channels(self._in_text_space(patch_tokens).float(), text.float())
            if self.examples is None:
                return costs
            if not known.shape[-1]:
                return F.pad(costs, (0, 0, 0, EXAMPLE_CHANNELS))
            own = example_channels(patch_tokens[..., : self.guiding].float(), known.float(), self.examples.mean)
            return torch.cat([costs, own], dim=2)

    def _confidence(self, logits: Tensor, costs: Tensor) -> Float[Tensor, "maps 1 1 1"]:
        """How certain it is what the predicted mask shows: mean similarity inside it, of the text and of the examples.

        Examples only lower it, where the mask does not look like them, and by their strength: a bonus would let names
        with examples take the pixels of names without.
        """
        similarity = _mean_in_mask(logits, 2 * costs[:, :1])
        if self.examples is not None:
            ratio, strength = COST_CHANNELS, COST_CHANNELS + EXAMPLE_CHANNELS - 1
            own = _mean_in_mask(logits, costs[:, ratio : ratio + 1]) - CERTAIN_RATIO
            known = costs[:, strength : strength + 1, :1, :1]
            similarity = similarity + known * own.clamp(-MAX_SIMILARITY, 0)
        return self.config.confidence_rescaling * similarity

    def check_widths(self, patch_tokens: Tensor, text_tokens: Tensor) -> None:
        """As in ``SegmentationModel``; text tokens may be followed by those of examples."""
        known = text_tokens.shape[-1] == self.text_width + self.guiding + ADDED and self.examples is not None
        super().check_widths(patch_tokens, text_tokens[..., : self.text_width] if known else text_tokens)

    @torch.no_grad()
    def update_statistics(self, patch_tokens: PatchTokens) -> None:
        """Update the running similarity statistics with one batch."""
        self.statistics.update(self._in_text_space(patch_tokens).float())

    def similarity(self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size) -> Logits:
        """Cosine (-1 to 1) between text tokens and patches, before any convolution."""
        text_tokens = text_tokens[..., : self.text_width]
        patches = F.normalize(self._in_text_space(patch_tokens), dim=-1)
        cosine = torch.einsum("bnd,bkd->bkn", patches, F.normalize(text_tokens, dim=-1))
        return rearrange(cosine, "b k (h w) -> b k h w", h=grid[0])

    def patch_similarity(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens
    ) -> Float[Tensor, "batch names patches"]:
        """The first cost channel: half of the standardised similarity of each patch to each name."""
        text = text_tokens[..., : self.text_width]
        costs: Tensor = self.statistics.cost_channels(self._in_text_space(patch_tokens), text)
        return costs[:, :, 0]

    def _in_text_space(self, patch_tokens: Tensor) -> Tensor:
        if self.projection is not None:
            projected: Tensor = self.projection(patch_tokens)
            return projected
        return patch_tokens[..., -self.text_width :]


def _mean_in_mask(
    logits: Float[Tensor, "maps 1 height width"], similarity: Float[Tensor, "maps 1 rows columns"]
) -> Float[Tensor, "maps 1 1 1"]:
    """Mean similarity of a name over its own predicted mask, patches weighed by their probability."""
    inside = F.adaptive_avg_pool2d(logits.float().sigmoid(), (similarity.shape[-2], similarity.shape[-1]))
    # The 1 pulls the mean of a mask smaller than a patch towards 0.
    mean = (inside * similarity).sum((2, 3), keepdim=True) / (inside.sum((2, 3), keepdim=True) + 1)
    return mean.clamp(-MAX_SIMILARITY, MAX_SIMILARITY)


def _rescaled(logits: Tensor, confidence: Float[Tensor, "maps 1 1 1"]) -> Tensor:
    """Positive logits times exp(confidence), negative ones divided by it: a certain name is nearer to every pixel.

    That moves no border at probability 0.5 but decides between names that claim the same pixel, or that are forced to
    share all pixels. The convolutions were trained on seen names and favour them; the confidence does not.
    """
    return logits * torch.where(logits > 0, confidence, -confidence).exp()


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU())
