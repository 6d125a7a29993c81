"""A table of ready-made vectors as a text encoder, against the table read by pandas."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusionerlib.encoders.base import TextEncoder
from fusionerlib.encoders.registry import get_spec, load_text
from fusionerlib.errors import FusionerError

pyarrow = pytest.importorskip("pyarrow", reason="tables of vectors are read with pyarrow, in the extra `data`")
parquet = pytest.importorskip("pyarrow.parquet")

CLIP = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip-text" / "clip-vit-b32.parquet"
NAMES = ["cat", "Dining_Table", "traffic light", "cat"]
VECTORS = np.array([[3, 4, 0], [0, 0, 2], [1, 1, 1], [0, 5, 0]], dtype=np.float16)


def write(file: Path, *, metadata: dict[str, str | bytes] | None = None, **columns: Any) -> str:
    """A table in the layout of published ones: fixed-width vectors of half floats; the encoder's name."""
    given = {"name": NAMES, "vector": VECTORS, **columns}
    arrays = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])
        if isinstance(values, np.ndarray)
        else pyarrow.array(values)
        for name, values in given.items()
        if values is not None
    }
    parquet.write_table(pyarrow.table(arrays).replace_schema_metadata(metadata), file)
    return f"vectors:{file}"


def test_tokens_are_the_tables_vectors_at_unit_length(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "words.parquet", set=["a", "a", "a", "b"]))
    assert isinstance(text, TextEncoder) and (text.width, text.space) == (3, "vectors:words")
    third = 1 / np.sqrt(3)
    expected = torch.tensor([[third, third, third], [0.6, 0.8, 0.0]], dtype=torch.float32)
    for template in ("{}", "a {}"):
        torch.testing.assert_close(text(["traffic light", "cat"], [template]), expected)
    assert torch.equal(
        load_text("vectors:elsewhere.parquet", weights=str(tmp_path / "words.parquet")).vectors, text.vectors
    )


def test_names_match_without_case_and_underscores(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "words.parquet"))
    expected = text(["Dining_Table"], ["{}"])
    assert torch.equal(expected, torch.tensor([[0.0, 0.0, 1.0]]))
    for name in ("dining table", "dining  Table", "DINING_TABLE"):
        assert torch.equal(text([name], ["{}"]), expected)


def test_a_name_as_written_goes_before_one_that_only_matches(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "words.parquet", name=["Turkey", "turkey", "TURKEY", "x"]))
    assert [text([name], ["{}"]).argmax().item() for name in ("Turkey", "turkey", "tUrKeY")] == [1, 2, 1]


def test_missing_names_are_told_with_the_nearest(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "words.parquet"))
    with pytest.raises(
        FusionerError, match=r"no vector for 'diningtable' \(nearest: dining table\), 'zzz': use a name"
    ):
        text(["cat", "diningtable", "zzz"], ["{}"])
    with pytest.raises(FusionerError, match=r"'q2' and 4 more"):
        text([f"q{index}" for index in range(7)], ["{}"])


def test_templates_that_were_never_applied_are_refused(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "words.parquet"))
    for templates in (["a {}.", "the {}."], []):
        with pytest.raises(FusionerError, match=r"made with one prompt.*set templates to 'none'"):
            text(["cat"], templates)
    told = load_text(write(tmp_path / "told.parquet", metadata={"space": "clip", "template": "a {}"}))
    assert told.space == "clip"
    assert torch.equal(told(["cat"], ["a {}"]), told(["cat"], ["{}"]))
    with pytest.raises(FusionerError, match=r"made with 'a \{\}', so .*'a photo of a \{\}\.' can't be applied"):
        told(["cat"], ["a photo of a {}."])


