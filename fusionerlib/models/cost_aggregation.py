"""Cost aggregation (the preset ``modern``): the similarity of a name to every patch, made into a mask by convolutions
that all names share.

Cost channels are maps of similarity between patches and one name. They are standardised by statistics of the training
patches, so that they mean the same for any name and the convolutions carry over to names that never trained.
"""

from abc import abstractmethod
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
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
RESIDUAL_WIDTH = 32
"""Channels inside ``ExampleResidual``."""
SMALL_MAP = 1024
"""Positions from which torch's group norm is fast on a CPU."""
LOGIT_UNIT = 4.0
"""Logits of the text are divided by it where they are an input of convolutions, and clamped to twice this."""

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
        # Divided by its sum after the product: there are fewer names than classes.
        total = patches.sum(-1).clamp(min=1e-12)[:, None]
        probability = torch.einsum("bnd,bkd->bkn", patches, posterior) / total
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


class ExampleResidual(nn.Module):
    """Logits that the examples of a name add to those of its text, at the resolution of the patch grid; 0 at first.

    Two convolutions over the example channels, the cost channels and logits of the text, and guidance channels of its
    own. guiding: channels of the patch tokens that it reads.
    """

    def __init__(self, guiding: int, *, guidance_channels: int, dropout: float) -> None:
        super().__init__()
        channels, width = guidance_channels, RESIDUAL_WIDTH
        self.guidance = _guidance(guiding, channels)
        self.dropout = nn.Dropout2d(dropout)
        inputs = EXAMPLE_CHANNELS + COST_CHANNELS + 1 + channels
        self.layers = nn.Sequential(_block(inputs, width), _block(width, width), nn.Conv2d(width, 1, 1))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        known: Float[Tensor, "maps examples rows columns"],
        costs: Float[Tensor, "maps costs rows columns"],
        logits: Float[Tensor, "maps 1 height width"],
        patches: Float[Tensor, "batch guiding rows columns"],
    ) -> Float[Tensor, "maps 1 rows columns"]:
        """Logits for each map: a name in an image. known, costs: its channels. logits: of the text, on a finer grid."""
        at_patches = F.adaptive_avg_pool2d(logits, (known.shape[-2], known.shape[-1])) / LOGIT_UNIT
        of_name = torch.cat([known, costs, at_patches.clamp(-2, 2)], dim=1)
        maps = _layers(self.layers[:-1], of_name, self.dropout(self.guidance(patches)))
        return _one_channel(self.layers[-1], maps)  # type: ignore[arg-type]


