"""Devices by name, and a run that trains and is measured on a GPU, where there is one, as on the CPU."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fusionerlib import checkpoints, devices
from fusionerlib.config import RunConfig
from fusionerlib.devices import bf16_instructions, chosen_device, has_native_bf16, one_core_free, thread_pool
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import present_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import in_precision_of, text_cache_of, visual_of
from fusionerlib.runs import fit, train_run
from tests.small_runs import drawn, small_run
from workbook.notebook import EvaluationNotebook, TrainingNotebook


def test_a_device_is_chosen_by_name() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    assert chosen_device("").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(FusionerError, match=rf"device '{name}' can't be used here .*give cpu"):
            chosen_device(name)


def test_one_core_is_left_free() -> None:
    before = torch.get_num_threads()
    try:
        for threads, left in ((1, 1), (2, 1), (5, 4)):
            torch.set_num_threads(threads)
            with pytest.raises(ValueError, match="inside"), one_core_free():
                assert torch.get_num_threads() == left
                raise ValueError("inside")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_notebook_is_told_of_a_device_that_is_not_there() -> None:
    assert EvaluationNotebook.from_namespace({"device": ""}).device == str(chosen_device(""))
    with pytest.raises(FusionerError, match=r"device = 'cuda:99'.*can't be used here"):
        TrainingNotebook.from_namespace({"device": "cuda:99", "steps": 3})


@pytest.fixture(params=[True, False], ids=["bf16", "no bf16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor with, or without, instructions for bf16."""
    found = {"avx2": True, "avx512_bf16": request.param, "amx_bf16": False, "num_cores": 4}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    return bool(request.param)


def test_bf16_is_native_where_the_processor_has_instructions_for_it(native: bool) -> None:
    assert has_native_bf16("cpu") is native and bf16_instructions() == ["avx512_bf16"] * native
    assert not has_native_bf16("mps")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_native_from_ampere_on(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16("cuda") is expected and has_native_bf16("cuda:1") is expected


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the system has no /proc/cpuinfo")
def test_an_older_torch_reads_the_systems_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_native_bf16("cpu") is expected
    assert len(devices._processor_flags()) > 5


def test_auto_becomes_what_the_device_multiplies(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunConfig.flat(preset="modern", precision="auto")
    assert run.training.mixed_precision == run.pair.precision == "auto"
    context = RunContext(run)
    decided = context.run
    assert decided.training.mixed_precision == ("bf16" if native else "no")
    assert decided.pair.precision == ("bfloat16" if native else "float32")
    assert decided.changed(mixed_precision="auto", precision="auto") == run
    assert context.with_run(run).run == decided == in_precision_of(decided, "mps")
    assert in_precision_of(run, "mps").training.mixed_precision == "no"
    # What was asked for by name stays, on every machine.
    for kept in (RunConfig.flat(preset="modern", mixed_precision="fp16"), RunConfig.flat(preset="bmvc2022")):
        assert RunContext(kept).run == kept
    assert RunConfig.flat(preset="bmvc2022").training.mixed_precision == "no"


def test_towers_of_an_undecided_precision_are_those_of_the_decided_one(native: bool) -> None:
    pairs = [RunConfig.flat(precision=name).pair for name in ("auto", "bfloat16" if native else "float32")]
    visual, text = (
        {side(pair).fingerprint for pair in pairs} for side in (visual_of, lambda pair: text_cache_of(pair).encoder)
    )
    assert len(visual) == len(text) == 1


def test_record_and_checkpoint_say_what_was_decided(tmp_path: Path, native: bool) -> None:
    expected = "bf16" if native else "no"
    run = small_run(tmp_path / "features", drawn(tmp_path / "things"), steps=2, mixed_precision="auto")
    made = fit(run, tmp_path / "run", device="cpu", quiet=True)
    record = json.loads((tmp_path / "run" / "records" / "training.json").read_text())
    assert record["config"]["training"]["mixed_precision"] == expected
    assert checkpoints.load(made).run.training.mixed_precision == expected
    assert '"auto"' not in (made / "config.json").read_text()
    # The run under its decided name is the same training: it goes on where this one ended.
    again = train_run(
        RunContext(run.changed(mixed_precision=expected)), directory=tmp_path / "run" / "training", quiet=True
    )
    assert again.history == record["history"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_trains_and_measures_what_a_cpu_does(tmp_path: Path) -> None:
    root, losses, figures = drawn(tmp_path / "things"), {}, {}
    for device in ("cpu", "cuda"):
        run = small_run(tmp_path / device, root, steps=3, dropout=0.0, text_noise=0.0)
        context = RunContext(run, device)
        trained = train_run(context, directory=tmp_path / device / "training", quiet=True)
        losses[device] = [row["loss"] for row in trained.history]
        checkpoints.save(tmp_path / device / "made", model=trained.checkpoint.model, run=run, trained_names=())
        context, loaded = RunContext.of_checkpoint(tmp_path / device / "made", device=device)
        assert loaded.model.device.type == device
        stored = context.features(context.sets.tests["seen"])
        figures[device] = evaluate(
            loaded.model, stored, context.text_cache, present_queries(stored), quiet=True
        ).counts.fb_iou
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-2)
    assert figures["cuda"] == pytest.approx(figures["cpu"], abs=0.05)


def test_the_threads_of_a_pool_share_those_of_torch() -> None:
    before = torch.get_num_threads()
    try:
        for threads, most, each in ((4, 2, 2), (4, 8, 1), (1, 8, 1)):
            torch.set_num_threads(threads)
            with thread_pool(most) as pool:
                assert set(pool.map(lambda _: torch.get_num_threads(), range(16))) == {each}
                assert pool._max_workers == min(threads, most)
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
