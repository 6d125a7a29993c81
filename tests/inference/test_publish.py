"""Checkpoints that leave the machine: saved folders, and the hub as a local server, round trip and tampering."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from skimage.data import chelsea

from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.name_forms import everyday
from tests.encoders.hub_server import COMMIT, Server

NAMES = ["cat", "grass"]
REPO = "someone/cats"


class Hub(Server):
    """The test's hub, which also takes uploads; ``tokens`` are what uploads came with."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str | None] = []
        reading = self.http.RequestHandlerClass
        known = self

        class Handler(reading.func):  # type: ignore[name-defined, misc]
            def __init__(self, *args: Any) -> None:
                super().__init__(known, *args)

            def do_POST(self: BaseHTTPRequestHandler) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = known.posted(self.path, body)
                known.tokens.append(self.headers.get("Authorization"))
                content = json.dumps(answer).encode()
                self.send_response(200 if answer is not None else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http.RequestHandlerClass = Handler

    def posted(self, path: str, body: bytes) -> Any:
        """The answer to an upload's request; None refuses it."""
        self.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            return {"url": f"{self.url}/{REPO}"} if json.loads(body)["organization"] == "someone" else None
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = {line["value"]["path"]: base64.b64decode(line["value"]["content"])}
                for revision in ("main", COMMIT):
                    self.repository(REPO, content, revision=revision)
        return {"commitUrl": f"{self.url}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT}


@pytest.fixture
def server() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.http.shutdown()
    thread.join()
    hub.http.server_close()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Hub) -> Path:
    """Empty caches, and the hub at the test's server."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """The packaged checkpoint, as a run on this machine would have left it."""
    folder = tmp_path_factory.mktemp("own")
    trained = checkpoints.load(checkpoints.packaged_folder())
    run = trained.run.changed(root=folder / "photos", features=folder / "features", coco=folder / "coco")
    checkpoints.save(folder / "checkpoint", model=trained.model, run=run, trained_names=trained.trained_names)
    return Segmenter.load(folder / "checkpoint")


def logits(segmenter: Segmenter) -> np.ndarray:
    return segmenter.set_image(chelsea()).segment(NAMES).coarse.numpy()


def test_a_saved_folder_names_no_path_of_this_machine(segmenter, tmp_path):
    assert segmenter.run is not None and segmenter.run.data.root.is_absolute()
    saved = segmenter.save_pretrained(tmp_path / "mine", data="Two cats.", figures={"mIoU": 0.51234, "images": 9})
    assert sorted(file.name for file in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for text in ((saved / "config.json").read_text(), (saved / "README.md").read_text()):
        assert str(tmp_path) not in text and "/tmp" not in text and str(Path.home()) + "/" not in text
    assert np.array_equal(logits(Segmenter.load(saved)), logits(segmenter))
    card = (saved / "README.md").read_text()
    assert "# mine" in card and "Two cats." in card and "| mIoU | 0.512 |" in card and "| images | 9 |" in card
    assert "zebra" in card and "steps = 2000" in card and "Apache-2.0" in card and "102,154" in card
    packaged = (checkpoints.packaged_folder() / "README.md").read_text(encoding="utf-8")
    for name in everyday().names():
        assert all(re.search(rf"\b{re.escape(name)}\b", text) for text in (card, packaged) if name not in OTHERS), name


OTHERS = everyday().others
"""Names that the table only knows to be names."""


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from skimage.data import chelsea
from fusionerlib import Segmenter
result = Segmenter.load(sys.argv[1]).set_image(chelsea()).segment(["cat", "grass"])
np.save(sys.argv[2], result.coarse.numpy())
"""


def test_a_saved_folder_runs_in_a_process_without_network(segmenter, tmp_path):
    saved = segmenter.save_pretrained(tmp_path / "mine")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-c", OFFLINE, str(saved), str(tmp_path / "found.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.load(tmp_path / "found.npy"), logits(segmenter), atol=1e-4)


def test_weights_that_were_changed_after_saving_are_refused(segmenter, tmp_path):
    saved = segmenter.save_pretrained(tmp_path / "mine")
    tampered(saved / "model.safetensors")
    with pytest.raises(FusionerError, match=r"model\.safetensors has sha256 .*copy both files again"):
        Segmenter.load(saved)


def tampered(file: Path) -> None:
    """Adds 1 to a tensor: the file is whole, of the same shape and another model."""
    weights = load_file(file)
    first = sorted(weights)[0]
    save_file(weights | {first: weights[first] + 1}, file)


