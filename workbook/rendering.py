"""Executed copies of the notebooks for the docs site; those in ``notebooks`` are committed without outputs.

``python -m workbook.rendering outputs/rendered``, which ``make docs`` runs after the demo. 01 to 05 are the demo's; 00
and 06 are executed; 07 to 09 only where this machine has records of their studies, since without records they take
hours. A notebook without a copy is shown as it is committed, and this program says why.
"""

import shutil
import sys
from pathlib import Path

from fusionerlib.errors import FusionerError
from workbook.clone import find_clone
from workbook.execution import execute_notebook
from workbook.report.records import notebooks_of

DEMO = "outputs/demo"
RECORDS = {
    "07_encoder_pairs": "outputs/notebooks/encoder_pairs/runs",
    "08_words_that_carry_over": "outputs/notebooks/transfer/runs",
    "09_performance": "outputs/benchmarks",
}
"""The folder with the JSON records of each study."""


def render(output: Path, *, clone: Path) -> dict[str, str]:
    """Write the executed copies into ``output``, by the notebook's stem; returns why a notebook has none."""
    output.mkdir(parents=True, exist_ok=True)
    finished = {run.stem for run in notebooks_of(clone / DEMO) if run.problem is None}
    missing = {}
    for source in sorted((clone / "notebooks").glob("*.ipynb")):
        stem, copy = source.stem, output / source.name
        records = RECORDS.get(stem)
        if stem in finished:
            shutil.copy(clone / DEMO / "notebooks" / source.name, copy)
        elif stem[:2] in ("01", "02", "03", "04", "05"):
            missing[stem] = "the demo has not finished it: run `fusioner run demo`"
        elif records and not list((clone / records).glob("*.json")):
            missing[stem] = f"no records in {records}"
        elif not copy.is_file() or copy.stat().st_mtime < source.stat().st_mtime:
            try:
                execute_notebook(source, copy, parameters={}, cwd=clone)
            except FusionerError as error:
                copy.unlink(missing_ok=True)
                missing[stem] = str(error)
    return missing


if __name__ == "__main__":
    for name, reason in render(Path(sys.argv[1]), clone=find_clone()).items():
        print(f"{name} is shown without outputs: {reason}")
