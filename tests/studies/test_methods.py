"""Methods on one footing: what each changes, what the controls can't know, and what is quoted beside them."""

import json
import math
from pathlib import Path

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.config import FusionConfig, RunConfig
from fusionerlib.datasets.mosaic_sets import first_mosaics, mosaic_kinds, plain_mosaics, tile_sets
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.mosaics import evaluate_mosaics
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.runs import fit
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.loop import train
from studies.methods.figure import method_bars
from studies.methods.study import METHODS, MosaicTests, ShuffledNames, compare, method_run
from studies.published import HOLE, rows
from studies.variants import stored_source, train_variant
from tests.small_runs import drawn, small_run
from workbook.notebook import MosaicNotebook
from workbook.report.comparison import PUBLISHED, lines_by_test, method_lines


@pytest.fixture(scope="module")
def openmoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("drawn") / "openmoji")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, openmoji: Path) -> RunContext:
    return RunContext(small_run(tmp_path_factory.mktemp("run"), openmoji))


def changed(run: RunConfig, other: RunConfig) -> dict[str, object]:
    pairs = ((getattr(run, name), section) for name, section in other)
    return {leaf: value for old, new in pairs for leaf, value in new if value != getattr(old, leaf)}


def test_a_method_changes_only_what_it_is() -> None:
    run = RunConfig.flat(preset="small", depth=3, text_noise=0.7, steps=90, loss="bce+dice", feed="stored")
    words = {"visual_tokens": "conse", "text_tokens": "mean"}
    assert changed(run, method_run(run, "fusioner")) == changed(run, method_run(run, "shuffled names")) == {}
    assert changed(run, method_run(run, "late")) == {"kind": "late"}
    assert changed(run, method_run(run, "spnet", steps=20)) == {"kind": "spnet", "steps": 20, "warmup": 2}
    assert changed(run, method_run(run, "similarity")) == {"kind": "training_free", **words}
    assert changed(run, method_run(run, "class-agnostic")) == {"text": "constant"}
    modern = method_run(run, "modern")
    assert modern.fusion == FusionConfig(preset="modern")
    assert (modern.pair.text_tokens, modern.training.text_noise, modern.training.loss) == (
        "class_posteriors",
        0.0,
        "bce+dice",
    )


def test_a_run_of_modern_lends_its_data_but_not_its_width() -> None:
    run = RunConfig.flat(preset="modern", visual_tokens="class_posteriors", text_tokens="class_posteriors", width=24)
    assert method_run(run, "modern").fusion.width == 24
    assert method_run(run, "lseg").fusion == RunConfig.flat(preset="small", kind="lseg").fusion


@pytest.mark.parametrize(
    ("pair", "similarity"),
    [(("clip-vit-b16", "clip-vit-b16"), "cosine"), (("dino-vitb16", "bert-base"), "learned")],
)
def test_modern_reads_other_pairs_by_their_spaces(pair: tuple[str, str], similarity: str) -> None:
    run = RunConfig.flat(visual=pair[0], text=pair[1])
    assert method_run(run, "modern").fusion.similarity == similarity
    if similarity == "learned":
        with pytest.raises(FusionerError, match="two spaces"):
            method_run(run, "similarity")


@pytest.mark.parametrize(("name", "told"), [("lsge", "did you mean 'lseg'"), ("zzz", "known: fusioner, late, lseg")])
def test_unknown_methods_are_told(name: str, told: str) -> None:
    for refused in (lambda: method_run(RunConfig(), name), lambda: MosaicNotebook.from_namespace({"methods": [name]})):
        with pytest.raises(FusionerError, match=told):
            refused()
    assert MosaicNotebook().methods == ()


def test_shuffled_words_are_the_same_tokens_under_other_names() -> None:
    table = TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"], synonyms={"cat": ["kitten"]})
    seen, unseen = ["cat", "dog", "cow", "bus"], ["sofa", "grapes", "boat"]
    shuffled = ShuffledNames(table, [seen, unseen], seed=0)
    for group in (seen, unseen):
        plain, mixed = table.tokens(group), shuffled.tokens(group)
        # Every token once, none under its own name, none from the other group.
        same = torch.cdist(mixed, plain) < 1e-4
        assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * len(group) and not same.diag().any()
    padded, mask = shuffled.padded([["bus"], ["cow", "cat"]])
    torch.testing.assert_close(padded[mask], shuffled.tokens(["bus", "cow", "cat"]))
    orders = {tuple(ShuffledNames(table, [seen], seed=seed).source.values()) for seed in range(6)}
    assert len(orders) > 1
    with pytest.raises(FusionerError, match="no shuffled token for 'zebra'"):
        shuffled.tokens(["zebra"])


