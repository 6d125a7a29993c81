"""Muon: against torch's for matrices, AdamW for the rest; and its state in a file."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fusionerlib.config import RunConfig, TrainingConfig
from fusionerlib.models import build
from fusionerlib.training.optimisers import ITERATIONS, LENGTH, NEWTON_SCHULZ, Muon, make_optimiser, orthogonal


def gradients(shape: tuple[int, ...], *, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def trained(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, *, steps: int = 6) -> torch.Tensor:
    for gradient in gradients(tuple(parameter.shape), steps=steps):
        parameter.grad = gradient.clone()
        optimiser.step()
        assert torch.equal(parameter.grad, gradient)
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_a_matrix_moves_as_by_torch_s_muon(shape: tuple[int, int]) -> None:
    theirs = pytest.importorskip("torch", minversion="2.9").optim.Muon
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    moved = trained(Muon([ours], lr=0.02, weight_decay=0.3), ours) - start
    rate = 0.02 * LENGTH / 0.2  # theirs makes updates as long as AdamW's
    muon = theirs([other], lr=rate, weight_decay=0.006 / rate, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    expected = trained(muon, other) - start
    # torch's multiplies in bfloat16, which has eight bits.
    assert float((moved - expected).norm() / expected.norm()) < 0.05


def test_the_update_of_a_matrix_has_singular_values_near_one_and_its_length() -> None:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(48, 20, generator=generator) @ torch.diag(torch.logspace(-1, 1, 20))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert torch.linalg.svdvals(matrix)[[0, -1]].log10().diff().abs() > 1.8
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    parameter = nn.Parameter(torch.zeros(48, 20))
    moved = trained(Muon([parameter], lr=1.0, weight_decay=0.0), parameter, steps=1)
    assert float(moved.square().mean().sqrt()) == pytest.approx(LENGTH, rel=0.25)
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(24, 24), (12, 60), (60, 12)])
@pytest.mark.parametrize("digits", [0, 4, 8])
def test_iterating_the_gram_matrix_is_iterating_the_matrix(shape: tuple[int, int], digits: int) -> None:
    generator = torch.Generator().manual_seed(digits)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrix = left @ torch.diag(torch.logspace(0, -digits, min(shape))) @ right
    found = matrix.double() / matrix.norm()
    for _ in range(ITERATIONS):
        square = found @ found.T
        found = sum(
            (factor * torch.linalg.matrix_power(square, power) @ found for power, factor in enumerate(NEWTON_SCHULZ)),
            torch.zeros_like(found),
        )
    assert float((orthogonal(matrix) - found).norm() / found.norm()) < 1e-3


def test_a_kernel_moves_as_the_matrix_of_its_rows() -> None:
    kernel, matrix = nn.Parameter(torch.zeros(6, 4, 3, 3)), nn.Parameter(torch.zeros(6, 36))
    kernels, matrices = (Muon([one], lr=0.1, weight_decay=0.0) for one in (kernel, matrix))
    for gradient in gradients((6, 4, 3, 3), steps=3):
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
        kernels.step()
        matrices.step()
    assert torch.equal(kernel.flatten(1), matrix) and float(matrix.detach().abs().max()) > 0


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1), (1, 1, 1, 1), ()])
def test_vectors_and_scalars_move_as_by_adamw(shape: tuple[int, ...]) -> None:
    ours, other = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    common = {"lr": 0.1, "weight_decay": 0.2}
    assert torch.equal(trained(Muon([ours], **common), ours), trained(torch.optim.AdamW([other], **common), other))


def test_groups_and_rates_are_those_of_adamw() -> None:
    run = RunConfig.flat(preset="small", optimiser="muon", width=16, heads=2)
    model = build(run.fusion, visual_width=8, text_width=8)
    muon, adamw = make_optimiser(model, run.training), make_optimiser(model, TrainingConfig())
    assert isinstance(muon, Muon) and type(adamw) is torch.optim.AdamW
    for ours, theirs in zip(muon.param_groups, adamw.param_groups, strict=True):
        assert [id(one) for one in ours["params"]] == [id(one) for one in theirs["params"]]
        assert {**ours, "params": ()} == {**theirs, "params": ()}


def test_a_parameter_without_a_gradient_stays_and_the_state_goes_through_a_file(tmp_path: Path) -> None:
    used, unused = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimiser = Muon([used, unused], lr=0.1, weight_decay=0.5)
    trained(optimiser, used, steps=2)
    assert torch.equal(unused, torch.ones(4, 4)) and unused not in optimiser.state
    again = nn.Parameter(used.detach().clone())
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    kept = Muon([again, nn.Parameter(torch.ones(4, 4))], lr=0.1, weight_decay=0.5)
    kept.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(trained(optimiser, used, steps=2), trained(kept, again, steps=2))
