"""The store of frozen features: each image goes through the frozen visual encoder only once.

    ROOT/ENCODER-FINGERPRINT-FORMAT/           one folder for each encoder and number format
        HASH.safetensors                       a shard: tensors {id}.tokens, {id}.labels ... of up to 256 scenes
        sets/FINGERPRINT/0-256.json            ids, names and keys of one group of scenes of a data set
        sets/FINGERPRINT/0-256.lock            held by the process that computes this group

The id of a scene is a hash of its pixels and labels: each augmented view has its own, and an image that is in two data
sets is stored once. Files appear under their final names only when they are complete. A shard's metadata holds a digest
of each of its scenes, which is compared when a process first reads the scene; what is damaged is computed again.
"""

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TextIO, TypeVar

import numpy as np
import torch
import xxhash
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.devices import thread_pool
from fusionerlib.digests import unsealed, write_json
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.features.number_formats import number_format as format_of
from fusionerlib.files import claim, plain_name, replacing
from fusionerlib.progress import ahead, bar

DIGESTS = "digests"
"""Key of a shard's metadata: the digest of each scene by its id, as JSON."""
MARK = ".tokens"
"""Suffix of the one tensor that every scene has; what comes before it is the id."""
SHARD = 256
"""Scenes of a group that is computed, stored and listed together."""
BATCH, BATCH_ON_CPU = 16, 4
"""Images of one pass through the encoder; on a CPU, more would leave its cache and take almost twice as long."""
MOST_REPAIRS = 64
"""Damaged shards that are computed again within one read."""
THREADS = 8
"""Most threads that open and encode images."""


@dataclass(frozen=True)
class StoredScene:
    """A scene as the model reads it: patch tokens on their grid, with labels, names and key as in ``Scene``."""

    tokens: Float[Tensor, "rows columns dim"]
    labels: UInt8[Tensor, "height width"]
    names: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Entry:
    """A scene's id in the store, with its names and key, which the shards do not hold."""

    id: str
    names: tuple[str, ...]
    key: str


class DamagedScene(FusionerError):
    """A stored scene that is not what was written, or that is gone. file: its shard, None for one that is gone."""

    def __init__(self, message: str, file: Path | None) -> None:
        super().__init__(message)
        self.file = file


Read = TypeVar("Read")
TokensAndLabels = tuple[Float[Tensor, "batch rows columns dim"], UInt8[Tensor, "batch height width"]]
"""Patch tokens on their grid, float32, and labels as in ``Scene``."""


