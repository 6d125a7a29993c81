"""all-MiniLM-L6-v2 in plain torch, so that the packaged pair starts without transformers, whose import takes seconds.

The network is BERT's encoder (Devlin et al., NAACL 2019; Vaswani et al., 2017): 6 layers of 12 heads on 384 channels,
each followed by an addition and a layer norm.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

WORDS, POSITIONS, TYPES = 30522, 512, 2
"""Word pieces of the vocabulary; most word pieces of a sentence; kinds of sentence, of which only the first is used."""
WIDTH, INNER, LAYERS, HEADS, EPS = 384, 1536, 6, 12, 1e-12
LONGEST = 256
"""Word pieces of a sentence, the rest is cut (the published ``max_seq_length``)."""


class Layer(nn.Module):
    """One layer of the encoder: self-attention and a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attended, self.attended_norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, EPS)
        self.wide, self.narrow, self.norm = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH), nn.LayerNorm(WIDTH, EPS)

    def forward(
        self, tokens: Float[Tensor, "sentences pieces 384"], mask: Bool[Tensor, "sentences 1 1 pieces"] | None
    ) -> Float[Tensor, "sentences pieces 384"]:
        """mask: False for padding, None where there is none."""
        query, key, value = (
            rearrange(part(tokens), "b n (h d) -> b h n d", h=HEADS) for part in (self.query, self.key, self.value)
        )
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = self.attended_norm(self.attended(rearrange(heads, "b h n d -> b n (h d)")) + tokens)
        result: Tensor = self.norm(self.narrow(F.gelu(self.wide(tokens))) + tokens)
        return result


class MiniLM(nn.Module):
    """Sentences to the mean over their tokens of the last layer.

    folder: the published files; ``model.safetensors`` and ``tokenizer.json`` are read.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.enable_padding()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.types, self.norm = nn.Embedding(TYPES, WIDTH), nn.LayerNorm(WIDTH, EPS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        tensors = load_file(folder / "model.safetensors")
        self.load_state_dict({name: tensors[published(name)] for name in self.state_dict()})

    def is_word(self, word: str) -> bool:
        """Whether ``word``, in lower case, is one piece of the tokenizer, which a common word of English is."""
        return self.tokenizer.token_to_id(word) is not None

    def lengths(self, sentences: list[str]) -> list[int]:
        """Tokens of each sentence, without padding."""
        return [sum(one.attention_mask) for one in self.tokenizer.encode_batch(sentences)]

    def forward(self, sentences: list[str]) -> Float[Tensor, "sentences 384"]:
        """Not normalised embeddings, float32."""
        device = self.words.weight.device
        coded = self.tokenizer.encode_batch(sentences)
        pieces = torch.tensor([one.ids for one in coded], device=device)
        there = torch.tensor([one.attention_mask for one in coded], device=device)
        mask = None if there.all() else there.bool()[:, None, None]
        tokens = self.words(pieces) + self.types.weight[0]
        tokens = self.norm(tokens + self.positions.weight[: pieces.shape[1]])
        for layer in self.layers:
            tokens = layer(tokens, mask)
        # Pooled in float32: a sum over tokens in half precision would lose digits that the network gave.
        weight = there.unsqueeze(-1).float()
        return (tokens.float() * weight).sum(1) / weight.sum(1)


NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
}
"""Modules of ours and their published names; a layer's ``norm`` is its ``output.LayerNorm``."""


def published(name: str) -> str:
    """The published name of one of our tensors."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("layers."):
        return f"{NAMES[module]}.{kind}"
    _, number, module = module.split(".")
    inner = "output.LayerNorm" if module == "norm" else NAMES[module]
    return f"encoder.layer.{number}.{inner}.{kind}"
