"""The interface of every segmentation model: frozen patch and text tokens in, logits out."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models.examples import ExampleTable

PatchTokens = Float[Tensor, "batch patches visual"]
"""Tokens of the frozen visual encoder, row by row over the patch grid."""
TextTokens = Float[Tensor, "batch names text"]
"""Tokens of the frozen text encoder, one a name."""
NamesMask = Bool[Tensor, "batch names"]
"""False for names that only pad the batch."""
Logits = Float[Tensor, "batch names height width"]
FeatureMap = Float[Tensor, "batch channels rows columns"]
TextFeatures = Float[Tensor, "batch names channels"]
"""One a name, in the space of the feature map."""
Attention = Float[Tensor, "batch heads tokens tokens"]
"""Attention weights 0-1, rows summing to 1: row i is what token i reads from."""
Size = tuple[int, int]
"""Height and width, or rows and columns."""

NAME_CHUNK = 64
"""Names passed at once to a model that treats names independently, so that memory does not grow with their number."""


class SegmentationModel(nn.Module):
    """Base class of the trainable models; a model never owns an encoder.

    visual_width, text_width: channels of the frozen patch and text tokens.
    names_independent: no name changes another's logit, and logits are resized only after the last layer.
    examples: the names known by examples, for a model that reads them.
    """

    names_independent: ClassVar[bool] = False

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__()
        self.config, self.visual_width, self.text_width = config, visual_width, text_width
        self.examples: ExampleTable | None = None

    def forward(
        self,
        patch_tokens: PatchTokens,
        text_tokens: TextTokens,
        *,
        grid: Size,
        size: Size,
        names_mask: NamesMask | None = None,
    ) -> Logits:
        """Logits of every name at every pixel of ``size`` (height, width); a sigmoid makes them probabilities.

        grid: rows and columns of the patch tokens. names_mask: False for padding names; the other names' logits do not
        depend on them, and their own logits have no meaning.
        """
        raise NotImplementedError

    def similarity(self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size) -> Logits:
        """Cosine (-1 to 1) between names and image features, at the resolution of the features."""
        raise NotImplementedError

    def attention(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, names_mask: NamesMask | None = None
    ) -> list[Attention]:
        """Attention of each block over [patches, names]; empty where the two sides do not attend to each other."""
        return []

    def with_examples(
        self, text_tokens: Float[Tensor, "*batch names text"], names: Sequence[str]
    ) -> Float[Tensor, "*batch names channels"]:
        """``text_tokens`` followed by what the model knows of each of ``names`` by examples (``ExampleTable.tokens``).

        A model without examples returns ``text_tokens``. ``forward`` takes text tokens with and without examples.
        """
        if self.examples is None:
            return text_tokens
        known = self.examples.tokens(names).to(text_tokens)
        return torch.cat([text_tokens, known.expand(*text_tokens.shape[:-1], -1)], dim=-1)

    @property
    def example_names(self) -> tuple[str, ...]:
        """The names that the model has examples of."""
        return () if self.examples is None else tuple(self.examples.names)

    def load_weights(self, weights: Mapping[str, Tensor], example_names: Sequence[str]) -> None:
        """Load a state dict of a model with these ``example_names``."""
        if self.examples is not None:
            self.examples.resize(example_names)
        self.load_state_dict(weights)

    def name_chunks(self, count: int) -> list[slice]:
        """How to split ``count`` names over calls: one slice, or slices of ``NAME_CHUNK`` where names are independent.

        All slices have the same length, the last one overlaps: matrix products round differently at another shape.
        """
        if not self.names_independent or count <= NAME_CHUNK:
            return [slice(0, count)]
        starts = (min(start, count - NAME_CHUNK) for start in range(0, count, NAME_CHUNK))
        return [slice(start, start + NAME_CHUNK) for start in starts]

    def smallest_size(self, grid: Size, size: Size) -> Size:
        """The smallest size at which logits can be computed so that resizing them to ``size`` gives the same result."""
        return self.finest_grid(grid) if self.names_independent else size

    def finest_grid(self, grid: Size) -> Size:
        """The size of the largest feature map that is computed from patch tokens on ``grid``."""
        scale = self.config.decoder_scales[-1] if self.config.decoder_scales else 1
        return grid[0] * scale, grid[1] * scale

    def update_statistics(self, patch_tokens: PatchTokens) -> None:
        """Update running statistics with one training batch, for models that have some. Records no gradient."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters; the CPU for a model without any."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def check_widths(self, patch_tokens: Tensor, text_tokens: Tensor) -> None:
        """Raise FusionerError for tokens of another width than the model's."""
        for side, tokens, width in (("patch", patch_tokens, self.visual_width), ("text", text_tokens, self.text_width)):
            if tokens.shape[-1] != width:
                raise FusionerError(
                    f"the {side} tokens are {tokens.shape[-1]} wide, this model was trained on {width}: "
                    "use the encoder pair named in the checkpoint's config.json"
                )

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the visual decoder, which the paper trains with settings of their own; none by default."""
        return []

    def undecayed(self, *, category: bool = True) -> list[nn.Parameter]:
        """Parameters without weight decay: biases, norms and, where ``category``, a vector added to all text tokens."""
        return [parameter for parameter in self.parameters() if parameter.ndim < 2]

    def trainable(self) -> dict[str, int]:
        """Number of trainable parameters: of the fusion (all but the decoder), the decoder, and both (total)."""
        decoder = sum(parameter.numel() for parameter in self.decoder_parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"fusion": total - decoder, "decoder": decoder, "total": total}
