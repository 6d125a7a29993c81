"""Properties that hold for every model behind the interface."""

import numpy as np
import pytest
import torch

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models import MODELS, build
from fusionerlib.models.losses import segmentation_loss


def tiny(kind: str, **changes):
    torch.manual_seed(1)
    config = FusionConfig(preset="small", kind=kind, width=24, heads=3, depth=2, **changes)
    return build(config, visual_width=10, text_width=7).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_padding_names_change_nothing(kind: str) -> None:
    model = tiny(kind)
    patches, words = torch.randn(2, 6, 10), torch.randn(2, 3, 7)
    alone = model(patches, words, grid=(2, 3), size=(32, 48))
    padded = torch.cat([words, torch.full((2, 2, 7), 9.0)], dim=1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    together = model(patches, padded, grid=(2, 3), size=(32, 48), names_mask=mask)
    torch.testing.assert_close(together[:, :3], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_order_of_names_only_orders_the_logits(kind: str) -> None:
    model, order = tiny(kind), torch.tensor([2, 0, 1])
    patches, words = torch.randn(1, 6, 10), torch.randn(1, 3, 7)
    straight = model(patches, words, grid=(3, 2), size=(20, 30))
    torch.testing.assert_close(
        model(patches, words[:, order], grid=(3, 2), size=(20, 30)), straight[:, order], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("names", [1, 40])
def test_any_number_of_names_and_any_grid(kind: str, names: int) -> None:
    logits = tiny(kind, logit_bias=0.0, offset=0.0)(
        torch.randn(1, 35, 10), torch.randn(1, names, 7), grid=(5, 7), size=(81, 113)
    )
    assert logits.shape == (1, names, 81, 113)
    assert logits.abs().max() <= 1 / 0.07 + 1e-3


def test_logit_bias_is_learned_and_shifts_every_logit() -> None:
    patches, words = torch.randn(1, 6, 10), torch.randn(1, 2, 7)
    plain, biased = (tiny("fusioner", logit_bias=bias) for bias in (0.0, -3.0))
    expected = plain(patches, words, grid=(2, 3), size=(8, 12)) - 3
    torch.testing.assert_close(biased(patches, words, grid=(2, 3), size=(8, 12)), expected)
    assert biased.trainable()["total"] == plain.trainable()["total"] + 1


@pytest.mark.parametrize("kind", ["fusioner", "late"])
def test_dropout_falls_on_words_alone(kind: str) -> None:
    model = tiny(kind, dropout=0.9).train()
    patches, words = torch.randn(1, 6, 10), torch.randn(1, 2, 7)
    seen, named = model.project(patches, words)
    (first, first_words), (second, second_words) = (model.mix(seen, named, names_mask=None) for _ in range(2))
    assert not torch.allclose(first_words, second_words)
    # Late fusion's patches never see a text token. Fusioner's do: the dropout of a block reaches them in the next.
    if kind == "late":
        torch.testing.assert_close(first, second)
    else:
        block, tokens = model.transformer.blocks[0], torch.cat([seen, named], dim=1)
        dropped, whole = block(tokens, names=2), block.eval()(tokens, names=2)
        torch.testing.assert_close(dropped[:, :6], whole[:, :6])
        assert not torch.allclose(dropped[:, 6:], whole[:, 6:])


def test_late_fusion_s_features_do_not_depend_on_the_names() -> None:
    patches, words, more = torch.randn(1, 6, 10), torch.randn(1, 2, 7), torch.randn(1, 2, 7)
    late, early = tiny("late"), tiny("fusioner")
    features = [late.fuse(patches, w, grid=(2, 3))[0] for w in (words, more)]
    torch.testing.assert_close(*features)
    features = [early.fuse(patches, w, grid=(2, 3))[0] for w in (words, more)]
    assert not torch.allclose(*features)


def test_late_fusion_spends_the_same_budget() -> None:
    with torch.device("meta"):
        early, late, full = (
            build(FusionConfig(**options), visual_width=768, text_width=768).trainable()["total"]
            for options in ({}, {"kind": "late"}, {"kind": "late", "late_depth": 12})
        )
    assert late - early == 2 * 512  # the second stack's final norm
    assert full - late == 12 * 3_152_384


def test_attention_is_what_the_block_used() -> None:
    model = tiny("fusioner")
    patches, words = torch.randn(2, 6, 10), torch.randn(2, 3, 7)
    mask = torch.tensor([[True, True, False]] * 2)
    first = model.attention(patches, words, names_mask=mask)[0]
    assert first.shape == (2, 3, 9, 9)
    torch.testing.assert_close(first.sum(-1), torch.ones(2, 3, 9))
    assert not first[..., 8].any()
    block = model.transformer.blocks[0]
    tokens = torch.cat(model.project(patches, words), dim=1)
    value = block.attention.qkv(block.norm1(tokens))[..., 48:].reshape(2, 9, 3, 8).transpose(1, 2)
    by_hand = block.attention.out((first @ value).transpose(1, 2).reshape(2, 9, 24))
    visible = torch.cat([torch.ones(2, 6, dtype=torch.bool), mask], dim=1)
    torch.testing.assert_close(block.attention(block.norm1(tokens), visible=visible), by_hand)


def test_tokens_of_another_pair_are_refused() -> None:
    with pytest.raises(FusionerError, match="text tokens are 8 wide, this model was trained on 7"):
        tiny("fusioner")(torch.randn(1, 4, 10), torch.randn(1, 2, 8), grid=(2, 2), size=(8, 8))


def test_loss_by_hand_leaves_out_ignored_pixels_and_padding() -> None:
    logits = torch.zeros(2, 2, 1, 2)
    logits[0, 0, 0, 0] = 2.0
    masks = torch.zeros(2, 2, 1, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = True
    valid = torch.tensor([[[True, False]], [[True, True]]])
    names_mask = torch.tensor([[True, False], [True, True]])
    loss = segmentation_loss(logits, masks, valid=valid, names_mask=names_mask)
    first, second = torch.log1p(torch.exp(torch.tensor(-2.0))), torch.log(torch.tensor(2.0))
    torch.testing.assert_close(loss, (first + second) / 2)
    logits[0, 1], logits[0, 0, 0, 1] = 50.0, -50.0
    torch.testing.assert_close(segmentation_loss(logits, masks, valid=valid, names_mask=names_mask), loss)


def test_dice_vanishes_for_a_perfect_mask_and_skips_absent_names() -> None:
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    valid, asked = torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    perfect = torch.where(masks, 30.0, -30.0)
    assert segmentation_loss(perfect, masks, valid=valid, names_mask=asked, kind="bce+dice") < 1e-6
    present = {"logits": -perfect[:, :1], "masks": masks[:, :1], "valid": valid, "names_mask": asked[:, :1]}
    wrong, plain = segmentation_loss(**present, kind="bce+dice"), segmentation_loss(**present)
    torch.testing.assert_close(wrong - plain, torch.tensor(1 - 1 / 17), atol=1e-4, rtol=0)


def test_softmax_adds_the_cross_entropy_between_the_names_and_none_of_them() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 5)))
    labels = rng.integers(0, 4, size=(2, 4, 5))
    valid, asked = (
        torch.from_numpy(rng.random((2, 4, 5)) > 0.3),
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    masks = torch.from_numpy(np.stack([labels == name for name in (1, 2, 3)], axis=1))
    terms = []
    for image, row, column in np.argwhere(valid.numpy()):
        count = int(asked[image].sum())
        powers = np.exp([0.0, *logits[image, :count, row, column].tolist()])
        right = labels[image, row, column] if labels[image, row, column] <= count else 0
        terms.append(-np.log(powers[right] / powers.sum()))
    given = {"valid": valid, "names_mask": asked}
    both = segmentation_loss(logits, masks, **given, kind="bce+dice+softmax")
    added = both - segmentation_loss(logits, masks, **given, kind="bce+dice")
    assert float(added) == pytest.approx(np.mean(terms))
