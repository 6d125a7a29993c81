"""Execute one notebook with papermill, in a kernel of this Python environment, and print its output line by line."""

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
from workbook.parameter_cells import check_numbers, check_parameters
from workbook.sharing import make_shareable


def execute_notebook(notebook: Path, output: Path, *, parameters: Mapping[str, Any], cwd: Path | None = None) -> None:
    """Execute ``notebook`` in this environment's kernel, write it to ``output``, and print what it prints.

    ``output`` is written after every cell, so it holds the traceback of a cell that fails. In the end it names no
    absolute path (``sharing``). cwd: the kernel's working directory, the clone if not given. Raises FusionerError for a
    parameter that the notebook does not have, before a kernel starts; for a cell that fails; for a kernel that dies.
    """
    if output.exists() and output.samefile(notebook):
        raise FusionerError(f"the executed notebook would replace {notebook}: give another file")
    check_parameters(notebook, parameters)
    check_numbers(notebook, parameters)
    own_kernel()
    without_iri_grammar()
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ[HEADLESS] = "1"
    clone = notebook.resolve().parents[1]
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
                cwd=str(cwd or clone),
                progress_bar=False,
                # Otherwise every kernel warns that its sockets (loopback, signed) are not encrypted.
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
                stdout_file=echo,
                stderr_file=echo,
                **_own_sockets(sockets),
            )
        except PapermillExecutionError as error:
            problem = f"stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}"
            raise FusionerError(f"{notebook.stem} {problem}\n  its traceback: {output}") from error
        except RuntimeError as error:  # nbclient's DeadKernelError, and a kernel that never came up
            remedy = "the machine may have run out of memory, so try a smaller batch or size"
            raise FusionerError(f"{notebook.stem} lost its kernel ({error}): {remedy}") from error
        finally:
            if output.is_file():
                make_shareable(output, clone=clone, given=parameters)
    echo.write(f"done in {time.monotonic() - started:.0f} s\n")


def without_iri_grammar() -> None:
    """Keep jsonschema, which papermill and nbconvert import, from compiling a grammar of URIs that no notebook needs.

    It takes 2.5 seconds in each process. Where the package is missing, jsonschema does not check that one format.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def _own_sockets(folder: str) -> dict[str, Any]:
    """Options that connect a kernel by files: two kernels that start at once may choose the same TCP port."""
    if os.name != "posix":
        return {}
    from traitlets.config import Config

    # A short path: the name of a socket has room for some hundred characters.
    return {"config": Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})}


def own_kernel() -> None:
    """Make the Jupyter kernel "python3" the one of this Python environment, whichever environment is active.

    Raises FusionerError where another environment's kernel is still found first, and for a user without a home.
    """
    if os.path.expanduser("~") == "~":
        raise FusionerError(
            "this user has no home folder, which Jupyter needs: set the environment variable HOME to a folder that it "
            "may write to"
        )
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
    """A text stream that prints whole lines, each after the notebook's name; a carriage return ends a line too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            print(f"{self.name} | {line}", flush=True)

    def flush(self) -> None:
        pass
