"""``vectors:FILE``: a parquet table of names and precomputed embeddings as a frozen text encoder without weights.

The table has a column ``name`` and one column of vectors of equal width (lists of floats); other columns are ignored.
The schema's metadata may hold ``space``, the embedding space, which allows a cosine with patches of that space, and
``template``, the prompt that the vectors were made with. Of several rows of one name the first is taken.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fusionerlib.encoders.base import EncoderSpec, FrozenModule, LoadOptions, file_digest
from fusionerlib.errors import FusionerError

LENGTHS = (1e-9, 1e18)
"""Lengths between which a vector of float32 can be scaled to unit length."""


class Table(NamedTuple):
    """The content of a file: names, vectors (names, dim) as stored, ``space`` and ``template`` ("" if not given)."""

    names: list[str]
    vectors: Tensor
    space: str
    template: str


class VectorTable(FrozenModule):
    """A table behind the ``TextEncoder`` protocol.

    A name is looked up as written, then ignoring case, underscores and repeated spaces. The vectors contain their
    prompt already: one template is accepted and has no effect, several are refused.
    """

    vectors: Tensor

    def __init__(self, table: Table, *, name: str, space: str, fingerprint: str) -> None:
        super().__init__()
        self.name, self.space, self.fingerprint = name, table.space or space, fingerprint
        self.template, self.width = table.template, table.vectors.shape[1]
        self.register_buffer("vectors", F.normalize(table.vectors.float(), dim=-1))
        self._exact: dict[str, int] = {}
        self._plain: dict[str, int] = {}
        for index, word in enumerate(table.names):
            self._exact.setdefault(word, index)
            self._plain.setdefault(plain(word), index)
        self.eval()

    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The unit-length vector of each name.

        Raises FusionerError for templates other than the table's own, and for names that are not in it.
        """
        if len(templates) != 1 or (self.template and templates[0] not in ("{}", self.template)):
            own = f"with {self.template!r}" if self.template else "with one prompt"
            raise FusionerError(
                f"encoder {self.name!r}: its vectors were made {own}, so {len(templates)} template(s) starting with "
                f"{templates[0] if templates else ''!r} can't be applied: set templates to 'none'"
            )
        missing = [name for name in names if self._row(name) is None]
        if missing:
            raise FusionerError(self._message(missing))
        return self.vectors[torch.tensor([self._row(name) for name in names], dtype=torch.long)]

    def holds(self, name: str) -> bool:
        """Whether the table has a row for ``name``."""
        return self._row(name) is not None

    def _row(self, name: str) -> int | None:
        return self._exact.get(name, self._plain.get(plain(name)))

    def _message(self, missing: Sequence[str]) -> str:
        nearest = [difflib.get_close_matches(plain(name), self._plain, n=3, cutoff=0.5) for name in missing[:3]]
        each = [
            f"{name!r}" + (f" (nearest: {', '.join(near)})" if near else "")
            for name, near in zip(missing, nearest, strict=False)
        ]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return (
            f"encoder {self.name!r} has no vector for {', '.join(each)}{more}: "
            "use a name that it holds, add a row to the file, or choose a text encoder with weights"
        )


def make_spec(file: str) -> EncoderSpec:
    """The spec of ``vectors:FILE``; the file is opened when it is loaded."""
    return EncoderSpec(
        name=f"vectors:{file}",
        role="text",
        family="vectors",
        space=f"vectors:{Path(file).stem}",
        width=0,
        parameters=0,
        loader="fusionerlib.encoders.vectors:load",
        pretraining="see where the file is from",
        licence="see where the file is from",
        tokens=("vectors",),
        options={"file": file},
    )


def load(spec: EncoderSpec, options: LoadOptions) -> VectorTable:
    """The encoder of ``vectors:FILE``, or of ``options.weights`` in its place; the precision has no effect.

    Raises FusionerError where the file is missing or is not such a table.
    """
    file = Path(options.weights or spec.options["file"])
    table = read(file)
    return VectorTable(table, name=spec.name, space=spec.space, fingerprint=file_digest(file)).to(options.device)


def read(file: Path) -> Table:
    """The content of ``file``. Raises FusionerError naming the file and what is wrong with it."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise FusionerError(
            f"{file} needs pyarrow to be read: run `pip install 'fusioner[data]'` in the clone"
        ) from error
    if not file.is_file():
        raise FusionerError(f"no file {file}: write vectors:FILE with the path of a parquet table")
    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise FusionerError(f"{file} can't be read as parquet ({error}): make it again") from error

    columns = [field.name for field in table.schema if _holds_vectors(field.type)]
    if "name" not in table.column_names or len(columns) != 1 or not table.num_rows:
        found = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        raise FusionerError(
            f"{file} has {table.num_rows} rows of {found}: expected rows with a column `name` and one column of vectors"
        )
    names, vectors = table.column("name").to_pylist(), list(table.column(columns[0]).to_numpy())
    for number, (name, vector) in enumerate(zip(names, vectors, strict=True)):
        if not isinstance(name, str) or not name.strip():
            raise FusionerError(f"{file}, row {number}: {name!r} is not a name")
        if vector is None or not np.isfinite(vector).all() or not np.any(vector):
            raise FusionerError(f"{file}, row {number}: the vector of {name!r} has no direction (zeros, gaps or NaN)")
        length = np.linalg.norm(np.asarray(vector, np.float64) / (largest := np.abs(vector).max())) * largest
        if not LENGTHS[0] < length < LENGTHS[1]:
            raise FusionerError(
                f"{file}, row {number}: the vector of {name!r} has length {length:.3g}, expected {LENGTHS[0]:g} to "
                f"{LENGTHS[1]:g}: scale the vectors to length 1"
            )
        if len(vector) != len(vectors[0]):
            raise FusionerError(
                f"{file}, row {number}: the vector of {name!r} has {len(vector)} values, row 0's has {len(vectors[0])}"
            )
    metadata = table.schema.metadata or {}
    space, template = (metadata.get(key, b"").decode("utf-8", "replace") for key in (b"space", b"template"))
    numbers = torch.from_numpy(np.stack(vectors).astype(np.float32))
    return Table(names=names, vectors=numbers, space=space, template=template)


def _holds_vectors(kind: Any) -> bool:
    from pyarrow import types

    lists = (types.is_fixed_size_list, types.is_list, types.is_large_list)
    return any(is_list(kind) for is_list in lists) and types.is_floating(kind.value_type)


def plain(name: str) -> str:
    """``name`` in lower case, with single spaces for underscores and runs of spaces: the second look-up."""
    return " ".join(name.replace("_", " ").lower().split())
