"""The published numbers are those of the paper, cell by cell, and holes stay holes."""

import math
import re

import pytest

from fusionerlib.errors import FusionerError
from studies.encoder_pairs.tables import published_gaps
from studies.published import HOLE, beside, rows
from tests.conftest import ROOT

PASCAL, COCO, CROSS = "pascal-5i", "coco-20i", "coco-20i->pascal-5i"
PAPER = ROOT.parent / "shared" / "paper.md"
paper = pytest.mark.skipif(not PAPER.is_file(), reason="no ../shared/paper.md beside the checkout")


def numbers(row):
    """Folds and mean as they would be printed."""
    return tuple("-" if math.isnan(value) else f"{value:.1f}" for value in (*row.folds, row.mean))


def cells():
    """The paper's tables, as rows of cells."""
    lines = (line for line in PAPER.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spread(folds, mean):
    return (*(folds.split() if folds != "-" else ["-"] * 4), mean)


@pytest.mark.parametrize(("dataset", "count"), [(PASCAL, 31), (COCO, 7), (CROSS, 3)])
def test_means_are_those_of_the_folds(dataset, count):
    found = rows(dataset)
    assert len(found) == count
    whole = [row for row in found if not any(map(math.isnan, (*row.folds, row.mean)))]
    assert len(whole) == {PASCAL: 30, COCO: 5, CROSS: 2}[dataset]
    for row in whole:
        assert row.mean == pytest.approx(sum(row.folds) / 4, abs=0.1), row


@paper
def test_encoder_pairs_are_the_papers_cell_by_cell():
    expected = []
    for first, *rest in (row for row in cells() if len(row) == 5 and re.match(r"(CLIP|DINO|MoCo)-\w /", row[0])):
        pair = tuple(first.split(" / "))
        expected += [(*pair, "early", *spread(*rest[:2])), (*pair, "late", *spread(*rest[2:]))]
    assert len(expected) == 24
    assert [(row.visual, row.text, row.fusion, *numbers(row)) for row in rows(PASCAL) if row.text] == expected


@paper
@pytest.mark.parametrize(("dataset", "columns"), [(PASCAL, slice(1, 3)), (COCO, slice(3, 5))])
def test_systems_are_the_papers_cell_by_cell(dataset, columns):
    table = [row for row in cells() if re.match(r"(SPNet|ZS3Net|LSeg|Fusioner) ", row[0])]
    expected = [(row[0], *spread(*row[columns])) for row in table]
    found = [row for row in rows(dataset) if not row.text and row.model != "SAZS"]
    assert len(expected) == 6
    assert [(f"{row.model} {row.visual}", *numbers(row)) for row in found] == expected
    assert all(row.source == "Fusioner, BMVC 2022" for row in found if row.model == "Fusioner")
    assert all(row.source == "quoted in Fusioner, BMVC 2022" for row in found if row.model != "Fusioner")


@paper
def test_what_stands_in_sentences_is_the_papers():
    text = " ".join(PAPER.read_text(encoding="utf-8").split())
    (sentence,) = re.findall(r"COCO-20i trained, PASCAL tested: (.*?)\.(?: |$)(?=[A-Z])", text)
    expected = []
    for part in sentence.split("; "):
        # "LSeg R101 24.6 / - / 34.7 / 35.9 = 31.7"
        model, visual, *values = part.replace(" /", "").replace("= ", "").split()
        expected.append((model, visual, *values))
    assert [(row.model, row.visual, *numbers(row)) for row in rows(CROSS)] == expected
    (later,) = re.findall(r"SAZS ViT-L/16, PASCAL-5i ([\d. ]+), COCO-20i ([\d. ]+\d)", text)
    for dataset, folds in zip((PASCAL, COCO), later, strict=True):
        (row,) = (row for row in rows(dataset) if row.model == "SAZS")
        assert (row.visual, *numbers(row)) == ("ViT-L/16", *folds.split(), "-")


def test_gaps_of_pairs_are_the_papers():
    gaps = {row["pair"]: (row["early"], row["late"], row["early - late"]) for row in published_gaps()}
    assert len(gaps) == 12
    assert gaps["CLIP-L / CLIP-L"] == (59.0, 50.1, 8.9) and gaps["DINO-B / BERT-L"] == (53.7, 54.3, -0.6)


def test_our_row_stands_first_and_only_with_what_was_run():
    table = beside({1: 0.42449, 3: 1.0}, dataset=COCO, label="packaged pair")
    assert list(table.columns)[4:9] == ["fold 0", "fold 1", "fold 2", "fold 3", "mean"]
    assert table.iloc[0].tolist() == ["packaged pair (ours)", "", "", "", HOLE, "42.4", HOLE, "100.0", HOLE, "this run"]
    assert len(table) == 1 + len(rows(COCO))
    assert table.iloc[1].tolist()[4:9] == [HOLE] * 5
    assert table.iloc[2].tolist()[:9] == ["ZS3Net", "R101", "", "", "18.8", "20.1", "24.8", "20.5", "21.1"]
    assert table["model"].str.contains("ours").sum() == 1


@pytest.mark.parametrize(
    ("ours", "mean"),
    [
        ({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}, "25.0"),
        ({0: 0.10049, 1: 0.10049, 2: 0.10049, 3: 0.10049}, "10.0"),
        ({0: 0.5, 1: 0.5, 2: 0.5}, HOLE),
        ({0: 0.5, 1: 0.5, 2: 0.5, 3: math.nan}, HOLE),
        ({}, HOLE),
    ],
)
def test_our_mean_is_over_four_folds_or_a_hole(ours, mean):
    assert beside(ours, dataset=PASCAL, label="x")["mean"][0] == mean


def test_what_does_not_fit_is_named():
    with pytest.raises(FusionerError, match=r"'fss'.*pascal-5i, coco-20i, coco-20i->pascal-5i"):
        rows("fss")
    with pytest.raises(FusionerError, match="fold 4"):
        beside({4: 0.5}, dataset=PASCAL, label="x")
    with pytest.raises(FusionerError, match=r"52\.1 of fold 0.*0-1"):
        beside({0: 52.1}, dataset=PASCAL, label="x")
