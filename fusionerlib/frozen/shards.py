"""Files of tensors that appear only when they are whole, read by mapping them into memory; and claims on work."""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.errors import FusionerError

MARK = ".tokens"
"""The part that every id has; what comes before it in a tensor's name is the id."""


class Shards:
    """The tensors in the shards of ``folder``, called ``{id}.{part}``. Other processes may add shards at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, safe_open] = {}
        self._opened: set[Path] = set()

    def __contains__(self, id: str) -> bool:
        return id in self._shards

    def tensors(self, id: str, parts: Iterable[str]) -> dict[str, Tensor]:
        """The ``parts`` of ``id`` as they lie on disk: nothing is copied, and they may not be written to."""
        shard = self._shards[id]
        return {part: shard.get_tensor(f"{id}.{part}") for part in parts}

    def refresh(self) -> None:
        """Opens the shards that appeared since the last time. Raises FusionerError naming one that can't be read."""
        for file in sorted(set(self.folder.glob("*.safetensors")) - self._opened):
            try:
                shard = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise FusionerError(f"feature shard {file} can't be read ({error}): delete it and run again") from error
            self._shards.update({key.removesuffix(MARK): shard for key in shard.keys() if key.endswith(MARK)})  # noqa: SIM118
            self._opened.add(file)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """A shard of ``tensors``, on the disk before it has its name: no cut in the power leaves a part of it."""
        name = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:24]
        target = self.folder / f"{name}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        # Processes of two machines may have the same number.
        part = target.with_suffix(f".{os.getpid()}-{uuid4().hex[:8]}.part")
        save_file(dict(tensors), part)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)


def claim(lock: Path, *, wait: bool) -> TextIO | None:
    """``lock`` held until it is closed or this process dies; None where another holds it and ``wait`` is off."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = lock.open("a")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        held.close()
        return None
    return held
