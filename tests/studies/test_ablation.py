"""What can be ablated: every setting is a config, subsets of the training data are what they say, names are checked."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fusionerlib.config import RunConfig
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import Entry, StoredScene, StoredScenes, TokensAndLabels
from fusionerlib.models import build
from fusionerlib.training.subsets import OBJECT, OneObject, TrainingSubset, families_of
from studies.ablations.study import DEFAULT, PAIRS, SHARES, VARIANTS, ablate, chosen_variants
from studies.published import HOLE
from studies.variants import train_variant
from tests.conftest import ROOT
from tests.small_runs import drawn, small_run
from workbook.notebook import AblationNotebook
from workbook.report.comparison import PUBLISHED, ablation_tables, pair_lines


@pytest.fixture(scope="module")
def openmoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("drawn") / "openmoji")


def test_every_setting_is_a_config_of_its_own_that_builds() -> None:
    base = RunConfig()
    for name, settings in chosen_variants(list(VARIANTS)).items():
        runs = []
        for changes in settings.values():
            shares = {key: value for key, value in changes.items() if key in SHARES}
            run = base.changed(**{key: value for key, value in changes.items() if key not in SHARES})
            build(run.fusion, visual_width=12, text_width=9)
            runs.append((run, tuple(shares.items())))
        assert len(settings) >= 2 and len(set(runs)) == len(settings), name


def test_the_notebook_runs_the_default_three_and_knows_all() -> None:
    assert AblationNotebook().ablations == DEFAULT and AblationNotebook().pairs == PAIRS
    assert list(chosen_variants()) == ["fusion depth", "where they meet", "templates"]
    assert AblationNotebook.from_namespace({"ablations": list(VARIANTS)}).ablations == tuple(VARIANTS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ablations": ["fusion deph"]}, "unknown ablation 'fusion deph': did you mean 'fusion depth'"),
        ({"ablations": ["zzz"]}, "unknown ablation 'zzz': known: pair, fusion depth, .*training classes"),
        ({"ablations": ["pair"], "pairs": ["packaged"]}, "pair 'packaged': expected a visual and a text encoder"),
        ({"pairs": ["packaged / bert-bas"]}, "unknown text encoder 'bert-bas': did you mean 'bert-base'"),
    ],
)
def test_unknown_names_are_told_before_anything_trains(given: dict, told: str) -> None:
    with pytest.raises(FusionerError, match=told):
        AblationNotebook.from_namespace(given)


def test_a_pair_starts_from_its_own_tokens() -> None:
    run = RunConfig.flat(visual_tokens="class_posteriors", text_tokens="class_posteriors")
    run = run.changed(**chosen_variants(["pair"])["pair"][PAIRS[1]])
    assert run == RunConfig.flat(text="arbitrary", templates="none"), "the run's own templates"


def test_a_leaf_that_no_section_has_is_refused() -> None:
    with pytest.raises(FusionerError, match="unknown parameter 'dept' = 3: did you mean 'depth'"):
        RunConfig().changed(dept=3)


def test_families_are_joined_by_words_they_share_in_full() -> None:
    names = ["bicycle", "blue bicycle", "blue bicycle bell", "bell", "cat", "cat face", "dog"]
    assert sorted(map(sorted, families_of(names))) == [
        ["bell", "bicycle", "blue bicycle", "blue bicycle bell"],
        ["cat", "cat face"],
        ["dog"],
    ]


class Listed(StoredScenes):
    """Stored scenes made by hand: names, one label map for all, and no tokens to speak of."""

    def __init__(self, names: list[tuple[str, ...]]) -> None:
        self.entries, self.fingerprint = [Entry(str(i), own, str(i)) for i, own in enumerate(names)], "listed"
        self.store = SimpleNamespace(encoder=SimpleNamespace(width=2))

    def __getitem__(self, index: int) -> StoredScene:
        tokens, labels = self.batch([index])
        return StoredScene(tokens[0], labels[0], self.names(index), str(index))

    def batch(self, indices: Sequence[int]) -> TokensAndLabels:
        labels = torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8)
        return torch.zeros(len(indices), 1, 1, 2), torch.stack([labels for _ in indices])


SCENES = Listed([(f"n{i}", f"n{(i + 1) % 12}") for i in range(12) for _ in range(2)])


def test_shares_of_images_are_nested_and_keep_views_together() -> None:
    shares = (0.25, 0.5, 1.0)
    kept = {
        share: {scene for scene, _ in TrainingSubset(SCENES, images=share, views=2, seed=5).pairs()} for share in shares
    }
    assert [len(kept[share]) for share in shares] == [6, 12, 24]
    assert kept[0.25] < kept[0.5] < kept[1.0]
    assert all({scene ^ 1 for scene in scenes} == scenes for scenes in kept.values())
    assert kept[0.5] != {scene for scene, _ in TrainingSubset(SCENES, images=0.5, views=2, seed=6).pairs()}


def test_names_left_out_are_never_asked_and_keep_their_place_in_the_labels() -> None:
    source = TrainingSubset(SCENES, names=0.5, seed=5)
    names = {name for _, name in source.pairs()}
    assert len(names) == 6 and {name for _, name in TrainingSubset(SCENES, names=0.25, seed=5).pairs()} < names
    order = SampleOrder(
        source.pairs(),
        [source.names(index) for index in range(len(source))],
        sampler=NameSampler(sorted(names), positives=2, negatives=2, hard=0.5),
        batch=8,
        seed=0,
    )
    for batch in source.batches(order, range(4)):
        assert {name for sample in batch.samples for name in sample.names} <= names
        assert all(
            found == SCENES.names(sample.scene) for found, sample in zip(batch.names, batch.samples, strict=True)
        )
    assert source.fingerprint != TrainingSubset(SCENES, names=0.25, seed=5).fingerprint != SCENES.fingerprint


def test_one_object_joins_all_labels_but_ignored_ones() -> None:
    source = OneObject(SCENES)
    assert source.pairs() == [(index, OBJECT) for index in range(24)]
    sampler = NameSampler([OBJECT], positives=4, negatives=6, hard=0.5)
    order = SampleOrder(source.pairs(), [source.names(i) for i in range(24)], sampler=sampler, batch=2, seed=0)
    (batch,) = source.batches(order, range(1))
    assert batch.labels.tolist() == [[[0, 1], [1, 255]]] * 2
    assert batch.names == [(OBJECT,)] * 2 and {sample.names for sample in batch.samples} == {(OBJECT,)}


def test_an_ablation_runs_and_its_table_has_a_hole_for_what_was_not_published(tmp_path, openmoji) -> None:
    context = RunContext(small_run(tmp_path, openmoji))
    variants = {
        **chosen_variants(["training classes"]),
        "where they meet": {name: {**VARIANTS["where they meet"][name], "depth": 1} for name in ("early", "late")},
    }
    variants["training classes"] = {name: variants["training classes"][name] for name in ("1/2", "all")}
    given = {"steps": 1, "batch": 2, "mosaics": 2, "directory": tmp_path / "ablations", "variants": variants}
    rows = ablate(context, seeds=2, **given)
    assert {(row["ablation"], row["setting"], row["seed"]) for row in rows} == {
        (name, setting, seed) for name, settings in variants.items() for setting in settings for seed in (0, 1)
    }
    # Early fusion of one block is the run itself: trained once, and written down twice.
    alike = [[r["value"] for r in rows if r["setting"] == setting] for setting in ("early", "all")]
    assert alike[0] == alike[1]
    assert ablate(context, seeds=2, **given) == rows
    tables = ablation_tables(rows, pair=context.run.pair)
    assert list(tables) == list(variants)
    values = [row["value"] for row in rows if row["setting"] == "late" and row["metric"] == "miou, objects"]
    (late,) = (line for line in tables["where they meet"] if line["setting"] == "late")
    mean, half = 100 * sum(values) / 2, 100 * abs(values[0] - values[1]) / 2
    assert late["mIoU, objects"] == f"{mean:.1f} ± {half * 2**0.5:.1f}"
    assert {line[PUBLISHED] for table in tables.values() for line in table} == {HOLE}


def test_where_files_lie_does_not_decide_the_folder_of_a_variant(tmp_path: Path, openmoji: Path) -> None:
    context = RunContext(small_run(tmp_path, openmoji))
    (tmp_path / "moved").symlink_to(openmoji)
    moved = {"root": tmp_path / "moved", "features": tmp_path / "elsewhere", "coco": tmp_path / "coco"}
    for changes, folders in (({}, 1), (moved, 1), ({"lr": 0.5}, 2)):
        train_variant(context.with_run(context.run.changed(**changes)), directory=tmp_path / "variants")
        assert len(list((tmp_path / "variants").iterdir())) == folders


def test_only_the_papers_own_pairs_get_its_numbers() -> None:
    def cells(pair: dict, ablation: str, *settings: str) -> list[str]:
        rows = [
            {"ablation": ablation, "setting": name, "metric": "m", "value": 0.5, "parameters": 1} for name in settings
        ]
        return [line[PUBLISHED] for line in ablation_tables(rows, pair=RunConfig.flat(**pair).pair)[ablation]]

    clip = {"visual": "clip-vit-l14", "text": "bert-base"}
    assert cells(clip, "where they meet", "early", "late") == ["54.6 (CLIP-L / BERT-B)", "52.1 (CLIP-L / BERT-B)"]
    assert cells({}, "where they meet", "early", "late") == [HOLE, HOLE]
    assert cells(clip, "fusion depth", "1 block") == [HOLE]
    pairs = cells({}, "pair", "dino-vitb16 / clip-vit-b16", "packaged / packaged", "dino-vits16 / bert-base")
    assert pairs == ["55.2 (DINO-B / CLIP-B)", HOLE, HOLE]


def test_the_papers_pairs_stand_under_ours_as_printed() -> None:
    def row(ablation: str, setting: str, value: float, metric: str = "miou, objects") -> dict:
        return {"ablation": ablation, "setting": setting, "metric": metric, "value": value}

    run = RunConfig.flat(visual="mocov3-vitb16", text="bert-large")
    found = [row("pair", "packaged / arbitrary", 0.1), row("pair", "packaged / arbitrary", 0.3)]
    found += [row("where they meet", "late", 0.9, "assignment, objects"), row("where they meet", "late", 0.2)]
    lines = [list(line.values()) for line in pair_lines(found, run=run)]
    assert lines[0] == ["packaged / arbitrary", "20.0 ± 14.1", HOLE, HOLE, HOLE]
    assert lines[1] == ["mocov3-vitb16 / bert-large", HOLE, "20.0", "56.8", "55.0"]
    assert len(lines) == 2 + 11 and ["CLIP-L / CLIP-L", HOLE, HOLE, "59.0", "50.1"] in lines
    assert "MoCo-B / BERT-L" not in {line[0] for line in lines}


PAPER = ROOT.parent / "shared" / "paper.md"


@pytest.mark.skipif(not PAPER.is_file(), reason="no ../shared/paper.md beside the checkout")
def test_what_has_a_hole_was_not_published() -> None:
    text = " ".join(PAPER.read_text(encoding="utf-8").split())
    (missing,) = re.findall(r"Not published anywhere that we could find: ([^.]*)\.", text)
    assert "the ablation tables" in missing and "every Mosaic-4 number" in missing
    table = re.findall(r"\| ((?:CLIP|DINO|MoCo)-\w / \S+) \| [\d. ]+\| ([\d.]+) \| [\d. ]+\| ([\d.]+) \|", text)
    found = [{"ablation": "loss", "setting": "bce", "metric": "m", "value": 0.0}]
    lines = [list(line.values()) for line in pair_lines(found, run=RunConfig())]
    assert [(line[0], *line[3:]) for line in lines] == table and len(table) == 12
