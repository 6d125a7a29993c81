"""One notebook executed: bad parameters stop it, a failure stays on disk, the kernel is this environment's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from tests.conftest import MakeNotebook
from workbook.execution import execute_notebook

CONFIG = "from workbook.notebook import TrainingNotebook\np = TrainingNotebook.from_namespace(globals())"


def test_an_unknown_parameter_stops_the_runner_before_a_kernel(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    notebook = make_notebook(tmp_path / "n.ipynb", "steps: int = 3", CONFIG)
    with pytest.raises(FusionerError, match="did you mean 'steps'"):
        execute_notebook(notebook, tmp_path / "out.ipynb", parameters={"stpes": 1})
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(("given", "told"), [("stpes=2", "did you mean 'steps'"), ("steps=soon", "steps = 'soon'")])
def test_plain_papermill_fails_on_a_bad_parameter(
    tmp_path: Path, make_notebook: MakeNotebook, given: str, told: str
) -> None:
    notebook = make_notebook(tmp_path / "n.ipynb", 'run_dir: str = "x"\nsteps: int = 3', CONFIG)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(tmp_path / "out.ipynb")]
    done = subprocess.run([*command, "-p", *given.split("=")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert told in done.stderr


def test_a_failed_notebook_stays_with_its_traceback_in_our_own_kernel(
    tmp_path: Path, make_notebook: MakeNotebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):  # another environment's kernels, found first by default
        kernel = tmp_path / name / "kernels" / "python3"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("JUPYTER_PREFER_ENV_PATH", raising=False)
    monkeypatch.setenv("FUSIONER_HEADLESS", "0")  # the runner sets it in this process
    say = "import sys, os; print(sys.prefix); print(os.getcwd()); print('half', end='\\r'); print('whole')"
    notebook = make_notebook(tmp_path / "notebooks" / "n.ipynb", "steps: int = 3", say, "steps / 0", "print('after')")
    with pytest.raises(FusionerError, match=r"n stopped in cell .* with ZeroDivisionError: division by zero"):
        execute_notebook(notebook, tmp_path / "deep" / "out.ipynb", parameters={"steps": 5})
    executed = json.loads((tmp_path / "deep" / "out.ipynb").read_text())
    errors = [output for cell in executed["cells"] for output in cell.get("outputs", []) if "traceback" in output]
    assert [error["ename"] for error in errors] == ["ZeroDivisionError"]
    echoed = capsys.readouterr().out.splitlines()
    assert echoed == ["n | started", f"n | {sys.prefix}", f"n | {tmp_path}", "n | half", "n | whole"]


def test_a_lock_refuses_a_second_holder_and_leaves_nothing_stale(tmp_path: Path) -> None:
    told = pytest.raises(FusionerError, match="the work is going on in another process")
    with exclusive(tmp_path / "lock", "the work"), told, exclusive(tmp_path / "lock", "the work", patience=0.2):
        pass
    with exclusive(tmp_path / "lock", "the work"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="such sockets are POSIX's")
def test_a_kernel_talks_through_files_that_are_gone_afterwards(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    """Two kernels that start at once may draw one TCP port, and one of them never answers."""
    told = "import json, ipykernel\ntold = json.load(open(ipykernel.get_connection_file()))"
    notebook = make_notebook(tmp_path / "n.ipynb", "steps: int = 3", told, 'print(told["transport"], told["ip"])')
    execute_notebook(notebook, tmp_path / "out.ipynb", parameters={})
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    transport, address = "".join(cells[-1]["outputs"][0]["text"]).split()
    assert transport == "ipc"
    assert not Path(address).parent.exists()
