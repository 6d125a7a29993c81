"""What another busy program costs a training step: with libgomp's own spinning, and with fusionerlib's shorter one.

    python benchmarks/busy_cores.py

Threads of torch that share an operation wait for each other by spinning. The environment sets that wait before torch
is loaded, so each measurement is a process of its own: the demo's training step (16 images, 196 patches), alone and
beside a program that keeps one core busy. The sides run in turns; the median of the turns counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, write_record
from sides import Ours

from fusionerlib.config import RunConfig

GNU_DEFAULT = "300000"
"""libgomp's own wait where there are at least as many cores as threads."""


def main() -> None:
    """Time all four sides in turns, and print milliseconds a step and the ratios."""
    options = arguments()
    sides = {(wait, busy): [] for wait in ("libgomp", "fusionerlib") for busy in ("alone", "busy")}
    for _ in range(options.turns):
        for (wait, busy), found in sides.items():
            found.append(measured(wait, busy=busy == "busy", steps=options.steps))
    medians = {side: statistics.median(found) for side, found in sides.items()}
    for (wait, busy), value in medians.items():
        print(f"{wait:12}{busy:6}{value:8.0f} ms a step")
    ratios = {busy: medians["libgomp", busy] / medians["fusionerlib", busy] for busy in ("alone", "busy")}
    for busy, value in ratios.items():
        print(f"libgomp / fusionerlib, {busy}: {value:.2f}")
    rows = {f"{wait}, {busy}": found for (wait, busy), found in sides.items()}
    write_record(options.json, {"machine": machine(), "milliseconds": rows, "libgomp by fusionerlib": ratios})


def measured(wait: str, *, busy: bool, steps: int) -> float:
    """Milliseconds a step in a process of its own, beside a program that counts if ``busy``."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    if wait == "libgomp":
        environment["GOMP_SPINCOUNT"] = GNU_DEFAULT
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        # fusionerlib first: its wait holds where torch is loaded after it.
        code = f"import fusionerlib, busy_cores; print(busy_cores.milliseconds_a_step({steps}))"
        command, here = [sys.executable, "-c", code], Path(__file__).parent
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout.split()[-1])


def milliseconds_a_step(steps: int) -> float:
    """The demo's step in this process, after three steps that are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(RunConfig.flat(), Path(folder), "cpu")
        batch = ours.stored()
        for _ in range(3):
            ours.train(batch)
        start = time.perf_counter()
        for _ in range(steps):
            ours.train(batch)
        return (time.perf_counter() - start) / steps * 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="steps of each process")
    parser.add_argument("--turns", type=int, default=3, help="processes of each side")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
