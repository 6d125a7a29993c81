"""Training that starts from a checkpoint: its weights, its record of parents, and what it refuses."""

import shutil
from pathlib import Path

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.hub import find_checkpoint
from fusionerlib.models import build
from fusionerlib.runs import fit
from fusionerlib.training.start import starting_point
from tests.small_runs import drawn, small_run


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder of features, the drawn things, and a checkpoint of two steps on them."""
    folder = tmp_path_factory.mktemp("parent")
    root = drawn(folder / "things")
    return folder, root, fit(small_run(folder, root, steps=2), folder / "run", quiet=True)


def test_training_starts_from_the_weights(parent, tmp_path):
    """At a learning rate of nearly 0 and without decay, one step leaves the parent's weights."""
    folder, root, checkpoint = parent
    still = {"lr": 1e-12, "final_lr": 0.0, "weight_decay": 0.0, "final_weight_decay": 0.0, "seed": 5}
    own = checkpoints.load(fit(small_run(folder, root, init=str(checkpoint), **still), tmp_path / "own", quiet=True))
    before = checkpoints.load(checkpoint)
    for name, weight in before.model.state_dict().items():
        assert torch.allclose(own.model.state_dict()[name].float(), weight.float(), atol=1e-6), name
    [recorded] = own.parents
    assert (recorded.checkpoint, recorded.sha256) == ("checkpoint", checkpoints.weights_sha256(checkpoint))
    assert set(before.trained_names) <= set(own.trained_names)
    torch.manual_seed(5)
    random = build(own.run.fusion, visual_width=own.model.visual_width, text_width=own.model.text_width)
    assert any(not torch.allclose(random.state_dict()[key], value) for key, value in own.model.state_dict().items())


def test_a_grandchild_names_both(parent, tmp_path):
    folder, root, checkpoint = parent
    child = fit(small_run(folder, root, init=str(checkpoint)), tmp_path / "child", quiet=True)
    grandchild = checkpoints.load(fit(small_run(folder, root, init=str(child)), tmp_path / "grandchild", quiet=True))
    assert [one.sha256 for one in grandchild.parents] == [
        checkpoints.weights_sha256(one) for one in (child, checkpoint)
    ]


def test_a_run_without_preset_takes_pair_fusion_and_recipe_from_the_checkpoint():
    packaged = checkpoints.load(checkpoints.packaged_folder()).run
    run = RunConfig.flat(init="packaged", steps=3)
    assert (run.pair, run.fusion, run.training.recipe, run.training.steps) == (
        packaged.pair,
        packaged.fusion,
        "modern",
        3,
    )
    assert starting_point(run) is not None
    assert RunConfig.flat(init="packaged", recipe="small").training.loss == "bce"


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ({"depth": 3}, r"init 'packaged' has depth = 2, this run depth = 3: set depth = 2"),
        ({"text": "constant"}, r"has text = 'packaged', this run text = 'constant'"),
        ({"synonyms": ""}, r"has synonyms = 'everyday', this run synonyms = ''"),
        ({"names": "identifiers"}, r"has names = 'words'"),
        ({"preset": "small"}, r"has templates|has visual_tokens"),
    ],
)
def test_another_pair_or_model_is_refused_by_name(leaves, message):
    with pytest.raises(FusionerError, match=message):
        starting_point(RunConfig.flat(init="packaged", **leaves))


def test_a_name_that_the_checkpoint_knows_can_not_be_held_out():
    with pytest.raises(FusionerError, match="held_out 'couch': init 'packaged' was trained on it"):
        starting_point(RunConfig.flat(init="packaged", dataset="folder", held_out=["sofa"]))


def test_no_checkpoint_is_refused_when_the_run_is_made():
    with pytest.raises(FusionerError, match="no checkpoint 'nowhere'"):
        RunConfig.flat(init="nowhere")


def test_a_checkpoint_is_found_by_a_run_s_folder_and_a_near_name_is_said(parent, tmp_path, monkeypatch):
    _, _, checkpoint = parent
    shutil.copytree(checkpoint, tmp_path / "outputs" / "mine" / "checkpoint")
    monkeypatch.chdir(tmp_path)
    for given in ("mine", "outputs/mine", "outputs/mine/checkpoint", tmp_path / "outputs" / "mine"):
        found = find_checkpoint(given)
        assert found.resolve() == tmp_path / "outputs" / "mine" / "checkpoint", given
    for wrong, near in (("pakaged", "packaged"), ("mime", "mine")):
        with pytest.raises(FusionerError, match=rf"no checkpoint '{wrong}'.*did you mean '{near}'\?"):
            find_checkpoint(wrong)


def test_what_changes_no_shape_may_differ():
    assert starting_point(RunConfig.flat(init="packaged", dropout=0.3, precision="bfloat16")) is not None


def test_a_running_checkpoint_of_another_parent_is_not_resumed(parent, tmp_path):
    folder, root, checkpoint = parent
    start = tmp_path / "start"
    trained = checkpoints.load(checkpoint)
    checkpoints.save(start, model=trained.model, run=trained.run, trained_names=trained.trained_names)
    fit(small_run(folder, root, init=str(start)), tmp_path / "own", quiet=True)
    with torch.no_grad():
        next(trained.model.parameters()).add_(1.0)
    checkpoints.save(start, model=trained.model, run=trained.run, trained_names=trained.trained_names)
    with pytest.raises(FusionerError, match=r"checkpoint of another run \(parents was"):
        fit(small_run(folder, root, init=str(start)), tmp_path / "own", quiet=True)