def test_every_method_is_measured_on_the_same_mosaics(context: RunContext, tmp_path: Path) -> None:
    tiles = tile_sets(context.run.data)
    sets = {"objects": plain_mosaics(tiles, count=3, seed=0)["objects"]}
    kinds, _ = mosaic_kinds(tiles, count=2, seed=0)
    kinds = {name: kinds[name] for name in ("one absent",)}
    tests = MosaicTests(sets, kinds)
    found = compare(context, list(METHODS), tests, directory=tmp_path)
    assert list(found) == list(METHODS)
    assert all(set(figures) == {"objects", "one absent"} for _, figures in found.values())
    assert found["similarity"][0] == 0 and found["spnet"][0] == 432 * 384 + 384 + 1
    assert found["fusioner"][0] == found["shuffled names"][0] == found["class-agnostic"][0]
    # The first is nothing but the run trained by itself.
    source = StoredBatchSource(context.features(context.sets.train))
    given = {"run": context.run, "source": source, "text_cache": context.text_cache}
    model, _ = train(**given, directory=tmp_path / "alone", quiet=True)
    alone = evaluate_mosaics(model, context.features(sets["objects"]), context.text_cache, quiet=True).figures()
    assert found["fusioner"][1]["objects"] == {
        **{key: alone[key] for key in ("assignment", "miou", "miou_permuted")},
        "chance": 0.25,
    }


def test_similarity_is_not_trained_and_says_so(context: RunContext, tmp_path: Path, capsys) -> None:
    done = train_variant(context.with_run(method_run(context.run, "similarity")), directory=tmp_path)
    assert done.loss is None and not done.checkpoint.model.training and not list(tmp_path.iterdir())
    assert "training_free: nothing to train" in capsys.readouterr().out


def test_a_run_of_similarity_is_its_checkpoint_without_a_step(context: RunContext, tmp_path: Path) -> None:
    run = method_run(context.run, "similarity")
    trained = checkpoints.load(fit(run, tmp_path, device="cpu", quiet=True))
    record = json.loads((tmp_path / "records" / "training.json").read_text())
    assert record["history"] == [] and record["loss"] is None and record["parameters"] == 0
    assert trained.run == run and not (tmp_path / "training").exists()
    assert set(trained.trained_names) == {name for _, name in stored_source(context.with_run(run)).pairs()}


def test_training_similarity_by_hand_comes_to_its_end_and_its_checkpoint_comes_back(context, tmp_path: Path) -> None:
    run = method_run(context.run, "similarity")
    own = context.with_run(run)
    source, text_cache = stored_source(own), own.text_cache
    model, history = train(run=run, source=source, text_cache=text_cache, directory=tmp_path / "run", quiet=True)
    assert len(history) == run.training.steps
    checkpoints.save(tmp_path / "kept", model=model, run=run, trained_names=["cat"])
    back = checkpoints.load(tmp_path / "kept").model
    patches, tokens = torch.randn(1, 4, source.width), text_cache.tokens(["cat", "dog"])[None]
    given = {"grid": (2, 2), "size": (8, 8)}
    torch.testing.assert_close(back(patches, tokens, **given), model(patches, tokens, **given))


def test_a_published_system_has_no_figure_on_mosaics_and_ours_none_on_pascal() -> None:
    own = {"objects": {"assignment": 0.5, "miou": 0.123, "miou_permuted": 0.01, "chance": 0.25}, "3x3": {"miou": 0.04}}
    found = {"this run": (1234, own), "lseg": (5, {"objects": own["objects"]})}
    lines = method_lines(found, main="objects")
    assert list(lines[0].values()) == ["this run", "1,234", "50.0", "12.3", "1.0", HOLE, "this run"]
    assert [list(line.values()) for line in lines_by_test(found)] == [["objects", "12.3", "12.3"], ["3x3", "4.0", HOLE]]
    quoted = [row for row in rows("pascal-5i") if not row.text]
    assert [line["method"] for line in lines[2:]] == [f"{row.model} {row.visual}" for row in quoted]
    assert {"SPNet R101", "ZS3Net R101"} <= {line["method"] for line in lines[2:]}
    for line, row in zip(lines[2:], quoted, strict=True):
        assert line["source"].startswith("quoted") and line["mIoU, objects"] == line["parameters"] == HOLE
        assert line[PUBLISHED] == (HOLE if math.isnan(row.mean) else f"{row.mean:.1f}")


def test_curves_are_measured_at_their_hardest(context: RunContext, tmp_path: Path) -> None:
    sets = plain_mosaics(tile_sets(context.run.data), count=2, seed=0)
    tests = MosaicTests({"objects": sets["objects"]}, curves=first_mosaics(sets["objects"], 1), known=["zebra", "tank"])
    _, figures = compare(context, ["similarity"], tests, directory=tmp_path)["similarity"]
    assert list(figures) == ["objects", "tile size 8", "blur 8", "noise 80", "JPEG 5", "distractors 1"]
    assert figures["distractors 1"]["chance"] == 0.2
    figure = method_bars({"similarity": figures, "late": {"objects": figures["objects"]}})
    assert [axes.get_title() for axes in figure.axes[:6]] == list(figures)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [figures["objects"][key] for key in ("assignment", "assignment", "miou", "miou")]
    with pytest.raises(FusionerError, match="no method to draw"):
        method_bars({})
