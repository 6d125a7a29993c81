"""Training in two real processes, and a training that is killed: both end where an undisturbed one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fusionerlib.errors import FusionerError
from fusionerlib.models import SegmentationModel
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.resume import History
from tests.conftest import ROOT
from tests.launched import config, trained

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TOGETHER: dict[str, dict[str, Any]] = {
    "small": {"preset": "small", "dropout": 0.0, "text_noise": 0.3},
    "cost_aggregation": {"kind": "cost_aggregation", "similarity": "learned", "dropout": 0.0, "loss": "bce+dice"},
    "cost aggregation in parts": {"kind": "cost_aggregation", "similarity": "learned", "dropout": 0.0, "accumulate": 2},
    "online": {"feed": "online", "workers": 0, "dropout": 0.0},
    # 19 pairs: an epoch's last batch has seven, or a single one, of which a process has none.
    "seven left over": {"kind": "cost_aggregation", "similarity": "learned", "dropout": 0.0, "batch": 12, "epochs": 2},
    "one left over": {"dropout": 0.0, "batch": 18, "epochs": 2, "warmup_epochs": 1},
}
"""What is trained in two processes and in one."""

STOPPED: dict[str, Any] = {"steps": 70, "checkpoint_every": 3, "dropout": 0.1, "text_noise": 0.3}
"""What is trained with a stop and without."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several processes need the extra `runs`")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    # With --cpu, accelerate starts several processes by MPI alone, and else a single one without a word.
    command += ["--main_process_port", free_port(), "-m", "tests.launched", str(tmp_path / "two")]
    command += [json.dumps(changes) for changes in TOGETHER.values()]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for place, (name, changes) in enumerate(TOGETHER.items()):
        model, history = trained(config(**{**changes, "accumulate": 1}), tmp_path / "one" / name)
        told = json.loads((tmp_path / "two" / f"{place}.json").read_text())
        losses = told["losses"]
        assert told["processes"] == 2 and len(losses) == 4
        assert losses == pytest.approx([row["loss"] for row in history], abs=1e-5), name
        # Not every weight: AdamW divides a gradient that is all rounding by its own size.
        theirs = load_file(tmp_path / "two" / f"{place}.safetensors")
        for key, tensor in model.named_buffers():
            assert torch.allclose(tensor, theirs[key], atol=1e-5), (name, key)
        assert (tmp_path / "two" / str(place) / "reached").read_text() == "4", "only the main process validates"
    assert len(list((tmp_path / "two" / "0").glob("step-*"))) == 2, "the last and its predecessor"


def test_a_batch_that_can_t_be_shared_names_the_remedy() -> None:
    with pytest.raises(
        FusionerError, match=r"batch of 10 can't be shared equally by 4 processes.*multiple of 4, such as"
    ):
        Distributed(0, 4, torch.device("cpu")).share(10)
    with pytest.raises(FusionerError, match=r"by 2 processes, each in 4 parts.*multiple of 8, such as 8"):
        Distributed(1, 2, torch.device("cpu")).share(10, parts=4)
    shares = [Distributed(index, 3, torch.device("cpu")).share(12, parts=2) for index in range(3)]
    assert [place for share in shares for place in range(12)[share]] == list(range(12))


def reached(folder: Path) -> int:
    try:
        return int((folder / "0" / "reached").read_text())
    except (FileNotFoundError, ValueError):
        return 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationModel, History]:
    return trained(config(**STOPPED), tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_training_loses_one_interval_at_most_and_ends_at_the_same_weights(
    how: signal.Signals, undisturbed: tuple[SegmentationModel, History], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.launched", str(tmp_path), json.dumps(STOPPED)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while reached(tmp_path) < 10 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(how)
    _, problems = process.communicate(timeout=60)
    assert process.returncode == -how, problems[-3000:]
    stopped = reached(tmp_path)
    kept = max(int(path.name[5:]) for path in (tmp_path / "0").glob("step-???????"))
    assert 10 <= stopped < STOPPED["steps"] and 0 <= stopped - kept <= STOPPED["checkpoint_every"]
    (tmp_path / "0" / "reached").unlink()
    resumed, history = trained(config(**STOPPED), tmp_path / "0")
    assert reached(tmp_path) == STOPPED["steps"] - kept and len(history) == STOPPED["steps"]
    straight, whole = undisturbed
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    for key, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
