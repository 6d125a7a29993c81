"""Progress: widgets for a person in a notebook, a bar in a terminal, plain lines for a log."""

import io
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fusionerlib.progress import FRONTENDS, HEADLESS, ahead, bar, each, headless
from tests.conftest import ROOT

SHOWN = """
from fusionerlib.progress import bar
with bar("drawing", total=2, unit="thing") as shown:
    shown.update(2)
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


class Terminal(io.StringIO):
    """An error stream with somebody in front of it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FRONTENDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(HEADLESS, "1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def test_a_log_gets_lines_that_grow_rarer(nobody: None, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in each(range(1000), "features", total=1000, unit="image"):
        clock[0] += 0.5
    told = capsys.readouterr().err
    assert "\r" not in told and "\x1b" not in told
    lines = told.splitlines()
    assert lines[0] == "features: 2%, 20 of 1000 images, 2.0 images/s, 00:10 gone, 08:10 left"
    assert lines[-1] == "features: 100%, 1000 of 1000 images, 2.0 images/s, 08:20 gone"
    assert 20 < len(lines) < 40, "every ten seconds at first, then every twentieth of the time so far"


def test_what_is_over_at_once_is_one_line(nobody: None, capsys: pytest.CaptureFixture[str]) -> None:
    with bar("a.zip", total=3_000_000, done=1_000_000) as shown:
        shown.update(2_000_000)
        assert shown.n == 3_000_000
    assert capsys.readouterr().err == "a.zip: 100%, 3.0 MB of 3.0 MB\n"
    with bar("nothing to do", total=0):
        pass
    with bar("quiet", total=2, quiet=True) as shown:
        shown.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(each("ab", "letters", total=2, unit="letter")) == ["a", "b"]
    assert "letters: 100%|" in terminal.getvalue() and "\r" in terminal.getvalue()


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_kernel_shows_a_widget_to_a_person_and_a_line_to_nobody(looked_at: bool) -> None:
    for package in ("jupyter_client", "ipykernel", "ipywidgets"):
        pytest.importorskip(package, reason=f"{package} is in the extra `workbook`")
    from jupyter_client.manager import start_new_kernel

    environment = {name: value for name, value in os.environ.items() if name not in (HEADLESS, *FRONTENDS)}
    environment |= {"JPY_SESSION_NAME": "notebooks/02_training.ipynb"} if looked_at else {}
    manager, client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(ROOT))
    outputs: list[dict[str, Any]] = []
    try:
        reply = client.execute_interactive(SHOWN, output_hook=outputs.append, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok", outputs
    widgets = [output for output in outputs if WIDGET in output["content"].get("data", {})]
    written = "".join(output["content"]["text"] for output in outputs if output["msg_type"] == "stream")
    if looked_at:
        assert len(widgets) == 1 and "drawing" not in written
    else:
        assert not widgets and written.startswith("drawing: 100%, 2 of 2 things\n") and "\r" not in written


def test_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (HEADLESS, *FRONTENDS):
        monkeypatch.delenv(name, raising=False)
    assert headless()
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_training.ipynb")
    assert not headless()
    monkeypatch.setenv(HEADLESS, "1")
    assert headless()


def test_work_ahead_comes_in_order_and_reads_no_more_than_it_may() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            read.append(item)
            yield item

    def squared(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    with ThreadPoolExecutor(3) as pool:
        for place, made in enumerate(ahead(squared, items(), pool=pool, most=4)):
            assert made == place**2 and len(read) <= place + 4
    assert len(read) == 20
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [2, 0, 1], pool=pool, most=2))
