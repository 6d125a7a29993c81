"""Looking for weights without a network, and fetching them from a server of the test's own."""

import hashlib
import json
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from fusionerlib.encoders.base import WeightFile
from fusionerlib.encoders.registry import get_spec, list_encoders, load_text
from fusionerlib.encoders.weights import cached, fetch, licence_notice, locate, present
from fusionerlib.errors import FusionerError
from tests.encoders.hub_server import BYTES, COMMIT, Server, spec_of

NOWHERE = "http://127.0.0.1:9"
"""The discard port, closed on any machine of today: a network that refuses at once."""

BLOCKED = """
import socket, sys
from fusionerlib.encoders.registry import list_encoders, load_text, load_visual
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError
from fusionerlib.progress import size_text

def refused(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refused
for spec in list_encoders():
    if present(spec):
        continue
    try:
        (load_visual if spec.role == "visual" else load_text)(spec.name)
    except FusionerError as error:
        told, first = str(error), spec.files[0]
        remedies = (f"`fusioner fetch {spec.name}`", f"{spec.role}_weights=PATH")
        for part in (repr(spec.name), first.file, size_text(first.bytes) if first.bytes else "", *remedies):
            assert part in told, (part, told)
    else:
        raise AssertionError(spec.name)
    heavy = {"timm", "open_clip", "transformers"} & set(sys.modules)
    assert not heavy, (spec.name, heavy)
    print(spec.role, spec.name)
"""


