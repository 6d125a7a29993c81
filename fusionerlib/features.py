"""The store of frozen features: each image goes through the frozen tower once, ever.

One folder an encoder, input size and number format; inside it shards of some hundred entries. An entry's id is the
sha256 of its pixels and labels, so a view is an image of its own, and the same image in two data sets is stored once.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.files import plain_name, write_text

SHARD = 256
BATCH = 16
THREADS = 2


@dataclass(frozen=True)
class StoredScene:
    """A scene as the fusion sees it: patch tokens on their grid, labels as in ``Scene``, names, key."""

    tokens: Float[Tensor, "rows columns dim"]
    labels: UInt8[Tensor, "height width"]
    names: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Entry:
    """Where a scene's features are: the id in the store, and what the store does not hold."""

    id: str
    names: tuple[str, ...]
    key: str


class FeatureStore:
    """Features of one encoder on disk, in half precision. ``add`` computes what is missing; reading is lazy.

    Two processes may fill one store: a shard appears under its final name only when it is whole.
    """

    def __init__(self, root: Path | str, *, encoder: VisualEncoder) -> None:
        self.encoder = encoder
        self.folder = Path(root) / f"{plain_name(encoder.name)}-{encoder.fingerprint[:16]}-float16"
        self._shards: dict[str, safe_open] = {}
        self._opened: set[Path] = set()

    def add(self, scenes: Scenes, *, description: str = "features", quiet: bool = False) -> "StoredScenes":
        """``scenes`` by their features, in the same order; computes those that the store lacks.

        A set that was added before (same ``scenes.fingerprint``) is found again without opening an image.
        """
        listing = self.folder / "sets" / f"{scenes.fingerprint}.json"
        self._open_new_shards()
        if listing.is_file():
            entries = [Entry(row["id"], tuple(row["names"]), row["key"]) for row in json.loads(listing.read_text())]
            if len(entries) == len(scenes) and all(entry.id in self._shards for entry in entries):
                return StoredScenes(self, entries, fingerprint=scenes.fingerprint)
        entries, waiting = [], {}
        for scene in tqdm(
            _ahead(scenes), total=len(scenes), desc=description, unit="image", disable=quiet, mininterval=2
        ):
            entry = Entry(entry_id(scene), scene.names, scene.key)
            entries.append(entry)
            if entry.id not in self._shards and entry.id not in waiting:
                waiting[entry.id] = scene
            if len(waiting) == SHARD:
                self._write_shard(waiting)
                waiting = {}
        if waiting:
            self._write_shard(waiting)
        rows = [{"id": entry.id, "names": entry.names, "key": entry.key} for entry in entries]
        write_text(listing, json.dumps(rows))
        return StoredScenes(self, entries, fingerprint=scenes.fingerprint)

    def read(self, entry: Entry) -> StoredScene:
        """One entry from disk; tokens come back in float32."""
        shard = self._shards[entry.id]
        tokens, labels = shard.get_tensor(f"{entry.id}.tokens"), shard.get_tensor(f"{entry.id}.labels")
        return StoredScene(tokens=tokens.float(), labels=labels, names=entry.names, key=entry.key)

    def _write_shard(self, scenes: dict[str, Scene]) -> None:
        tensors: dict[str, Tensor] = {}
        for ids in _same_size_batches(scenes):
            images = torch.stack([rearrange(torch.from_numpy(scenes[id].image), "h w c -> c h w") for id in ids])
            main = self.encoder(images).main
            tokens = rearrange(main.tokens, "b (h w) d -> b h w d", h=main.grid[0]).half().cpu()
            for id, row in zip(ids, tokens, strict=True):
                tensors[f"{id}.tokens"] = row.contiguous()
                tensors[f"{id}.labels"] = torch.from_numpy(np.ascontiguousarray(scenes[id].labels))
        name = hashlib.sha256("".join(scenes).encode()).hexdigest()[:24]
        target = self.folder / f"{name}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        save_file(tensors, part)
        part.replace(target)
        self._open_new_shards()

    def _open_new_shards(self) -> None:
        for file in sorted(set(self.folder.glob("*.safetensors")) - self._opened):
            try:
                shard = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise FusionerError(f"feature shard {file} can't be read ({error}): delete it and run again") from error
            self._shards.update({key.removesuffix(".tokens"): shard for key in shard.keys() if key.endswith(".tokens")})  # noqa: SIM118
            self._opened.add(file)


class StoredScenes(Sequence[StoredScene]):
    """A list of scenes by their features, read from disk one at a time."""

    def __init__(self, store: FeatureStore, entries: Sequence[Entry], *, fingerprint: str) -> None:
        self.store, self.entries, self.fingerprint = store, list(entries), fingerprint

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> StoredScene:  # type: ignore[override]
        return self.store.read(self.entries[index])

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without reading it."""
        return self.entries[index].names

    def pairs(self) -> list[tuple[int, str]]:
        """Every (scene index, name)."""
        return [(index, name) for index, entry in enumerate(self.entries) for name in entry.names]


def entry_id(scene: Scene) -> str:
    """32 hex digits over a scene's size, pixels and labels."""
    digest = hashlib.sha256(repr(scene.image.shape).encode())
    digest.update(scene.image.tobytes())
    digest.update(scene.labels.tobytes())
    return digest.hexdigest()[:32]


def _ahead(scenes: Scenes) -> Iterator[Scene]:
    """The scenes in order, some of them made ahead in threads: images are decoded outside the interpreter's lock."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Scene]] = deque()
        try:
            for index in range(len(scenes)):
                waiting.append(pool.submit(scenes.__getitem__, index))
                if len(waiting) > 4 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _same_size_batches(scenes: dict[str, Scene]) -> Iterator[list[str]]:
    by_size: dict[tuple[int, ...], list[str]] = {}
    for id, scene in scenes.items():
        by_size.setdefault(scene.image.shape, []).append(id)
    for ids in by_size.values():
        yield from (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
