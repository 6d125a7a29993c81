"""Names known by examples: labelled regions of images give a name a direction in the space of the visual tokens.

The mean visual token of a name's regions and one covariance shared by all names are a linear discriminant. The log
likelihood ratio of a patch with token x is that of the two Gaussians N(m, C), the name's, and N(m0, C), all patches:
(m - m0)' C^-1 (x - (m + m0) / 2). It is computed in closed form, and no name changes another's.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fusionerlib.errors import FusionerError

SHRINKAGE = 0.3
"""Weight of the multiple of the identity in the shared covariance."""
PRIOR_EXAMPLES = 2.0
"""The mean of a name is that of its regions and of this many regions at the mean of all patches."""
HALF_STRENGTH = 5.0
"""Number of regions with which a name has a strength of a half."""
ADDED = 4
"""Channels of ``ExampleTable.tokens`` beside the direction: offset, deviation, strength, scale."""
EXAMPLE_CHANNELS = 5
"""Cost channels of a name with examples: the log likelihood ratio at the patch, the same standardised, its mean over
the image, its mean over the patches where it is largest, and the strength."""
TOP_SHARE = 0.05
"""Share of the patches that count as most similar to a name."""
LARGEST = 6.0
"""Log likelihood ratios are clamped to +-this, in units of their spread over training patches."""

Regions = Float[Tensor, "regions visual"]
"""The mean visual token of each region."""


class ExampleTable(nn.Module):
    """Sums of the region tokens of each name, and the mean and precision of the visual tokens, which stay fixed.

    names: those with examples. width: channels of a visual token.
    """

    mean: Tensor
    precision: Tensor
    covariance: Tensor
    scale: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str] = (), *, width: int) -> None:
        super().__init__()
        self.names = list(names)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("precision", torch.eye(width))
        self.register_buffer("covariance", torch.eye(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("sums", torch.zeros(len(self.names), width))
        self.register_buffer("counts", torch.zeros(len(self.names)))
        self._kept: tuple[list[tuple[Tensor, int]], dict[str, Tensor]] = ([], {})

    @property
    def width(self) -> int:
        """Channels of a visual token."""
        return len(self.mean)

    def resize(self, names: Sequence[str]) -> None:
        """Replace all names by ``names`` without examples, as before their sums and counts are loaded."""
        self.names = list(names)
        self.sums = self.mean.new_zeros(len(self.names), self.width)
        self.counts = self.mean.new_zeros(len(self.names))

    def add(self, name: str, total: Float[Tensor, " visual"], count: int) -> None:
        """Add ``count`` regions of ``name`` whose tokens sum to ``total``; no other name's tokens change."""
        sums, counts = self.sums.clone(), self.counts.clone()
        if name not in self.names:
            self.names = [*self.names, name]
            sums, counts = F.pad(sums, (0, 0, 0, 1)), F.pad(counts, (0, 1))
        place = self.names.index(name)
        sums[place] += total.to(sums)
        counts[place] += count
        self.sums, self.counts = sums, counts

    def remove(self, name: str) -> None:
        """Delete all examples of ``name``. Raises FusionerError where it has none."""
        if name not in self.names:
            raise FusionerError(f"{name!r} has no examples: names with examples are {_some(self.names)}")
        kept = [place for place, other in enumerate(self.names) if other != name]
        self.names = [self.names[place] for place in kept]
        self.sums, self.counts = self.sums[kept], self.counts[kept]

    def tokens(self, names: Sequence[str]) -> Float[Tensor, "names channels"]:
        """What a model needs to know of each name, in ``width + ADDED`` channels; zeros for a name without examples."""
        places = {name: place for place, name in enumerate(self.names)}
        found = [(row, places[name]) for row, name in enumerate(names) if name in places]
        tokens, kept = self.mean.new_zeros(len(names), self.width + ADDED), self._kept_tokens()
        # One at a time: a product of several rows rounds by their number, and no name may change another's tokens.
        for row, place in found:
            if (token := kept.get(names[row])) is None:
                count = self.counts[place : place + 1]
                means = self.sums[place : place + 1] / count.clamp(min=1)
                token = kept[names[row]] = self.directions(means, count)[0]
            tokens[row] = token
        return tokens

    def _kept_tokens(self) -> dict[str, Tensor]:
        """Tokens of names asked before, for as long as no buffer changes: they are a seventh of the time of a query."""
        if any(buffer.is_inference() for buffer in self.buffers()):  # these don't count their changes
            return {}
        now = [(buffer, buffer._version) for buffer in self.buffers()]
        before = self._kept[0]
        same = [old is new and seen == version for (old, seen), (new, version) in zip(before, now, strict=False)]
        if len(before) != len(now) or not all(same):
            self._kept = (now, {})
        return self._kept[1]

    def directions(
        self, means: Float[Tensor, "names visual"], counts: Float[Tensor, " names"]
    ) -> Float[Tensor, "names channels"]:
        """The tokens of names whose ``counts`` regions have the mean tokens ``means``."""
        counts = counts[:, None]
        means = (counts * means + PRIOR_EXAMPLES * self.mean) / (counts + PRIOR_EXAMPLES)
        directions = (means - self.mean) @ self.precision
        offsets = -(directions * (means + self.mean)).sum(1, keepdim=True) / 2
        strength = counts / (counts + HALF_STRENGTH)
        deviation = ((directions @ self.covariance) * directions).sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        scale = self.scale.expand_as(offsets)
        return torch.cat([directions, offsets, deviation, strength, scale], dim=1) * (counts > 0)

    def fit(self, moments: "Moments", regions: Mapping[str, Regions]) -> None:
        """Set mean and covariance of the patches, and the precision shared by the ``regions`` of each name.

        All examples are deleted; ``regions`` are not added.
        """
        mean, covariance = moments.mean, moments.covariance
        within, size = torch.zeros_like(covariance), 0
        for tokens in regions.values():
            off = (tokens - tokens.mean(0)).double()
            if len(tokens) > 1:
                within, size = within + off.T @ off, size + len(off)
        shared = within / size if size else covariance
        level = shared.diagonal().mean().clamp(min=1e-9)
        shared = (1 - SHRINKAGE) * shared + SHRINKAGE * level * torch.eye(self.width, dtype=torch.double)
        self.mean, self.covariance = mean.float(), covariance.float()
        self.precision = torch.linalg.inv(shared).float()
        self.scale = torch.ones(())
        self.resize(())
        if regions:
            means = torch.stack([tokens.mean(0) for tokens in regions.values()])
            counts = torch.tensor([float(len(tokens)) for tokens in regions.values()])
            deviations = self.directions(means, counts)[:, self.width + 1]
            self.scale = (deviations.mean() / 2).clamp(min=1e-6)