def test_paths_of_weights_are_dropped_and_files_that_are_needed_are_refused(segmenter, tmp_path):
    parts = {"model": segmenter.model, "visual": segmenter.visual, "text_cache": segmenter.text_cache}
    run = segmenter.run.changed(visual_weights="/srv/weights.pth")
    saved = Segmenter(**parts, size=320, run=run).save_pretrained(tmp_path / "mine")
    assert checkpoints.load(saved).run.pair.visual_weights == ""
    for leaf, value in (("templates", "mine.txt"), ("synonyms", "/srv/words.json"), ("text", "vectors:clip.parquet")):
        with pytest.raises(FusionerError, match=f"{leaf} = '{value}' is a file of this machine"):
            Segmenter(**parts, size=320, run=run.changed(**{leaf: value})).save_pretrained(tmp_path / leaf)
        assert not (tmp_path / leaf).exists()
    with pytest.raises(FusionerError, match="has no run"):
        Segmenter(**parts, size=320).save_pretrained(tmp_path / "none")


def test_a_checkpoint_goes_to_the_hub_and_comes_back(segmenter, server, caches):
    address = segmenter.push_to_hub(REPO, token="hf_test", data="Two cats.", licence="mit")
    assert address == f"hf://{REPO}@{COMMIT}" and "Bearer hf_test" in server.tokens
    card = server.files[f"/{REPO}/resolve/main/README.md"].decode()
    assert "license: mit" in card and f'Segmenter.load("hf://{REPO}")' in card
    server.asked.clear()
    assert np.array_equal(logits(Segmenter.load(address)), logits(segmenter))
    gets = {path.rsplit("/", 1)[1] for path in server.asked if path.startswith("GET")}
    assert gets == {"config.json", "model.safetensors"}
    server.asked.clear()
    assert np.array_equal(logits(Segmenter.load(address)), logits(segmenter))
    assert server.asked == []


def test_an_address_without_a_revision_stays_at_the_commit_of_its_first_load(segmenter, server, caches):
    segmenter.push_to_hub(REPO)
    Segmenter.load(f"hf://{REPO}")
    server.asked.clear()
    Segmenter.load(f"hf://{REPO}")
    assert server.asked == []


def test_tampering_is_refused(segmenter, server, caches):
    segmenter.push_to_hub(REPO)
    place = f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    good = server.files[place]
    other = caches / "other.safetensors"
    other.write_bytes(good)
    tampered(other)
    server.files[place] = other.read_bytes()
    with pytest.raises(FusionerError, match=r"model\.safetensors has sha256 .*its config.json says"):
        Segmenter.load(f"hf://{REPO}")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_cached_file_that_was_changed_is_refused(segmenter, server, caches, file):
    address = segmenter.push_to_hub(REPO)
    Segmenter.load(address)
    cached = next((caches / "hub").glob(f"**/snapshots/*/{file}")).resolve()
    content = cached.read_bytes()
    cached.write_bytes(content.replace(b'"cat"', b'"dog"') if file == "config.json" else content[:-1] + b"?")
    assert cached.read_bytes() != content
    with pytest.raises(FusionerError, match=f"{file} has sha256 .*at its first download"):
        Segmenter.load(address)


def test_what_the_hub_lacks_is_named(segmenter, server, caches):
    with pytest.raises(FusionerError, match=r"hf://nobody/none: config\.json can't be downloaded"):
        Segmenter.load("hf://nobody/none")
    with pytest.raises(FusionerError, match="is no address on the hub: expected hf://USER/NAME"):
        Segmenter.load("hf://cats")
    server.repository("x/y", {"config.json": b'{"run": {}}', "model.safetensors": b""})
    server.repository("x/y", {"model.safetensors": b""}, revision=COMMIT)
    with pytest.raises(FusionerError, match="has no sha256 of the weights: publish it with"):
        Segmenter.load("hf://x/y")
    with pytest.raises(FusionerError, match="'other/cats' can't be uploaded"):
        segmenter.push_to_hub("other/cats")


def test_a_run_with_a_relative_folder_is_made_plain_too(segmenter, tmp_path):
    run = RunConfig.flat(root="photos/of/me", dataset="folder")
    parts = {"model": segmenter.model, "visual": segmenter.visual, "text_cache": segmenter.text_cache}
    saved = Segmenter(**parts, size=320, run=segmenter.run.changed(root=run.data.root)).save_pretrained(tmp_path / "m")
    assert "photos" not in json.loads((saved / "config.json").read_text())["run"]["data"]["root"]
