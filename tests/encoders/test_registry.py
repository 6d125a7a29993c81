"""Three verbs of the registry, and what they say to wrong names."""

import pytest

from fusionerlib.encoders.prompts import synonyms, template_sets, templates
from fusionerlib.encoders.registry import add_encoder, get_spec, list_encoders, load_visual
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError


def test_list_and_get_agree() -> None:
    for spec in list_encoders():
        assert get_spec(spec.role, spec.name) is spec
    assert {spec.role for spec in list_encoders("text")} == {"text"}


def test_row_tells_the_truth_about_its_encoder() -> None:
    for spec in filter(present, list_encoders("visual")):
        encoder = load_visual(spec.name)
        assert (encoder.width, encoder.stride, encoder.multiple) == (spec.width, spec.stride, spec.multiple)


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(FusionerError, match="'packged': did you mean 'packaged'"):
        load_visual("packged")


def test_a_name_is_given_once() -> None:
    with pytest.raises(FusionerError, match="already registered"):
        add_encoder(get_spec("text", "packaged"))


def test_every_template_has_exactly_one_hole() -> None:
    for name in template_sets():
        assert templates(name) and all(template.count("{}") == 1 for template in templates(name))
        assert len(set(templates(name))) == len(templates(name))
    with pytest.raises(FusionerError, match="unknown template set 'many'"):
        templates("many")


def test_open_clips_template_sets_are_theirs() -> None:
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    for name, published in (("openai", OPENAI_IMAGENET_TEMPLATES), ("simple", SIMPLE_IMAGENET_TEMPLATES)):
        assert [one.format("red fox") for one in templates(name)] == [one("red fox") for one in published]
    assert (len(templates("openai")), len(templates("simple"))) == (80, 7)


def test_templates_from_a_users_file(tmp_path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("a {} at dusk\n\nthe {}\na {} at dusk\n")
    assert templates(str(file)) == ("a {} at dusk", "the {}")
    file.write_text("a {}\nno hole\n")
    with pytest.raises(FusionerError, match=r"mine.txt, line 2: 'no hole'"):
        templates(str(file))
    file.write_text("\n")
    with pytest.raises(FusionerError, match="has no template"):
        templates(str(file))


def test_synonyms_from_a_file(tmp_path) -> None:
    file = tmp_path / "words.json"
    file.write_text('{"sofa": ["couch", "settee"]}')
    assert synonyms(str(file)) == {"sofa": ("couch", "settee")} and synonyms("") == {}
    assert "clothing" in synonyms("everyday")["person"]
    for bad in ('{"sofa": "couch"}', '{"sofa": [" "]}', "[1]", "{", '{"sofa": [3]}'):
        file.write_text(bad)
        with pytest.raises(FusionerError, match=r"words.json' can't be read"):
            synonyms(str(file))
    with pytest.raises(FusionerError, match=r"none\.json"):
        synonyms(str(tmp_path / "none.json"))