class Moments:
    """The mean and covariance of tokens that come in parts. width: channels of a token."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.double)
        self.products = torch.zeros(width, width, dtype=torch.double)

    def add(self, tokens: Float[Tensor, "tokens visual"]) -> None:
        """Count ``tokens``."""
        self.count += len(tokens)
        self.total += tokens.double().sum(0)
        # The product of one part in single precision, the sum over parts in double.
        self.products += (tokens.T @ tokens).double()

    @property
    def mean(self) -> Float[Tensor, " visual"]:
        """Mean, float64. Raises FusionerError where nothing was added."""
        if not self.count:
            raise FusionerError("there are no tokens to take the mean of: examples need at least one training image")
        return self.total / self.count

    @property
    def covariance(self) -> Float[Tensor, "visual visual"]:
        """Covariance, float64."""
        return self.products / self.count - torch.outer(self.mean, self.mean)


def example_channels(
    patches: Float[Tensor, "batch patches visual"], tokens: Float[Tensor, "batch names channels"], mean: Tensor
) -> Float[Tensor, "batch names costs patches"]:
    """The ``EXAMPLE_CHANNELS`` of each name, about unit size; zeros for names without examples. mean: the table's."""
    directions, rest = tokens.split([patches.shape[-1], ADDED], dim=-1)
    offset, deviation, strength, scale = (rest[..., column, None] for column in range(ADDED))
    products = torch.einsum("bnd,bkd->bkn", patches, directions)
    known = strength > 0
    ratio = ((products + offset) / scale.clamp(min=1e-6)).clamp(-LARGEST, LARGEST) * known
    centred = products - torch.einsum("d,bkd->bk", mean, directions)[..., None]
    standardised = centred / deviation.clamp(min=1e-6) / 2 * known
    maps = torch.broadcast_tensors(ratio, standardised, ratio.mean(-1, keepdim=True), top_mean(ratio), strength)
    return torch.stack(maps, dim=2)


def top_mean(similarity: Tensor) -> Tensor:
    """Mean over the ``TOP_SHARE`` of patches with the largest similarity."""
    most = max(1, round(TOP_SHARE * similarity.shape[-1]))
    return similarity.topk(most, dim=-1).values.mean(-1, keepdim=True)


def coverage(
    labels: UInt8[Tensor, "height width"], grid: tuple[int, int], count: int
) -> Float[Tensor, "labels rows columns"]:
    """The share (0-1) of each patch's pixels that has label 0, 1, ... ``count``."""
    height, width = labels.shape
    rows, columns = grid
    if height % rows or width % columns:
        each = torch.stack([labels == label for label in range(count + 1)])
        return F.adaptive_avg_pool2d(each[None].float(), grid)[0]
    # Counted in one pass: pooling a map for each label would read the image once for each.
    place = torch.arange(height)[:, None] * rows // height * columns + torch.arange(width) * columns // width
    counts = torch.bincount((place * 256 + labels.long()).flatten(), minlength=rows * columns * 256)
    shares = counts.reshape(rows, columns, 256)[..., : count + 1] * (rows * columns / labels.numel())
    return shares.permute(2, 0, 1).float()


def region_token(
    tokens: Float[Tensor, "rows columns visual"], share: Float[Tensor, "rows columns"]
) -> Float[Tensor, " visual"]:
    """The mean token of a region that covers ``share`` (0-1) of each patch."""
    return torch.einsum("rcd,rc->d", tokens, share) / share.sum()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "none"
