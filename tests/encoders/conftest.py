"""What several tests ask for: a tiny CLIP, and a web server beside empty caches."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.encoders.hub_server import Server
from tests.encoders.open_clip_models import TINY_VIT, publish, random_model


@pytest.fixture(scope="module")
def tiny():
    """open_clip's own tiny model."""
    return random_model(TINY_VIT)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The folder that it is published in."""
    return publish(tiny.state_dict(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """Empty caches of the hub, of torch and of the digests, and the hub at the test's server."""
    from huggingface_hub import constants

    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path
