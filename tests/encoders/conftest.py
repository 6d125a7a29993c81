"""What several tests of CLIP ask for."""

import pytest

from tests.encoders.open_clip_models import TINY_VIT, publish, random_model


@pytest.fixture(scope="module")
def tiny():
    """open_clip's own tiny model."""
    return random_model(TINY_VIT)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The folder that it is published in."""
    return publish(tiny.state_dict(), tmp_path_factory.mktemp("tiny"))
