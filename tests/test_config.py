"""Presets fill in, flat names find their section, every way to a run makes the same one, and bad values are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fusionerlib import checkpoints
from fusionerlib.cli.train import configured
from fusionerlib.config import FusionConfig, RunConfig, TrainingConfig
from fusionerlib.errors import FusionerError
from fusionerlib.presets import DEMO, PRESETS, RECIPES, TOKENS
from fusionerlib.runs import packaged_run
from studies.cost_aggregation.study import BASE, CostAggregationStudy, Trial
from studies.encoder_pairs.study import TEMPLATE, Study, Variant
from studies.paper_grid.grid import Grid
from workbook.notebook import TrainingNotebook


def test_defaults_are_the_papers_table() -> None:
    fusion = FusionConfig()
    assert (fusion.width, fusion.depth, fusion.heads, fusion.mlp_ratio) == (512, 12, 8, 4)
    assert (fusion.dropout, fusion.temperature, fusion.decoder_scales, fusion.upsample) == (
        0.0,
        0.07,
        (2, 4, 8),
        "features",
    )
    paper = TrainingConfig(recipe="bmvc2022")
    assert (paper.batch, paper.positives, paper.negatives, paper.loss, paper.loss_stride) == (32, 1, 0, "bce", 1)
    assert (paper.weight_decay, paper.final_weight_decay, paper.lr, paper.final_lr) == (0.01, 0.4, 1e-3, 2e-6)


def test_a_preset_fills_in_and_what_is_given_wins() -> None:
    run = RunConfig.flat(preset="small", depth=5, steps=7)
    assert (run.fusion.preset, run.fusion.width, run.fusion.depth, run.training.steps) == ("small", 192, 5, 7)
    assert RunConfig.flat(preset="bmvc2022").fusion.width == 512


def test_a_config_comes_back_from_its_json() -> None:
    run = RunConfig.flat(depth=3, lr="1e-4", root="somewhere", recipe="bmvc2022", batch=8)
    assert RunConfig.model_validate_json(run.model_dump_json()) == run
    assert run.training.lr == 1e-4 and run.training.batch == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stpes": 3}, r"unknown parameter 'stpes' = 3: did you mean 'steps'\?"),
        ({"steps": "many"}, r"training\.steps = 'many'"),
        ({"size": 100}, r"data\.size = 100.*multiple of 32"),
        ({"width": 100, "heads": 3}, r"width 100 must be a multiple of heads 3"),
        ({"fold": 4}, r"data\.fold = 4"),
        ({"feed": "live"}, r"training\.feed = 'live'"),
        ({"workers": -1}, r"training\.workers = -1"),
        ({"kind": "middle"}, r"fusion\.kind = 'middle'"),
        (
            {
                "preset": "modern",
                "visual_tokens": "class_posteriors",
                "text_tokens": "class_posteriors",
                "text_noise": 0.1,
            },
            r"text_noise 0\.1 does not fit .* set text_noise = 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(values: dict, message: str) -> None:
    with pytest.raises(FusionerError, match=message):
        RunConfig.flat(**values)


def test_configs_do_not_change() -> None:
    with pytest.raises(ValidationError):
        RunConfig().training.steps = 3


def test_a_variant_changes_only_what_it_names() -> None:
    run = RunConfig.flat(depth=3)
    other = run.changed(depth=1, templates="few")
    assert other == RunConfig.flat(depth=1, templates="few")
    assert run.changed() == run
    with pytest.raises(FusionerError, match=r"fusion\.depth = 0"):
        run.changed(depth=0)


def ways(leaves: dict[str, Any], folder: Path) -> dict[str, RunConfig]:
    """The run of ``leaves`` as notebook 02 and `fusioner train` make it, the latter from settings and from a file."""
    settings = [f"{leaf}={json.dumps(value)}" for leaf, value in leaves.items()]
    homes, sections = RunConfig.leaf_sections(), {name: {} for name in RunConfig.model_fields}
    for leaf, value in leaves.items():
        sections[homes[leaf]][leaf] = value
    partial, whole = folder / "partial.json", folder / "whole.json"
    partial.write_text(json.dumps(sections))
    whole.write_text(json.dumps({"run": RunConfig.flat(**leaves).model_dump(mode="json"), "trained_names": ["cat"]}))
    return {
        "notebook": TrainingNotebook.from_namespace(dict(leaves)).run,
        "notebook, the rest None": TrainingNotebook.flat(**{**dict.fromkeys(RunConfig.leaf_sections()), **leaves}).run,
        "settings": configured(None, settings),
        "a file of some leaves": configured(partial, []),
        "a checkpoint's file": configured(whole, []),
    }


def all_equal(runs: dict[str, RunConfig]) -> None:
    first = next(iter(runs.values()))
    assert {name: run.model_dump() for name, run in runs.items()} == dict.fromkeys(runs, first.model_dump())


PHOTOS = {"dataset": "photos", "root": "voc", "coco": "coco", "features": "kept"}


@pytest.mark.parametrize("leaves", [{}, {"preset": "small"}, {"recipe": "bmvc2022"}, {"preset": "modern", "steps": 9}])
def test_notebook_and_command_line_make_the_same_run(leaves: dict[str, Any], tmp_path: Path) -> None:
    runs = ways(leaves, tmp_path)
    all_equal(runs)
    assert (runs["settings"].training.text_noise == DEMO["text_noise"]) == (not leaves)


def test_the_packaged_checkpoint_s_run_is_the_preset_s_and_the_study_s(tmp_path: Path) -> None:
    leaves = {"preset": "modern", **PHOTOS, "fold": 1, "size": 320, "steps": 2000, "validate_every": 2000}
    places = {"voc": Path("voc"), "coco": Path("coco"), "features": Path("kept")}
    study = CostAggregationStudy(voc_root=Path("voc"), coco_root=Path("coco")).run_of(Trial(BASE, 1, 0, 2000))
    runs = ways(leaves, tmp_path) | {
        "shipped": packaged_run(**places, fold=1),
        "study": study.changed(features="kept", checkpoint_every=100),
    }
    all_equal(runs)
    packaged = json.loads((checkpoints.packaged_folder() / "config.json").read_text(encoding="utf-8"))["run"]
    measured = RunConfig.model_validate(packaged)
    # It was trained on a processor without bf16, which the recipe leaves to the machine.
    assert (measured.training.mixed_precision, runs["settings"].training.mixed_precision) == ("no", "auto")
    assert measured.changed(**PHOTOS) == runs["settings"].changed(fold=-1, mixed_precision="no", camvid="data/camvid")
    assert not measured.training.balanced


def test_the_grid_s_and_the_pairs_run_is_the_command_line_s(tmp_path: Path) -> None:
    grid = Grid(name="g", pairs=(("packaged", "packaged"),), fusions=("late",), folds=(2,), run={"steps": 7})
    (leaves,) = grid.jobs().values()
    all_equal(ways({"kind": "late", "fold": 2, "steps": 7}, tmp_path) | {"grid": RunConfig.flat(**leaves)})
    study = Study(voc_root=Path("voc"), coco_root=Path("coco"), steps=7)
    leaves = {"preset": "small", **PHOTOS, "novel": "ignore", "fold": 1, "steps": 7, "warmup": 7, "validate_every": 7}
    leaves |= {
        "checkpoint_every": 7,
        "positives": 1,
        "negatives": 0,
        "loss": "bce+dice",
        "templates": str(TEMPLATE),
    }
    made = study.run_of(Variant("MiniLM", "early", 1, 0)).changed(features="kept")
    all_equal(ways(leaves, tmp_path) | {"study": made})


@pytest.mark.parametrize("old", [*PRESETS, None])
@pytest.mark.parametrize("new", PRESETS)
def test_a_preset_over_a_whole_run_replaces_what_it_names(old: str | None, new: str, tmp_path: Path) -> None:
    run = RunConfig.flat(preset=old, steps=50, seed=3, size=320)
    file = tmp_path / "config.json"
    file.write_text(run.model_dump_json())
    other = configured(file, [f"preset={new}"])
    # A recipe that counts in epochs replaces the steps too.
    steps = None if "epochs" in RECIPES[new] else 50
    assert other == run.changed(preset=new) == RunConfig.flat(preset=new, steps=steps, seed=3, size=320)
    named = {**PRESETS[new], **RECIPES[new], **TOKENS.get(new, {}), "preset": new, "recipe": new}
    assert {leaf: other.leaves[leaf] for leaf in named} == named
    assert other.fusion == FusionConfig.model_validate({"preset": new}), "nothing of the old model is left"
    given = configured(file, [f"preset={new}", "depth=3", "batch=5"])
    assert (given.fusion.depth, given.training.batch) == (3, 5)


@pytest.mark.parametrize("new", RECIPES)
def test_a_recipe_over_a_whole_run_leaves_the_model_alone(new: str) -> None:
    run = RunConfig.flat(preset="modern", lr=0.5, steps=50, width=24)
    other = run.changed(recipe=new)
    assert other.fusion == run.fusion and other.pair == run.pair
    steps = {} if "epochs" in RECIPES[new] else {"steps": 50}
    assert other.training == TrainingConfig.model_validate({"recipe": new, **steps})


def test_a_preset_leaves_the_reading_of_another_pair_alone() -> None:
    pair = {"visual": "clip-vit-b16", "text": "clip-vit-b16", "visual_tokens": "last", "templates": "photo"}
    run = RunConfig.flat(preset="small", **pair)
    assert run.changed(preset="bmvc2022").pair == run.pair


def test_a_preset_that_is_no_name_is_told() -> None:
    with pytest.raises(FusionerError, match=r"fusion\.preset = \['modern'\]"):
        RunConfig.flat(preset=["modern"])


@pytest.mark.parametrize("content", ["[1]", "{}", '{"run": 3}', '{"fusion": 3}', '{"fusions": {"depth": 3}}'])
def test_a_file_without_a_run_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(FusionerError, match="holds no run: expected objects under pair, fusion, data, training"):
        configured(file, [])


def test_a_table_of_vectors_is_asked_without_templates() -> None:
    assert RunConfig.flat(text="vectors:names.parquet").pair.templates == "none"
    assert RunConfig.flat(text="vectors:names.parquet", preset="small").pair.templates == "none"
    assert RunConfig.flat(text="vectors:names.parquet", templates="a.txt").pair.templates == "a.txt"