def test_missing_weights_are_told_at_once_and_without_a_heavy_import(tmp_path: Path) -> None:
    proxies = {name: NOWHERE for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    empty = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    environment = {**os.environ, **proxies, **empty, "HF_ENDPOINT": NOWHERE}
    done = subprocess.run([sys.executable, "-c", BLOCKED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told == [f"{spec.role} {spec.name}" for spec in list_encoders() if spec.files] and "text bert-base" in told
    assert not list(tmp_path.iterdir())


def test_weights_are_looked_for_where_the_user_says(tmp_path: Path) -> None:
    one, other = WeightFile(file="a.safetensors", url="u", bytes=3_000_000), WeightFile(file="sub/b.json", url="v")
    (tmp_path / "a.safetensors").touch()
    assert locate(spec_of(one), str(tmp_path)) == tmp_path / "a.safetensors"
    assert locate(spec_of(one), str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"
    with pytest.raises(FusionerError, match=r"'some-encoder' needs sub/b.json of v, not in .*fusioner fetch some-enc"):
        locate(spec_of(one, other), str(tmp_path))
    with pytest.raises(FusionerError, match=r"are one file, expected a folder with a.safetensors, sub/b.json"):
        locate(spec_of(one, other), str(tmp_path / "a.safetensors"))
    assert locate(spec_of(one, other.model_copy(update={"optional": True})), str(tmp_path)) == tmp_path
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.json").touch()
    assert locate(spec_of(other, one), str(tmp_path)) == tmp_path
    with pytest.raises(FusionerError, match="weights '/none' do not exist"):
        locate(spec_of(one), "/none")


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, bytes]:
    """The files of a repository with a tiny BERT that pools by its first token."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder, words = tmp_path / "tiny", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_repository_of_the_hub(caches: Path, server: Server, tiny: dict[str, bytes], tmp_path: Path) -> None:
    server.repository("owner/tiny", tiny)
    spec = get_spec("text", "hf:owner/tiny")
    with pytest.raises(FusionerError, match=r"needs model.safetensors and 6 more files of owner/tiny"):
        load_text(spec.name)
    fetch(spec)
    asked = len(server.asked)
    assert present(spec) and fetch(spec) and len(server.asked) == asked  # absent ones are not asked for again
    text = load_text(spec.name)
    assert text.network.pooling == "cls"
    assert torch.equal(text(["cat"], ["a {}"]), load_text(f"hf:{tmp_path / 'tiny'}")(["cat"], ["a {}"]))
    # Weights that another program put there say nothing of the pooling: it must not be guessed.
    server.repository(
        "owner/plain", {name: content for name, content in tiny.items() if name != "1_Pooling/config.json"}
    )
    plain = get_spec("text", "hf:owner/plain")
    fetch(spec_of(*(file for file in plain.files if file.file in tiny and "/" not in file.file)))
    with pytest.raises(FusionerError, match=r"needs modules.json and 2 more files"):
        load_text(plain.name)
    fetch(plain)
    assert load_text(plain.name).network.pooling == "mean"


def test_the_command_fetches_from_the_hub(caches: Path, server: Server, tiny: dict[str, bytes]) -> None:
    server.repository("owner/tiny", tiny)
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(caches / "hub")}
    command = [sys.executable, "-m", "fusionerlib.cli.app", "fetch", "hf:owner/tiny"]
    terminal, its_end = pty.openpty()  # the hub's client draws its bars on a terminal only
    termios.tcsetwinsize(its_end, (24, 100))
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=its_end, text=True, check=False)
    os.close(its_end)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert done.returncode == 0 and "model.safetensors: 100%" in shown, shown
    folder = Path(done.stdout.removeprefix("text hf:owner/tiny: ").strip())
    assert {name: (folder / name).read_bytes() for name in tiny} == tiny


def test_a_pinned_file_of_the_hub(caches: Path, server: Server) -> None:
    pinned = WeightFile(file="model.safetensors", repo="owner/pinned", revision=COMMIT, sha256="ab")
    server.repository("owner/pinned", {"model.safetensors": BYTES}, revision=COMMIT)
    sha256 = hashlib.sha256(BYTES).hexdigest()
    with pytest.raises(FusionerError, match=rf"has sha256 {sha256}, expected ab: .* --accept-digest {sha256}` if you"):
        fetch(spec_of(pinned))
    assert cached(pinned) is None and not present(spec_of(pinned))
    right = pinned.model_copy(update={"sha256": hashlib.sha256(BYTES).hexdigest()})
    assert fetch(spec_of(right)) == [locate(spec_of(right))] and locate(spec_of(right)).read_bytes() == BYTES
    assert cached(right.model_copy(update={"revision": "2" * 40})) is None
    assert sum(server.sent) == len(BYTES), "what was refused is kept, and was not transferred again"


def test_another_digest_is_accepted_once_and_for_all(caches: Path, server: Server) -> None:
    pinned = WeightFile(file="model.safetensors", repo="owner/pinned", revision=COMMIT, sha256="ab")
    server.repository("owner/pinned", {"model.safetensors": BYTES}, revision=COMMIT)
    for accepted in ("", "0" * 64):
        with pytest.raises(FusionerError, match="expected ab"):
            fetch(spec_of(pinned), accept_digest=accepted)
    (path,) = fetch(spec_of(pinned), accept_digest=hashlib.sha256(BYTES).hexdigest())
    assert fetch(spec_of(pinned)) == [path] and path.read_bytes() == BYTES and sum(server.sent) == len(BYTES)


def test_the_first_download_of_an_unknown_file_is_recorded_and_checked_after(caches: Path, server: Server) -> None:
    spec = spec_of(WeightFile(file="model.safetensors", repo="owner/free"))
    server.repository("owner/free", {"model.safetensors": BYTES})
    (path,) = fetch(spec)
    path.resolve().unlink()
    path.unlink()
    server.repository("owner/free", {"model.safetensors": BYTES[::-1]})
    changed = hashlib.sha256(BYTES[::-1]).hexdigest()
    with pytest.raises(FusionerError, match=f"has sha256 {changed}, expected {hashlib.sha256(BYTES).hexdigest()}: "):
        fetch(spec)
    fetch(spec, accept_digest=changed)
    assert locate(spec).read_bytes() == BYTES[::-1]


def test_the_licence_is_told_before_the_download(caches: Path, server: Server) -> None:
    from typer.testing import CliRunner

    from fusionerlib.cli.app import app

    told = {
        "dinov3-vitb16": "visual dinov3-vitb16: licence DINOv3 License (Meta's own terms: https://",
        "c-radiov3-vitb16": "licence NVIDIA Open Model License (NVIDIA's own terms: https://",
        "hf:owner/tiny": "text hf:owner/tiny: licence see the model's own card",
    }
    for name, notice in told.items():
        asked = len(server.asked)
        done = CliRunner().invoke(app, ["fetch", name])
        assert notice in done.stderr and done.exit_code != 0 and len(server.asked) > asked
    # Its file is not on the hub, and the test asks no other server.
    assert "licence CC-BY-NC-4.0 (non-commercial use only)" in licence_notice(get_spec("visual", "mocov3-vits16"))


def test_weights_behind_terms_name_the_terms(caches: Path, server: Server) -> None:
    server.repository("owner/gated", {"model.safetensors": BYTES})
    server.gated.update(server.files)
    gated = WeightFile(file="model.safetensors", repo="owner/gated")
    with pytest.raises(
        FusionerError, match=r"accept its terms at https://huggingface.co/owner/gated, run `hf auth log"
    ):
        fetch(spec_of(gated))


def test_fetching_without_a_network_fails_at_once(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")
    on_hub = WeightFile(file="model.safetensors", repo="owner/tiny", bytes=440_000_000)
    with pytest.raises(FusionerError, match=r"model.safetensors \(440 MB\) can't be downloaded.*refused"):
        fetch(spec_of(on_hub))
    with pytest.raises(FusionerError, match=r"a.pth could not be downloaded.*refused"):
        fetch(spec_of(WeightFile(file="a.pth", url=f"{NOWHERE}/a.pth")))
    assert sum(slept) < 5, "it retried for long"
