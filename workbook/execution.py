"""One notebook executed by papermill, in a kernel of this very environment, with its progress told line by line."""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from fusionerlib.progress import HEADLESS
from workbook.parameter_cells import check_parameters


def execute_notebook(notebook: Path, output: Path, *, parameters: Mapping[str, Any], cwd: Path | None = None) -> None:
    """``notebook`` executed by papermill in this environment's kernel, its output streams echoed line by line.

    ``output`` is written after every cell, so a failed notebook is there with its traceback. Raises FusionerError
    for a parameter that the notebook does not have (before a kernel starts) and for a cell that fails.
    """
    check_parameters(notebook, parameters)
    own_kernel()
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ[HEADLESS] = "1"
    output.parent.mkdir(parents=True, exist_ok=True)
    echo = _Echo(notebook.stem)
    echo.write("started\n")
    started = time.monotonic()
    with (
        exclusive(output.parent / f".{output.stem}.lock", f"the execution of {output}"),
        tempfile.TemporaryDirectory(prefix="fusioner-", ignore_cleanup_errors=True) as sockets,
    ):
        try:
            papermill.execute_notebook(
                str(notebook.resolve()),
                str(output.resolve()),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=str(cwd or notebook.resolve().parents[1]),
                progress_bar=False,
                # Else every kernel warns that its sockets (loopback, signed) are not encrypted.
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
                stdout_file=echo,
                stderr_file=echo,
                **_own_sockets(sockets),
            )
        except PapermillExecutionError as error:
            problem = f"stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}"
            raise FusionerError(f"{notebook.stem} {problem}\n  its traceback: {output}") from error
        except RuntimeError as error:  # nbclient's DeadKernelError, and a kernel that never came up
            raise FusionerError(f"{notebook.stem} lost its kernel ({error}): was the memory enough?") from error
    echo.write(f"done in {time.monotonic() - started:.0f} s\n")


def _own_sockets(folder: str) -> dict[str, Any]:
    """What makes a kernel talk through files of its own: of kernels that start at once, two may draw one TCP port."""
    if os.name != "posix":
        return {}
    from traitlets.config import Config

    # A short path: the name of a socket has room for some hundred characters.
    return {"config": Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})}


def own_kernel() -> None:
    """Make sure that "python3" is a kernel of this very environment, whatever else the caller has active.

    Raises FusionerError where it is another environment's even after it was written anew.
    """
    os.environ.pop("JUPYTER_PATH", None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    if not _kernel_is_ours():
        from ipykernel.kernelspec import install

        install(prefix=sys.prefix)
        if not _kernel_is_ours():
            raise FusionerError(
                f"the Jupyter kernel 'python3' is not the one of {sys.prefix}: "
                f"run `{sys.executable} -m ipykernel install --sys-prefix`"
            )


def _kernel_is_ours() -> bool:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return False
    program = Path(spec.argv[0])
    # jupyter_client puts sys.executable where a kernel says plain "python".
    own_program = program.name == spec.argv[0] or program.parent == Path(sys.executable).parent
    return own_program and Path(spec.resource_dir).resolve().is_relative_to(Path(sys.prefix).resolve())


class _Echo:
    """A file that prints whole lines after the notebook's name; a progress bar's carriage return ends a line too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            print(f"{self.name} | {line}", flush=True)

    def flush(self) -> None:
        pass
