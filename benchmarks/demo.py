"""`make demo` without its installation: minutes, processor minutes, and figures, each seed from an empty folder.

    python benchmarks/demo.py                  one seed
    python benchmarks/demo.py --seeds 0 1 2 --folder /tmp/demos

Targets: the first page within 40 s, at most 6 minutes on two cores, mIoU on unseen combinations at least 0.50,
assignment at least 0.75 (unseen combinations) and 0.60 (unseen objects). Figures are compared at the mean over seeds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import machine, write_record

TARGETS = {"combinations": 0.50, "assignment, combinations": 0.75, "assignment, objects": 0.60}
MINUTES, FIRST_PAGE = 6.0, 40.0


def main() -> None:
    """Run the demo once a seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [measured((options.folder or Path(scratch)) / f"seed-{seed}", seed=seed) for seed in options.seeds]
    means = {name: statistics.mean(row[name] for row in rows) for name in TARGETS}
    for name, least in TARGETS.items():
        print(f"{name}: {means[name]:.3f}, {'reached' if means[name] >= least else 'MISSED'} ({least})")
    slowest, page = max(row["minutes"] for row in rows), max(row["first_page_seconds"] for row in rows)
    print(f"slowest run: {slowest:.1f} min, {'reached' if slowest <= MINUTES else 'MISSED'} ({MINUTES:.0f})")
    print(f"first page: {page:.0f} s, {'reached' if page <= FIRST_PAGE else 'MISSED'} ({FIRST_PAGE:.0f})")
    write_record(options.json, {"benchmark": "demo", "machine": machine(), "rows": rows, "means": means})


def measured(folder: Path, *, seed: int) -> dict[str, Any]:
    """One run in the empty folder ``folder``, with its own data and features."""
    run = folder / "run"
    command = [sys.executable, "-m", "fusionerlib.cli.app", "run", "demo", "--output", str(run)]
    for setting in (f"data.root={folder / 'data'}", f"02_training.features={folder / 'features'}"):
        command += ["--set", setting]
    command += ["--set", f"02_training.seed={seed}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run(command, check=True)
    seconds, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads((run / "metrics.json").read_text())
    row = {
        "seed": seed,
        "minutes": seconds / 60,
        "cpu_minutes": spent / 60,
        "first_page_seconds": (run / "first_look.html").stat().st_mtime - began,
        "combinations": found["unseen_combinations"]["miou"],
        "assignment, combinations": found["mosaic4"]["combinations"]["assignment"],
        "assignment, objects": found["mosaic4"]["objects"]["assignment"],
    }
    print(", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
