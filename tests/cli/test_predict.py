"""`fusioner predict` in a process of its own: killed, repeated, and compared with one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import chelsea


def command(out: str) -> list[str]:
    arguments = ["predict", "photos", "--names", "cat,wall", "--format", "index,coco,overlay,soft", "-o", out]
    return [sys.executable, "-m", "fusionerlib.cli.app", *arguments]


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a POSIX signal")
def test_killed_and_repeated_it_ends_byte_equal(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.fromarray(chelsea()[number:, number:]).save(tmp_path / "photos" / f"{number:02}.png")
    (tmp_path / "photos" / "05.jpg").write_bytes(b"")
    (tmp_path / "photos" / "05.png").unlink()
    records = tmp_path / "out" / "records" / "part-1-of-1.jsonl"
    running = subprocess.Popen(command("out"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (records.is_file() and records.read_bytes().count(b"\n") > 2) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = records.read_bytes().count(b"\n")
    assert 2 < before < 19, "killed in the middle"
    (tmp_path / "out" / "masks" / "19.png.1.part").write_bytes(b"torn")  # as a kill in the middle of a file leaves it
    for out in ("out", "whole"):
        done = subprocess.run(command(out), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "05.jpg' can't be read" in done.stderr, done.stderr
        assert done.stderr.count("note: 'wall' is no class") == 1, "once, however many photos"
        kept = f" ({before} of them before)" if out == "out" else ""
        assert done.stdout == f"{out}: 19 images{kept}, 1 failed\n"
    assert content(tmp_path / "out") == content(tmp_path / "whole")
