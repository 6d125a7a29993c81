"""Rehearsal: soft targets of the parent for its own names, and statistics that stay those of the parent."""

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import text_cache_of
from fusionerlib.models.examples import ADDED
from fusionerlib.runs import fit, train_run
from fusionerlib.training.batch_sources import training_batch_source
from fusionerlib.training.rehearsal import NAMES, Rehearsal
from fusionerlib.training.start import starting_point
from tests.small_runs import drawn, small_run


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    run = RunConfig.flat(init="packaged", rehearsal=1.0)
    start = starting_point(run)
    assert start is not None
    settings = {"text_cache": text_cache_of(run.pair), "weight": 1.0, "seed": 0, "device": torch.device("cpu")}
    return Rehearsal(start, vocabulary=["car", "person"], **settings)


def test_names_of_the_new_data_are_not_rehearsed(rehearsal):
    assert len(rehearsal.names) == 88 and not {"car", "person"} & set(rehearsal.names)
    assert rehearsal.text_tokens(3).shape == (NAMES, 1000 + 432 + ADDED)
    assert torch.equal(rehearsal.text_tokens(3), rehearsal.text_tokens(3))
    assert not torch.equal(rehearsal.text_tokens(3), rehearsal.text_tokens(4))


def test_targets_are_the_parents_logits_in_training_without_dropout(rehearsal):
    torch.manual_seed(0)
    patches, text = torch.rand(2, 100, 1432), rehearsal.text_tokens(0).expand(2, -1, -1)
    parent = checkpoints.load(checkpoints.packaged_folder()).model
    parent.train()  # gives the logits of the text alone, not rescaled, then those with examples
    for module in parent.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()
    grid, size = (10, 10), (20, 20)
    with torch.no_grad():
        expected = parent(patches, text, grid=grid, size=size).sigmoid()
    found = rehearsal.probabilities(patches, text, grid=grid, size=size)
    assert found.shape == (2, 2 * NAMES, *size)
    assert torch.allclose(found, expected, atol=1e-5)


def _old_error(leaves, folder, root, checkpoint):
    """How far a training with ``leaves`` moves the probabilities of the parent's other names, and its statistics."""
    run = small_run(folder, root, init=str(checkpoint), steps=30, lr=3e-3, **leaves)
    context = RunContext(run)
    source = training_batch_source(context, quiet=True)
    directory = folder / f"own-{leaves.get('rehearsal', 0)}"
    own = train_run(context, directory=directory, source=source, quiet=True).checkpoint.model
    parent = checkpoints.load(checkpoint)
    tokens, _ = source.scenes.batch([0, 1, 2])
    old = sorted(set(parent.trained_names) - {name for _, name in source.pairs()})
    text = context.text_cache.tokens(old)[None].expand(3, -1, -1)
    rows, columns = tokens.shape[1:3]
    patches = tokens.float().flatten(1, 2)
    with torch.no_grad():
        answers = [m(patches, text, grid=(rows, columns), size=(16, 16)).sigmoid() for m in (own, parent.model)]
    return float((answers[0] - answers[1]).abs().mean())


def test_it_keeps_what_the_parent_says_of_other_names(tmp_path):
    root = drawn(tmp_path / "things")
    trained = checkpoints.load(fit(small_run(tmp_path, root, steps=2), tmp_path / "run", quiet=True))
    checkpoint = tmp_path / "parent"
    # The drawn things name all their names: others are added, which nothing trains on.
    names = [*trained.trained_names, "lamp", "chair", "fork", "train", "lake"]
    checkpoints.save(checkpoint, model=trained.model, run=trained.run, trained_names=names)
    plain = _old_error({}, tmp_path, root, checkpoint)
    kept = _old_error({"rehearsal": 20.0}, tmp_path, root, checkpoint)
    assert kept < 0.75 * plain


def test_nothing_to_rehearse_is_no_error(tmp_path):
    root = drawn(tmp_path / "things")
    checkpoint = fit(small_run(tmp_path, root), tmp_path / "run", quiet=True)
    own = [
        checkpoints.load(fit(small_run(tmp_path, root, init=str(checkpoint), rehearsal=weight), folder, quiet=True))
        for weight, folder in ((0.0, tmp_path / "without"), (1.0, tmp_path / "with"))
    ]
    states = [one.model.state_dict() for one in own]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_start_without_preset_and_recipe_rehearses():
    run = RunConfig.flat(init="packaged")
    assert (run.training.lr, run.training.rehearsal) == (5e-4, 10.0)
    assert RunConfig.flat(init="packaged", rehearsal=0, lr=1e-3).training.rehearsal == 0
    by_recipe = RunConfig.flat(init="packaged", recipe="modern").training
    assert (by_recipe.lr, by_recipe.rehearsal) == (2e-3, 0)


def test_without_a_parent_it_is_refused():
    with pytest.raises(FusionerError, match=r"rehearsal 1\.0 needs a checkpoint"):
        RunConfig.flat(rehearsal=1.0)
