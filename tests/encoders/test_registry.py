"""Three verbs of the registry, and what they say to wrong names."""

import pytest

from fusionerlib.encoders.prompts import template_sets, templates
from fusionerlib.encoders.registry import add_encoder, get_row, list_encoders, load_visual
from fusionerlib.errors import FusionerError


def test_list_and_get_agree() -> None:
    for row in list_encoders():
        assert get_row(row.role, row.name) is row
    assert {row.role for row in list_encoders("text")} == {"text"}


def test_row_tells_the_truth_about_its_encoder() -> None:
    for row in list_encoders("visual"):
        encoder = load_visual(row.name)
        assert (encoder.width, encoder.stride, encoder.multiple) == (row.width, row.stride, row.multiple)


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(FusionerError, match="'packged': did you mean 'packaged'"):
        load_visual("packged")


def test_a_name_is_given_once() -> None:
    with pytest.raises(FusionerError, match="already registered"):
        add_encoder(get_row("text", "packaged"))


def test_every_template_has_exactly_one_hole() -> None:
    for name in template_sets():
        assert templates(name) and all(template.count("{}") == 1 for template in templates(name))
        assert len(set(templates(name))) == len(templates(name))
    with pytest.raises(FusionerError, match="unknown template set 'many'"):
        templates("many")
