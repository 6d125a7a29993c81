"""How like each patch is to each name, as maps that say the same of any name."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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


class Likeness(nn.Module):
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


class CosineLikeness(Likeness):
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


class ClassLikeness(Likeness):
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
