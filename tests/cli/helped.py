"""The help of a command line, asked for in a process of its own."""

import subprocess
import sys


def help_without(heavy: set[str], *, module: str, app: str) -> str:
    """What ``--help`` of ``app`` in ``module`` prints; fails where any of ``heavy`` was imported for it."""
    code = (
        f"import sys; from {module} import {app}\n"
        f"try: {app}(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"heavy = {heavy!r} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
