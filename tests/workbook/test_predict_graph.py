"""A folder predicted in shards by Snakemake, and at once: the same files."""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib.cli.app import app
from tests.conftest import ROOT


def test_shards_on_a_machine_end_as_one_call(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(chelsea()[::4, number::4]).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"text")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workbook/predict.smk"), "--cores", "1"]
    given = [f"photos={tmp_path / 'photos'}", "names=cat,wall", f"out={tmp_path / 'out'}", "shards=2"]
    arguments = [*command, "--directory", str(tmp_path), "--quiet", "all", "--config", *given, "format=index,coco"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    single = ["predict", str(tmp_path / "photos"), "--names", "cat,wall", "--format", "index,coco"]
    result = CliRunner().invoke(app, [*single, "-o", str(tmp_path / "single")])
    assert result.exit_code == 1 and "3 images, 1 failed" in result.stdout
    assert "broken.jpg' can't be read" in result.stderr
    for file in (
        "predictions.parquet",
        "annotations/instances.json",
        "failed.txt",
        "names.txt",
        *(f"masks/{n}.png" for n in range(3)),
    ):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "single" / file).read_bytes(), file
