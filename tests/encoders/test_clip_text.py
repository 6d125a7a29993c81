"""Text embeddings of CLIP and SigLIP against transformers and open_clip's own model."""

import socket

import open_clip
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from fusionerlib.encoders.base import LoadOptions
from fusionerlib.encoders.clip import text
from fusionerlib.errors import FusionerError
from tests.encoders.open_clip_models import TINY_SIGLIP, TINY_VIT, publish, random_model, spec

# The id of "!" before a sign such as ";" is 0, which is also the padding's.
SENTENCES = ["a photo of a cat", "!;", "a very long list of " + "wine glasses, " * 60, "two dogs"]


def load_text(folder, config, *, quick_gelu=True, files=(), **options):
    given = spec("text", tokens=("pooled",), files=files, config=config, quick_gelu=quick_gelu)
    return text(given, LoadOptions(weights=str(folder), tokens="pooled", **options))


def in_transformers(state, *, hidden_act: str) -> CLIPTextModelWithProjection:
    """The text half of an open_clip state dict (two layers, two heads) as transformers' own implementation."""
    vocabulary, width = state["token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=state["text_projection"].shape[1],
        hidden_act=hidden_act,
        eos_token_id=49407,
    )
    renamed = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    pairs = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    pairs |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for part in ("weight", "bias"):
        renamed[f"final_layer_norm.{part}"] = state[f"ln_final.{part}"]
        for layer in range(2):
            source, target = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            renamed |= {f"{target}.{other}.{part}": state[f"{source}.{ours}.{part}"] for ours, other in pairs.items()}
            for name, piece in zip("qkv", state[f"{source}.attn.in_proj_{part}"].chunk(3), strict=True):
                renamed[f"{target}.self_attn.{name}_proj.{part}"] = piece
    renamed = {f"text_model.{name}": tensor for name, tensor in renamed.items()}
    theirs = CLIPTextModelWithProjection(config)
    theirs.load_state_dict({**renamed, "text_projection.weight": state["text_projection"].T}, strict=True)
    return theirs.eval()


@pytest.mark.parametrize(("quick_gelu", "hidden_act"), [(True, "quick_gelu"), (False, "gelu")])
def test_text_embeddings_are_transformers(tiny, folder, quick_gelu, hidden_act) -> None:
    encoder = load_text(folder, TINY_VIT, quick_gelu=quick_gelu)
    ids = open_clip.tokenize(SENTENCES)
    with torch.no_grad():
        expected = in_transformers(tiny.state_dict(), hidden_act=hidden_act)(input_ids=ids).text_embeds
    torch.testing.assert_close(encoder.embed(SENTENCES), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    for index, sentence in enumerate(SENTENCES):  # a longer neighbour in the batch must not be seen
        torch.testing.assert_close(encoder.embed([sentence])[0], expected[index], rtol=1e-4, atol=1e-4)
    assert (encoder.width, encoder.space) == (48, "mine")


def test_tokens_are_the_published_ids(folder) -> None:
    ids = load_text(folder, TINY_VIT).network.tokenizer(["A photo of a  cat"])
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]


def test_text_is_frozen_and_in_half_precision_nearly_the_same(folder) -> None:
    exact, near = load_text(folder, TINY_VIT), load_text(folder, TINY_VIT, precision="bfloat16")
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in exact.parameters())
    assert F.cosine_similarity(exact.embed(SENTENCES), near.embed(SENTENCES)).min() > 0.999


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A SigLIP of a few numbers and the folder it is published in, a tokenizer of transformers included."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "a", "cat", "wine", "glass"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    model = random_model(TINY_SIGLIP, quick_gelu=False)
    folder = publish(model.state_dict(), tmp_path_factory.mktemp("siglip"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return model, folder


def test_a_tokenizer_of_transformers_comes_from_the_folder_alone(siglip, monkeypatch) -> None:
    def refuse(*arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, folder = siglip
    encoder = load_text(folder, TINY_SIGLIP, quick_gelu=False, files=("tokenizer.json", "tokenizer_config.json"))
    ids = torch.zeros(2, 16, dtype=torch.long)  # <pad>, which SigLIP attends to
    ids[0, :4], ids[1, :4] = torch.tensor([3, 5, 6, 1]), torch.tensor([3, 4, 2, 1])
    with torch.no_grad():
        expected = model.encode_text(ids)
    torch.testing.assert_close(encoder.embed(["A wine-glass!".replace("-", " "), "a cat, purring"]), expected)


def test_a_missing_tokenizer_is_named(siglip, tmp_path) -> None:
    publish(siglip[0].state_dict(), tmp_path)
    with pytest.raises(FusionerError, match=r"needs tokenizer\.json"):
        load_text(tmp_path, TINY_SIGLIP, quick_gelu=False, files=("tokenizer.json",))


def test_a_text_half_of_transformers_is_refused(tmp_path) -> None:
    (tmp_path / "open_clip_model.safetensors").touch()
    config = {**TINY_VIT, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}
    with pytest.raises(FusionerError, match=r"xlm-roberta-base of transformers.* choose another model"):
        load_text(tmp_path, config)