def test_metadata_that_is_no_text_is_read_without_an_error(tmp_path: Path) -> None:
    assert load_text(write(tmp_path / "words.parquet", metadata={"space": b"\xff\xfe"})).space == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"name": None}, r"expected rows with a column `name` and one column of vectors"),
        ({"vector": None}, r"has 4 rows of name \(string\): expected"),
        ({"second": VECTORS}, "one column of vectors"),
        ({"vector": [[1], [2], [3], [4]]}, r"vector \(list<.*int64.*expected"),
        ({"name": ["cat", " ", "a", "b"]}, "row 1: ' ' is not a name"),
        ({"name": ["cat", None, "a", "b"]}, "row 1: None is not a name"),
        (
            {"vector": [[1.0, 2.0], [1.0, 0.0], [3.0], [1.0, 1.0]]},
            "row 2: the vector of 'traffic light' has 1 values, row 0's has 2",
        ),
        ({"vector": [[1.0], None, [1.0], [1.0]]}, "row 1: the vector of 'Dining_Table' has no direction"),
        (
            {"vector": [[1.0], [1e300], [1.0], [1.0]]},
            r"row 1: the vector of 'Dining_Table' has length 1e\+300, expected",
        ),
        ({"vector": [[1.0], [1.0], [-1e30], [1.0]]}, r"row 2: the vector of 'traffic light' has length 1e\+30"),
        ({"vector": [[1.0], [1.0], [1e-300], [1.0]]}, "row 2: the vector of 'traffic light' has length 1e-300"),
        ({"vector": [[1.0], [0.0], [1.0], [1.0]]}, "row 1: the vector of 'Dining_Table' has no direction"),
        ({"vector": [[1.0], [1.0], [float("nan")], [1.0]]}, "row 2: the vector of 'traffic light' has no direction"),
        ({"vector": [[1.0], [1.0], [None], [1.0]]}, "row 2: the vector of 'traffic light' has no direction"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    name = write(tmp_path / "words.parquet", **columns)
    with pytest.raises(FusionerError, match=rf"words.parquet.*{told}"):
        load_text(name)


def test_a_file_that_is_no_table_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FusionerError, match=r"no file .*none\.parquet: write vectors:FILE"):
        load_text(f"vectors:{tmp_path / 'none.parquet'}")
    (tmp_path / "junk.parquet").write_text("name,vector\n")
    with pytest.raises(FusionerError, match=r"junk\.parquet can't be read as parquet"):
        load_text(f"vectors:{tmp_path / 'junk.parquet'}")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(FusionerError, match=r"pip install 'fusioner\[data\]'"):
        load_text(f"vectors:{tmp_path / 'junk.parquet'}")


def test_frozen_and_fingerprinted_by_its_bytes(tmp_path: Path) -> None:
    name = write(tmp_path / "words.parquet")
    text = load_text(name)
    tokens, head = text(["cat"], ["{}"]), nn.Linear(3, 2)
    head(tokens).sum().backward()
    assert not tokens.requires_grad and not list(text.parameters())
    assert not text.train().training
    assert load_text(name).fingerprint == text.fingerprint
    write(tmp_path / "words.parquet", vector=VECTORS[::-1].copy())
    assert load_text(name).fingerprint != text.fingerprint


def test_row_opens_no_file() -> None:
    spec = get_spec("text", "vectors:some/where/words.parquet")
    assert (spec.space, spec.files, spec.download) == ("vectors:words", (), 0)


@pytest.mark.skipif(not CLIP.is_file(), reason="no ../shared/data/clip-text beside the checkout")
def test_real_clip_vectors() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(CLIP)
    text = load_text(f"vectors:{CLIP}")
    first = table.drop_duplicates("name")
    vectors = np.stack(first.vector.to_list()).astype(np.float64)
    expected = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).float()
    tokens = text(list(first.name), ["a {}"])
    assert tokens.shape == (1224, 512)
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=1e-5)
    horse, *others = text(["horse", "cow", "dog", "sheep", "toaster", "fork", "sink"], ["{}"])
    close, far = (torch.stack(part) @ horse for part in (others[:3], others[3:]))
    assert close.min() > far.max()