class CostAggregation(SegmentationModel):
    """Convolutions over the cost channels of one name and the guidance channels of the image, weights shared by names.

    ``depth`` convolutions at the resolution of the patch grid, then one that enlarges to each of ``decoder_scales``.
    No name changes another's logit. With ``examples``, the logits of a name that is known by labelled regions are those
    of its text plus an ``ExampleResidual``. With similarity ``cosine`` or ``class_posteriors`` the last ``text_width``
    channels of a patch token are in the space of the text tokens, with ``learned`` a linear projection into it is
    trained.
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
        self.guidance = _guidance(guiding, channels)
        inputs = (COST_CHANNELS + channels, *[width] * (config.depth - 1))
        self.coarse = nn.Sequential(*(_block(count, width) for count in inputs))
        inner, scales = config.decoder_width or width, config.decoder_scales
        widths = zip((width, *[inner] * len(scales)), pairwise((1, *scales)), strict=False)
        subpixel = config.upsample == "subpixel"
        self.fine = nn.ModuleList(
            _enlarging(count, inner, scale // before) if subpixel else _block(count, inner)
            for count, (before, scale) in widths
        )
        self.head = nn.Conv2d(inner if scales else width, 1, 1)
        nn.init.constant_(self.head.bias, config.logit_bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout2d(config.dropout)
        if config.examples:
            self.examples = ExampleTable(width=guiding)
            self.residual = ExampleResidual(guiding, guidance_channels=channels, dropout=config.dropout)
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
    ) -> Float[Tensor, "batch paths height width"]:
        """Logits as in ``SegmentationModel``.

        In training mode a model that is given examples returns the logits of all names by their text alone, then those
        with examples: (batch, 2 * names, height, width). Each of the two has a loss, and neither changes the other's
        weights: a name without examples gets what it would get from a model that knows none.
        """
        self.check_widths(patch_tokens, text_tokens)
        names, has_examples = text_tokens.shape[1], text_tokens.shape[-1] > self.text_width
        channels = self.cost_channels(patch_tokens, text_tokens)
        costs, known = rearrange(channels, "b k c (h w) -> (b k) c h w", h=grid[0]).tensor_split([COST_CHANNELS], dim=1)
        guiding = rearrange(patch_tokens[..., : self.guiding], "b (h w) c -> b c h w", h=grid[0])
        maps = _layers(self.coarse, costs, self.dropout(self.guidance(guiding)))
        for scale, block in zip(self.config.decoder_scales, self.fine, strict=True):
            if self.config.upsample != "subpixel":
                maps = resize(maps, (grid[0] * scale, grid[1] * scale))
            maps = block(maps)
        of_text = _one_channel(self.head, maps)
        logits = of_text.detach() if self.training and has_examples else of_text
        if self.config.confidence_rescaling and (has_examples or not self.training):
            logits = _rescaled(logits, self.config.confidence_rescaling * _mean_in_mask(logits, 2 * costs[:, :1]))
        if has_examples:
            residual = resize(self.residual(known, costs, logits, guiding), (logits.shape[-2], logits.shape[-1]))
            logits = logits + residual * (known[:, -1:, :1, :1] > 0)
        paths = [of_text, logits] if self.training and has_examples else [logits]
        return torch.cat([rearrange(resize(path, size), "(b k) 1 h w -> b k h w", k=names) for path in paths], dim=1)

    def cost_channels(self, patch_tokens: PatchTokens, text_tokens: TextTokens) -> CostChannels:
        """The ``COST_CHANNELS`` of each text token, then the ``EXAMPLE_CHANNELS`` where it is followed by examples."""
        text, known = text_tokens[..., : self.text_width], text_tokens[..., self.text_width :]
        # Ratios of small numbers, which half precision would round to noise.
        with torch.autocast(patch_tokens.device.type, enabled=False):
            costs = self.statistics.cost_channels(self._in_text_space(patch_tokens).float(), text.float())
            if self.examples is None or not known.shape[-1]:
                return costs
            own = example_channels(patch_tokens[..., : self.guiding].float(), known.float(), self.examples.mean)
            return torch.cat([costs, own], dim=2)

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


def _layers(
    layers: nn.Sequential,
    of_name: Float[Tensor, "maps own rows columns"],
    of_image: Float[Tensor, "batch shared rows columns"],
) -> Tensor:
    """``layers`` over the channels of each name, followed by those of its image, which all names share.

    The first convolution is a sum over channels, so the share of ``of_image`` is computed once an image.
    """
    first: nn.Conv2d = layers[0][0]  # type: ignore[index]
    own, shared = first.weight.tensor_split([of_name.shape[1]], dim=1)
    ahead = F.conv2d(of_image, shared, first.bias, padding=first.padding)
    # The channels of a name are a part of a larger tensor; as one, in this layout, they take two thirds of the time.
    maps = F.conv2d(of_name.contiguous(memory_format=torch.channels_last), own, padding=first.padding)
    maps = (maps.unflatten(0, (len(of_image), -1)) + ahead[:, None]).flatten(0, 1)
    done: Tensor = layers[1:](layers[0][1:](maps))  # type: ignore[index]
    return done


def _one_channel(convolution: nn.Conv2d, maps: Float[Tensor, "maps channels height width"]) -> Tensor:
    """A 1 x 1 convolution to one channel, as a product: on a CPU torch's convolution takes ten times as long."""
    product = F.linear(rearrange(maps, "n c h w -> n h w c"), convolution.weight.flatten(1), convolution.bias)
    return rearrange(product, "n h w 1 -> n 1 h w")


def _guidance(guiding: int, channels: int) -> nn.Sequential:
    """The guidance channels of the image, of the ``guiding`` channels of its patch tokens."""
    return nn.Sequential(nn.Conv2d(guiding, channels, 1), nn.GroupNorm(1, channels), nn.GELU())


def _enlarging(inputs: int, width: int, factor: int) -> nn.Sequential:
    """A convolution whose channels become ``factor`` x ``factor`` positions (Shi et al., CVPR 2016: sub-pixel).

    It costs a quarter of a convolution after bilinear resizing by 2, and most of the time of a model was that one.
    """
    convolution = nn.Conv2d(inputs, width * factor**2, 3, padding=1)
    return nn.Sequential(convolution, nn.PixelShuffle(factor), _MapNorm(8, width), nn.GELU())


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), _MapNorm(8, width), nn.GELU())


class _MapNorm(nn.GroupNorm):
    """Group norm. On a CPU torch's takes three times as long for small maps whose channels are last, which is why they
    are normalised here where no gradient is wanted.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if torch.is_grad_enabled() or maps.device.type != "cpu" or maps.shape[-2] * maps.shape[-1] >= SMALL_MAP:
            normalised: Tensor = super().forward(maps)
            return normalised
        flat = rearrange(maps.float(), "n c h w -> n (h w) c")
        groups = torch.stack([flat.mean(1), (flat * flat).mean(1)])
        groups = groups.unflatten(2, (self.num_groups, -1)).mean(3, keepdim=True)
        mean, square = groups.expand(-1, -1, -1, maps.shape[1] // self.num_groups).flatten(2)
        scale = self.weight * (square - mean * mean).clamp(min=0).add(self.eps).rsqrt()
        scaled = torch.addcmul((self.bias - mean * scale)[:, None], flat, scale[:, None])
        return rearrange(scaled.to(maps.dtype), "n (h w) c -> n c h w", h=maps.shape[-2])