class FeatureStore:
    """Features of one encoder on disk, in one number format. ``add`` computes what is missing; reading is lazy.

    Any number of processes may fill one store. Processes that add the same scenes share the work: each takes groups
    that no other process holds. A group is listed only after its shard is on the disk, so a process that is killed
    loses the two groups that it was computing and writing, and nothing else.
    number_format: ``float16``, or ``int8`` for about half the bytes; see ``fusionerlib.features.number_formats``.
    """

    def __init__(self, root: Path | str, *, encoder: VisualEncoder, number_format: str = "float16") -> None:
        self.encoder, self.numbers = encoder, format_of(number_format)
        tower = getattr(encoder, "values", encoder)  # of an encoder with another one's affinities
        weights = tower.parameters() if isinstance(tower, nn.Module) else ()
        on_cpu = all(weight.device.type == "cpu" for weight in weights)
        # A GPU computes one batch at a time, and has no memory for more.
        self._turn: AbstractContextManager[Any] = nullcontext() if on_cpu else Lock()
        self._batch = BATCH_ON_CPU if on_cpu else BATCH
        self.folder = Path(root) / f"{plain_name(encoder.name)}-{encoder.fingerprint[:16]}-{number_format}"
        self._shards = Shards(self.folder)

    def add(self, scenes: Scenes, *, description: str = "features", quiet: bool = False) -> "StoredScenes":
        """The features of ``scenes``, in the same order; computes those that the store lacks.

        Groups that were added before, with the same ``scenes.fingerprint``, are found without opening an image.
        Raises FusionerError for tokens that can't be stored.
        """
        self._shards.refresh()
        groups = [range(start, min(start + SHARD, len(scenes))) for start in range(0, len(scenes), SHARD)]
        found: dict[range, list[Entry]] = {}
        writing: list[Future[None]] = []
        shown = bar(description, total=len(scenes), unit="image", quiet=quiet)
        # One shard is written while the next is computed.
        with ExitStack() as claims, shown, thread_pool(THREADS) as pool, ThreadPoolExecutor(1) as disk:
            # Groups that another process holds come last: this one waits, and computes them if that process dies.
            for group, wait in [(group, wait) for wait in (False, True) for group in groups]:
                if group in found:
                    continue
                listing = self.folder / "sets" / scenes.fingerprint / f"{group.start}-{group.stop}.json"
                entries = self._listed(listing, len(group))
                if entries is None and (held := claim(listing.with_suffix(".lock"), wait=wait)) is not None:
                    claims.enter_context(held)
                    # The process that held it until now may have computed the group.
                    entries = self._listed(listing, len(group))
                    if entries is None:
                        entries, tensors = self._computed(scenes, group, shown, pool)
                        for shard in writing:
                            shard.result()
                        writing = [disk.submit(self._write, tensors, entries, listing, held)]
                if entries is not None:
                    found[group] = entries
                    shown.update(sum(map(len, found.values())) - shown.n)
            for shard in writing:
                shard.result()
        self._shards.refresh()
        entries = [entry for group in groups for entry in found[group]]
        return StoredScenes(self, entries, fingerprint=scenes.fingerprint, scenes=scenes)

    def discard(self, error: DamagedScene) -> None:
        """Delete the damaged shard of ``error``, so that ``add`` computes its scenes again."""
        print(f"{error}: its scenes are computed again", file=sys.stderr)
        if error.file is not None:
            self._shards.discard(error.file)
        self._shards.refresh()

    def read(self, entry: Entry) -> StoredScene:
        """The scene of ``entry`` from disk; tokens in float32."""
        tokens, labels = self.batch([entry])
        return StoredScene(tokens=tokens[0], labels=labels[0], names=entry.names, key=entry.key)

    def batch(self, entries: Sequence[Entry]) -> TokensAndLabels:
        """Tokens and labels of ``entries``, which must have one grid and size."""
        stored = [self.stored(entry) for entry in entries]
        tokens = torch.empty(len(stored), *stored[0]["tokens"].shape)
        for parts, place in zip(stored, tokens, strict=True):
            self.numbers.decode(parts, place)
        return tokens, torch.stack([parts["labels"] for parts in stored])

    def stored(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of ``entry`` as stored, mapped into memory: those of the number format, and ``labels``.

        Raises FusionerError where they are damaged or gone.
        """
        return self._shards.tensors(entry.id, (*self.numbers.parts, "labels"))

    def _listed(self, listing: Path, count: int) -> list[Entry] | None:
        """The ``count`` entries in the file ``listing``; None if it is missing or damaged, or one is not stored."""
        try:
            if not listing.is_file():  # a pipe would be waited for
                return None
            rows = unsealed(listing.read_text(encoding="utf-8"), required=True)["entries"]
            entries = [Entry(row["id"], tuple(row["names"]), row["key"]) for row in rows]
            texts = [text for row in rows for text in (row["id"], row["key"], *row["names"])]
            if len(entries) != count or not all(isinstance(text, str) for text in texts):
                return None
            if any(isinstance(row["names"], str) for row in rows):
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            # After a power failure a list may be empty: it is written again.
            return None
        if any(entry.id not in self._shards for entry in entries):
            self._shards.refresh()
        return entries if all(entry.id in self._shards for entry in entries) else None

    def _computed(
        self, scenes: Scenes, group: range, shown: Any, pool: ThreadPoolExecutor
    ) -> tuple[list[Entry], dict[str, Tensor]]:
        """The entries of the scenes of ``group``, and the tensors of those that the store lacks.

        The threads of ``pool`` open scenes, two batches ahead, and encode batches of one size.
        """

        def opened(index: int) -> tuple[Entry, Scene]:
            scene = scenes[index]
            return Entry(entry_id(scene), scene.names, scene.key), scene

        entries: list[Entry] = []
        new: set[str] = set()
        waiting: dict[tuple[int, ...], dict[str, Scene]] = {}
        encoded: list[Future[dict[str, Tensor]]] = []
        for entry, scene in ahead(opened, group, pool=pool, most=2 * self._batch):
            entries.append(entry)
            if entry.id not in self._shards and entry.id not in new:
                new.add(entry.id)
                batch = waiting.setdefault(scene.image.shape, {})
                batch[entry.id] = scene
                if len(batch) == self._batch:
                    encoded.append(pool.submit(self._tensors, waiting.pop(scene.image.shape)))
            shown.update()
        encoded += [pool.submit(self._tensors, batch) for batch in waiting.values()]
        return entries, {key: tensor for job in encoded for key, tensor in job.result().items()}

    def _tensors(self, scenes: dict[str, Scene]) -> dict[str, Tensor]:
        """The tensors to store of ``scenes``, which have one size, by ``{id}.{part}``."""
        images = np.stack([scene.image for scene in scenes.values()])
        with self._turn:
            main = self.encoder(rearrange(torch.from_numpy(images), "b h w c -> b c h w")).main
        encoded = self.numbers.encode(rearrange(main.tokens, "b (h w) d -> b h w d", h=main.grid[0]))
        parts = {part: values.contiguous().cpu() for part, values in encoded.items()}
        tensors = {f"{id}.{part}": values[row] for part, values in parts.items() for row, id in enumerate(scenes)}
        return tensors | {f"{id}.labels": torch.from_numpy(scene.labels.copy()) for id, scene in scenes.items()}

    def _write(self, tensors: dict[str, Tensor], entries: list[Entry], listing: Path, held: TextIO) -> None:
        """Write a shard of ``tensors``, then the list of ``entries``, then release the lock."""
        if tensors:
            self._shards.write(tensors)
        rows = [{"id": entry.id, "names": entry.names, "key": entry.key} for entry in entries]
        write_json(listing, {"entries": rows})
        with suppress(PermissionError):  # Windows does not delete an open file: the empty one stays
            Path(held.name).unlink(missing_ok=True)
        held.close()


class StoredScenes(Sequence[StoredScene]):
    """A sequence of scenes with stored features, read from disk one at a time.

    scenes: what the features were computed from; where they turn out to be damaged, they are computed from it again.
    Raises FusionerError on access where that is None, or does not help.
    """

    def __init__(
        self, store: FeatureStore, entries: Sequence[Entry], *, fingerprint: str, scenes: Scenes | None = None
    ) -> None:
        self.store, self.entries, self.fingerprint, self.scenes = store, list(entries), fingerprint, scenes

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> StoredScene:  # type: ignore[override]
        return self._whole(lambda: self.store.read(self.entries[index]))

    def batch(self, indices: Sequence[int]) -> TokensAndLabels:
        """Tokens and labels of the scenes at ``indices``, which must have one grid and size."""
        return self._whole(lambda: self.store.batch([self.entries[index] for index in indices]))

    @property
    def image_bytes(self) -> int:
        """Bytes of the first scene on disk, tokens and labels; all scenes of one size take the same."""
        return sum(part.nbytes for part in self._whole(lambda: self.store.stored(self.entries[0])).values())

    def _whole(self, read: Callable[[], Read]) -> Read:
        """The result of ``read``, after its scenes were computed again where they are damaged."""
        # A batch may lie in as many damaged shards as it has scenes; each repair deletes one.
        for _ in range(MOST_REPAIRS):
            try:
                return read()
            except DamagedScene as error:
                if self.scenes is None:
                    raise
                self.store.discard(error)
                self.store.add(self.scenes, quiet=True)
        raise FusionerError(
            f"{self.store.folder} gives other features than were written there, {MOST_REPAIRS} times in turn: the disk "
            "fails, or the images changed while they were in use; give features another folder, and start again"
        )

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without reading it."""
        return self.entries[index].names

    def pairs(self) -> list[tuple[int, str]]:
        """Every (scene index, name)."""
        return [(index, name) for index, entry in enumerate(self.entries) for name in entry.names]


class Shards:
    """The tensors ``{id}.{part}`` in the shards of ``folder``. Other processes may add shards at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, tuple[Path, safe_open, str]] = {}
        self._opened: dict[Path, int] = {}
        self._compared: set[str] = set()

    def __contains__(self, id: str) -> bool:
        return id in self._shards

    def tensors(self, id: str, parts: Iterable[str]) -> dict[str, Tensor]:
        """The ``parts`` of ``id``, mapped into memory; they must not be written to.

        They are compared with their digest the first time. Raises DamagedScene where they are other ones or gone.
        """
        if id not in self._shards:
            raise DamagedScene(f"scene {id} is no longer in {self.folder}", None)
        file, shard, expected = self._shards[id]
        try:
            tensors = {part: shard.get_tensor(f"{id}.{part}") for part in parts}
        except SafetensorError as error:
            raise DamagedScene(f"feature shard {file} is damaged ({error})", file) from error
        if id not in self._compared:
            if tensors_digest(tensors) != expected:
                raise DamagedScene(f"feature shard {file} is damaged (scene {id} is not what was written)", file)
            self._compared.add(id)
        return tensors

    def refresh(self) -> None:
        """Open the shards that are new since the last call. A damaged one is deleted, and one without digests (of an
        older version) is left where it is and not used; both are said on stderr.

        Raises FusionerError naming one that can't be opened.
        """
        old: list[Path] = []
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                inode = file.stat().st_ino
                if not file.is_file():  # a pipe would be waited for
                    raise OSError(errno.EINVAL, "it is no file")
                if self._opened.get(file) == inode:
                    continue
                shard = safe_open(file, framework="pt")
                if DIGESTS not in (metadata := shard.metadata() or {}):
                    self._opened[file] = inode
                    old.append(file)
                    continue
                digests = json.loads(metadata[DIGESTS])
                ids = [key.removesuffix(MARK) for key in shard.keys() if key.endswith(MARK)]  # noqa: SIM118
                found = {id: (file, shard, str(digests[id])) for id in ids}
            except FileNotFoundError:
                continue  # another process found it damaged
            except OSError as error:
                raise FusionerError(
                    f"feature shard {file} can't be opened ({error.strerror or error}): make it readable, or delete it"
                ) from error
            except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
                told = f"{type(error).__name__}: {error}"
                print(f"feature shard {file} is damaged ({told}): its scenes are computed again", file=sys.stderr)
                file.unlink(missing_ok=True)
                continue
            self._compared -= found.keys()
            self._shards.update(found)
            self._opened[file] = inode
        if old:
            print(
                f"{len(old)} feature shards without digests, such as {old[0]}, are of an older version and not used: "
                "their scenes are computed again; delete them to free the disk",
                file=sys.stderr,
            )

    def discard(self, file: Path) -> None:
        """Forget the shard ``file``, and delete it unless another process has replaced it."""
        gone = {id for id, (place, _, _) in self._shards.items() if place == file}
        self._shards = {id: row for id, row in self._shards.items() if id not in gone}
        self._compared -= gone
        inode = self._opened.pop(file, None)
        with suppress(OSError):
            if file.stat().st_ino == inode:
                file.unlink()

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard of ``tensors``; it gets its name once it is on the disk, so none is read half written."""
        name = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:24]
        target = self.folder / f"{name}.safetensors"
        scenes: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            id, _, kind = key.rpartition(".")
            scenes.setdefault(id, {})[kind] = tensor
        digests = {id: tensors_digest(parts) for id, parts in scenes.items()}
        with replacing(target, durable=True) as part:
            save_file(dict(tensors), part, metadata={DIGESTS: json.dumps(digests)})


def tensors_digest(parts: Mapping[str, Tensor]) -> str:
    """The xxh3 digest (32 hex digits) of tensors by name: their names, types, shapes and bytes."""
    digest = xxhash.xxh3_128()
    for part in sorted(parts):
        tensor = parts[part]
        digest.update(_described(part, tensor.dtype, tensor.shape))
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


@lru_cache
def _described(part: str, dtype: torch.dtype, shape: torch.Size) -> bytes:
    return f"{part} {dtype} {tuple(shape)}".encode()


def entry_id(scene: Scene) -> str:
    """32 hex digits over a scene's size, pixels and labels."""
    digest = hashlib.sha256(repr(scene.image.shape).encode())
    for part in (scene.image, scene.labels):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]
