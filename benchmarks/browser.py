"""The inspector in a JupyterLab on this machine, driven by headless Chromium: for benchmarks, and for the tests."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbook.execution import own_kernel

SETTINGS = {"notification": {"fetchNews": "false", "checkForUpdates": False}}
PATIENCE = 120
"""Seconds that a step may take on a slow machine."""
TIMED = """([event, place]) => { window.waited = new Promise(done => {
  const image = document.querySelectorAll('.fusioner-image')[place];
  document.addEventListener(event, () => {
    const start = performance.now();
    const watch = new MutationObserver(() => {
      watch.disconnect();
      requestAnimationFrame(() => done(performance.now() - start));
    });
    watch.observe(image, { attributes: true, attributeFilter: ['data-drawn'] });
    setTimeout(() => done(null), 20000);
  }, { capture: true, once: true });
}); }"""
"""Milliseconds from the next ``event`` to the frame after panel ``place`` is drawn again; null after 20 s."""


@contextmanager
def jupyterlab(folder: Path, scratch: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """The address of a JupyterLab that serves ``folder`` and knows no settings of the user's.

    scratch: an empty folder for its settings and log. Raises RuntimeError with the end of the log if it does not start.
    """
    own_kernel()
    for name, settings in {**SETTINGS, "themes": {"theme": theme}}.items():
        file = scratch / "settings" / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    environment = {**os.environ, **{name: str(scratch / place) for name, place in places.items()}}
    environment.pop("FUSIONER_HEADLESS", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    file = scratch / "lab.log"
    with file.open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            end = time.monotonic() + PATIENCE
            while not _answers(f"http://127.0.0.1:{port}/api"):
                if time.monotonic() > end:
                    raise RuntimeError(f"JupyterLab did not start: {file.read_text()[-2000:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            # By SIGTERM the server ends its kernels too.
            server.terminate()
            server.wait(timeout=2 * PATIENCE)


def open_inspector(
    browser: Any, address: str, *, asked: set[str] | None = None, sent: list[str | bytes] | None = None
) -> Any:
    """A page with the notebook ``address``, whose first cell has been run and shows the inspector's pictures.

    asked: what the page asks the network for is added to it. sent: so are the messages of its web sockets.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 1150})
    page.on("request", lambda request: None if asked is None else asked.add(request.url))
    if sent is not None:
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    page.locator(".jp-Notebook .cm-content").first.click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Control+Enter")
    page.locator(".fusioner-image").nth(2).wait_for()
    return page


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
