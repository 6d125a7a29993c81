"""The controls: names that can't be told apart, and names that mean nothing."""

import subprocess
import sys

import torch

from fusionerlib.encoders.registry import load_text

NAMES = ["cat", "kitten", "traffic light"]


def test_constant_can_not_tell_names_apart() -> None:
    encoder = load_text("constant")
    tokens = encoder(NAMES, ["{}"])
    assert tokens.shape == (3, encoder.width) and torch.equal(tokens[0], tokens[2])
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(3))
    assert encoder([], ["{}"]).shape == (0, encoder.width)


def test_arbitrary_tells_names_apart_and_knows_no_similarity() -> None:
    tokens = load_text("arbitrary")([f"name {k}" for k in range(200)], ["{}"])
    similarity = (tokens @ tokens.T)[~torch.eye(200, dtype=torch.bool)]
    # Random directions: cosines of mean 0 and standard deviation width ** -0.5.
    assert similarity.abs().max() < 0.35
    assert abs(float(similarity.std()) * tokens.shape[1] ** 0.5 - 1) < 0.1


def test_a_name_has_the_same_token_in_every_process_and_company() -> None:
    encoder = load_text("arbitrary")
    assert torch.equal(encoder(NAMES, ["{}"])[2:], encoder(NAMES[2:], ["a photo of a {}."]))
    code = "from fusionerlib.encoders.registry import load_text; print(load_text('arbitrary')(['cat'], ['{}']).sum())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(encoder(["cat"], ["{}"]).sum())
