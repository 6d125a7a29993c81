"""Tiny text networks in folders of the exact published formats, and tokens made from the networks by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Pieces = Callable[[str], list[int]]
"""A sentence to its word pieces, by hand."""
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "one", "cat"]
VOCABULARY += ["dog", "bus", "photo", "of", ".", "##s", "blue"]
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
NAMES, TEMPLATES = ["cat", "blue dogs"], ["a {}", "the photo of one {} ."]


def bert_pieces(sentence: str) -> list[int]:
    """The vocabulary's words, a plural's "##s" apart."""
    words = [part for word in sentence.split() for part in ([word[:-1], "##s"] if word == "dogs" else [word])]
    return [VOCABULARY.index(word) for word in ("[CLS]", *words, "[SEP]")]


def unit(vector: Tensor) -> Tensor:
    """``vector`` at length 1."""
    return vector / vector.norm()


def by_hand(network: nn.Module, pieces: Pieces, pooling: str) -> Tensor:
    """Tokens of NAMES averaged over TEMPLATES, each sentence alone."""
    tokens = []
    for name in NAMES:
        each = []
        for template in TEMPLATES:
            with torch.no_grad():
                hidden = network(input_ids=torch.tensor([pieces(template.format(name))])).last_hidden_state[0]
            each.append(unit(hidden.mean(0) if pooling == "mean" else hidden[0]))
        tokens.append(unit(torch.stack(each).mean(0)))
    return torch.stack(tokens)


def write_json(file: Path, content: Any) -> None:
    """``content`` in ``file``, whose folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def publish_bert(folder: Path) -> nn.Module:
    """Fill ``folder`` as google-bert's: tensors under ``bert.``, old names of the norms, heads beside; the encoder."""
    from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=32, **SIZES)
    network = BertForPreTraining(config).eval()
    for name, parameter in network.named_parameters():
        if "LayerNorm" in name:  # as they are made, they are the identity: a norm that is not loaded would not show
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in network.state_dict().items():
        for new, former in old.items():
            name = name.replace(new, former)
        tensors[name] = tensor.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["BertForMaskedLM"]
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    return network.bert


def publish_roberta(folder: Path) -> tuple[nn.Module, Pieces]:
    """Fill ``folder`` as FacebookAI's: a language model without a pooler, byte pairs; the encoder and its pieces."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM

    pairs = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pairs.train_from_iterator(["a photo of one blue cat", "the dogs"] * 4, vocab_size=300, special_tokens=special)

    def pieces(sentence: str) -> list[int]:
        return [0, *pairs.encode(sentence).ids, 2]

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=pairs.get_vocab_size(), max_position_embeddings=22, type_vocab_size=1, pad_token_id=1, **SIZES
    )
    network = RobertaForMaskedLM(config).eval()
    network.save_pretrained(folder)
    ends = {"sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}
    published = json.loads(pairs.to_str()) | {"post_processor": {"type": "RobertaProcessing", **ends}}
    write_json(folder / "tokenizer.json", published)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 512})
    return network.roberta, pieces
