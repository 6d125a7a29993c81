"""Locks between processes: kept by a child that inherits the file, released when the holder is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive, plain_name, write_text

HOLD = """
import sys, time
from pathlib import Path
from fusionerlib.files import exclusive
with exclusive(Path(sys.argv[1]), "the work"):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(FusionerError, match="the work is going on"), exclusive(lock, "the work", patience=0.2):
            pass
        holder.kill()
    with exclusive(lock, "the work"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="pass_fds is POSIX's")
def test_a_child_that_inherits_the_file_keeps_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "the work") as file:
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(sleep, pass_fds=(file.fileno(),))
    with pytest.raises(FusionerError, match="the work is going on"), exclusive(lock, "the work", patience=0.2):
        pass
    child.kill()
    child.wait()
    with exclusive(lock, "the work"):
        pass


def test_text_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    for text in ("old", "neu: ü"):
        write_text(tmp_path / "deep" / "a.txt", text)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "neu: ü"


def test_a_plain_name_is_part_of_one_file_name() -> None:
    assert plain_name("vectors:tables/clip.parquet") == "vectors-tables-clip.parquet"
    assert plain_name("clip-vit-b16") == "clip-vit-b16"
