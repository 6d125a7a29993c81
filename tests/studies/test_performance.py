"""Records as the benchmarks write them, small and by hand: tables, page, figures, and what the paper would cost."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusionerlib.config import RunConfig
from fusionerlib.datasets.pascal import training_pair_count
from fusionerlib.errors import FusionerError
from studies.cost_aggregation.tables import training_cost
from studies.paper_grid import cost as grid_cost
from studies.paper_grid.cost import Rate, estimates, fusion_flops, images_shown, tower_flops
from studies.paper_grid.grid import Grid
from studies.performance.figures import cost_growth, step_parts
from studies.performance.page import machine_text, markdown, rate_rows, section
from studies.performance.tables import machines, read_record, read_records, targets

MACHINE = {
    "processor": "Abacus 5", "cores": 2, "memory_gb": 8.0, "system": "Linux", "threads": 2, "device": "cpu",
    "versions": {"python": "3.11.0", "torch": "2.9.0"},
}  # fmt: skip
PARTS = {
    "reference text": ["forward"], "reference tower": ["forward"],
    "reference fusion": ["forward", "backward"], "reference decoder": ["forward", "backward"],
    "our text, once a name": ["forward"], "our tower": ["forward"], "our fusion": ["forward", "backward"],
    "our decoder": ["forward", "backward"], "our optimiser": ["forward"],
}  # fmt: skip


def both(fastest: float, median: float) -> dict[str, float]:
    return {"fastest": fastest, "median": median}


def training(*, scale: float = 1.0) -> dict[str, Any]:
    """Steps of 6.0, 4.0, 2.0 and 1.5 s an image, ``scale`` times as long; every part 0.5 s and 20 of 100 GFLOP/s."""
    reached = {"gflops": 20.0, "gigabytes": 2.0, "of_matmul": 0.2, "of_convolution": 0.1, "of_copy": 0.25}
    part = {"seconds": 0.5, "gigaflops": 10.0, "gigabytes": 1.0, "reached": reached}
    steps = {"reference": [6.5, 6.0], "cached": [4.0, 4.5], "online": [2.0, 2.5], "stored": [1.5, 1.75]}
    rows = {
        "bmvc2022": {"fusion_gigaflops": 150.0, "tower_gigaflops": 50.0, "parameters": 48_000_000},
        "modern": {"fusion_gigaflops": 3.0, "tower_gigaflops": 1.0, "parameters": 48_000},
    }
    most = {"matmul": 200.0, "convolution": 200.0, "copy": 8.0}
    return {
        "machine": MACHINE,
        "options": {"encoder": "clip-vit-l14", "images": 2, "precision": "no"},
        "bmvc2022": {
            "seconds": {side: [scale * turn for turn in turns] for side, turns in steps.items()},
            "reference by stored": both(4.0, 4.1),
            "reference by online": both(1.5, 1.7),
            "cached by stored": both(2.67, 2.6),
        },
        "parts": {name: dict.fromkeys(ways, part) for name, ways in PARTS.items()},
        "modern": {**rows, "share_of_fusion_gigaflops": 0.02, "share_of_parameters": 0.001},
        "ceilings": {"reference": most, "our": most},
    }


def records() -> dict[str, dict[str, Any]]:
    """One of each benchmark that a person would look at first, none of the towers and of loading."""
    point = {"train": 1.0, "answer": 0.5, "train gigaflops": 100.0, "answer gigaflops": 30.0}
    twice = {key: 2 * value for key, value in point.items()}
    rates = {"store": 90.0, "other": 100.0, **both(0.9, 0.8)}
    store = {"image_bytes": 219_520, **dict.fromkeys(("tower", "write", "cold read", "warm read"), rates)}
    word = {"five cold": 40.0, "twenty cached": 70.0, "five cold, median": 45.0, "twenty cached, median": 80.0}
    photo: dict[str, Any] = {"windows": 9, "names": 20, "seconds": {"ours": [2.0, 1.0], "bare": [1.0, 1.5]}}
    photo |= {"over_bare": both(1.25, 1.2), "reference_single": 600.0, "reference_joint": 100.0}
    large = {"100": {"text": 1.0, "segment": 0.5, "bytes_more": 5e6, "bytes": 1e9}, "exponent": 0.97, "equal": True}
    return {
        "training": training(),
        "inference": {"machine": MACHINE, "photo": photo, "words": {"224": word}, "large": large},
        "scale": {
            "machine": MACHINE,
            "base": {"images": 1, "names": 1},
            "axes": {"images": {"points": {"1": point, "2": twice}, "growth": dict.fromkeys(point, 1.0)}},
        },
        "features": {
            **{"machine": MACHINE, "images": 256, "size": 224, "encoder": "packaged"},
            **{"formats": {"float16": store}, "miou": {"float16": 57.25}},
        },
        "inspector": {"threshold": {"median": 18.0, "slowest": 20.0}, "word": {"median": 120.0, "slowest": 130.0}},
    }


def written(folder: Path, **more: Any) -> Path:
    """``records`` as files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in {**records(), **more}.items():
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_a_missing_record_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"scale\.json: run `python benchmarks/scale\.py --json .*scale\.json`"):
        read_record(tmp_path, "scale")
    with pytest.raises(FusionerError, match=r"benchmarks/training\.py --device cuda --json .*training-gpu\.json"):
        read_record(tmp_path, "training-gpu")
    with pytest.raises(FusionerError, match=r"no benchmark's record in .*: run `make benchmarks`"):
        read_records(tmp_path)
    (tmp_path / "data.json").write_text('{"machine": ', encoding="utf-8")
    with pytest.raises(FusionerError, match=r"data\.json is not a benchmark's record .* --root VOC"):
        read_records(tmp_path)


def test_every_figure_stands_beside_its_target() -> None:
    found = {row["what"]: (row["fastest"], row["median"], row["target"], row["met"]) for row in targets(records())}
    assert found == {
        "training step, reference / stored, processor": (4.0, 4.1, "at least 2.2", "yes"),
        "training step, reference / online, processor": (1.5, 1.7, "at least 1.6", "**no**"),
        "photo, reference / ours": (600.0, None, "at least 30", "yes"),
        "photo, ours / bare parts": (1.25, 1.2, "at most 1.1", "**no**"),
        "new words, 224 pixels, five cold": (40.0, 45.0, "at most 60", "yes"),
        "new words, 224 pixels, twenty cached": (70.0, 80.0, "at most 60", "**no**"),
        "mask inspector, threshold": (None, 18.0, "at most 50", "yes"),
        "mask inspector, word": (None, 120.0, "at most 100", "**no**"),
    }
    gpu = {row["what"]: (row["target"], row["met"]) for row in targets({"training-gpu": training()})}
    assert gpu == {
        "training step, reference / stored, GPU": ("at least 10", "**no**"),
        "training step, cached / stored, GPU": ("at least 3", "**no**"),
    }


def test_the_machine_is_named_once_for_all_its_records() -> None:
    gpu = {"machine": {**MACHINE, "gpu": "Loom 100"}}
    rows = machines({**records(), "training-gpu": gpu})
    told = {row["records"]: (row["processor"], row["gpu"], row["torch"]) for row in rows}
    assert told == {
        "training, inference, scale, features": ("Abacus 5", None, "2.9.0"),
        "inspector": ("not in the record", None, None),
        "training-gpu": ("Abacus 5", "Loom 100", "2.9.0"),
    }
    assert "None of these records was taken on a GPU" in machine_text(records())
    assert "None of these" not in machine_text({"training-gpu": gpu})


def test_numbers_have_three_digits_or_are_whole() -> None:
    rows = [{"a_b": 1234.56, "c": 0.012345, "d": True}, {"a_b": 48_000_000, "c": None, "e": float("nan")}]
    assert markdown(rows).splitlines() == [
        "| a b | c | d | e |",
        "| --- | --- | --- | --- |",
        "| 1,235 | 0.0123 | yes | - |",
        "| 48,000,000 | - | - | - |",
    ]
    assert "Nothing" in markdown([])


def test_the_sections_hold_the_figures(tmp_path: Path) -> None:
    folder = written(tmp_path)
    step = section(folder, "training")
    assert "**Steps (clip-vit-l14, 2 images a step, mixed precision no)**" in step
    assert "| stored | 1.5 | 0.667 | 4 | 2.67 |" in step
    assert "| our decoder | backward | 500 | 10 | 1 | 20 | 10 | 25 |" in step
    assert "0.02" in step and "48,000" in step
    answer = section(folder, "inference")
    assert "| ours, s | 1 |" in answer and "| reference / ours, a name at a time | 600 |" in answer
    assert "power 0.97; chunks equal the whole: yes" in answer and "| 100 | 1 | 0.5 | 5 | 5 |" in answer
    store = section(folder, "features")
    assert "| float16 | 219,520 | 57.2 |" in store and "| float16 | cold read | MB/s | 90 | 100 | 0.9 | 0.8 |" in store
    growth = section(folder, "scale")
    assert "| images | train | 1, 2 | 1 | 1 |" in growth and "held at images 1, names 1" in growth


def test_a_section_without_a_record_says_so(tmp_path: Path) -> None:
    assert "no record of `benchmarks/encoders.py`" in section(tmp_path, "encoders")


def test_a_gpu_stands_beside_the_processor(tmp_path: Path) -> None:
    fast = {**training(scale=0.01), "machine": {**MACHINE, "gpu": "Loom 100"}}
    folder = written(tmp_path, **{"training-gpu": fast})
    assert section(folder, "training").count("**Parts") == 2
    assert "**Parts, Loom 100**" in section(folder, "training")
    rows = rate_rows(read_records(folder), assumed=50.0)
    # 200 GFLOP in 2 s and in 0.02 s, 150 GFLOP in 1.5 s and in 0.015 s, of 200 GFLOP/s.
    assert [row["machine"] for row in rows] == ["this processor", "Loom 100", "50 TFLOP/s assumed"]
    assert [row["online TFLOP/s"] for row in rows] == pytest.approx([0.1, 10.0, 50.0])
    assert [row["stored TFLOP/s"] for row in rows] == pytest.approx([0.1, 10.0, 50.0])
    assert rows[0]["online % of it"] == 50 and rows[2]["online % of it"] is None


@pytest.mark.parametrize(
    ("visual", "name", "projection"),
    [("dino-vitb16", "vit_base_patch16_224", 0), ("clip-vit-l14", "vit_large_patch14_clip_224", 2 * 256 * 1024 * 768)],
)
def test_a_towers_operations_are_those_that_torch_counts(visual: str, name: str, projection: int) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        timm.create_model(name, num_classes=0).forward_features(torch.empty(1, 3, 224, 224))
    assert tower_flops(visual, size=224) == counter.get_total_flops() + projection


def test_a_tower_of_unknown_size_is_refused() -> None:
    with pytest.raises(FusionerError, match=r"'packaged' is not known: expected one of clip-vit-b16"):
        tower_flops("packaged", size=224)


def test_the_fusion_is_counted_as_it_would_run() -> None:
    run = {"preset": "small", "recipe": "bmvc2022", "size": 64}
    grid = Grid.load("paper").model_copy(update={"run": run})
    for fusion, kind in (("early", "fusioner"), ("late", "late")):
        real = training_cost(RunConfig.flat(**run, kind=kind), visual_width=768, text_width=768, stride=16)
        assert fusion_flops(grid, visual="dino-vitb16", fusion=fusion) == real["flops"]


def test_as_many_images_are_counted_as_the_grid_trains_on() -> None:
    grid = Grid.load("paper")
    assert images_shown(grid, "PASCAL-5i", epochs=2) == 2 * sum(training_pair_count(fold) for fold in range(4))
    assert images_shown(grid, "COCO-20i", epochs=1) == sum((95476, 133927, 141054, 141016))


def test_days_are_operations_by_the_rate() -> None:
    paper = Grid.load("paper")
    grid = paper.model_copy(update={"run": {**paper.run, "depth": 2}})
    rows = estimates(grid, [Rate("slow", 1.0, 2.0)], coco_epochs=50)
    by_name = {(row["data"], row["trainings of"]): row for row in rows}
    whole = by_name["PASCAL-5i", "the whole grid"]
    parts = [row for row in rows if row["data"] == "PASCAL-5i" and row is not whole]
    assert whole["trainings"] == 96 == sum(row["trainings"] for row in parts)
    assert whole["EFLOP"] == pytest.approx(sum(row["EFLOP"] for row in parts))
    # A fourth of the pairs are CLIP's ViT-L/14, the others are ViT-B/16 of which a third have CLIP's projection.
    assert whole["tower GFLOP"] == pytest.approx((162.4266 + 35.2803 + 2 * 35.1261) / 4, rel=1e-4)
    for row in rows:
        work = row["million images"] * (row["tower GFLOP"] + row["fusion GFLOP"]) * 1e15
        assert row["EFLOP"] * 1e18 == pytest.approx(work)
        assert row["days, slow"] * 86400 * 1e12 == pytest.approx(work)
        assert row["stored, slow"] * 86400 * 2e12 == pytest.approx(row["million images"] * row["fusion GFLOP"] * 1e15)
    best = by_name["COCO-20i", "clip-vit-l14, early, its own words"]
    assert best["trainings"] == 4 and best["million images"] == pytest.approx(25.57, abs=0.01)
    assert set(grid_cost.TOWERS) == {visual for visual, _ in grid.pairs}


def test_the_figures_draw_every_part_and_axis() -> None:
    left, right = step_parts(training()).axes
    # Text and tower forward only, fusion and decoder both ways: six times 0.5 s.
    stacked = [sum(bar.get_width() for bar in left.patches if round(bar.get_y() + 0.4) == row) for row in range(4)]
    assert stacked == pytest.approx([3.0, 2.5, 3.0, 2.5])
    assert [line.get_xdata()[0] for line in left.lines] == [6.0, 4.0, 2.0, 1.5]
    assert len(right.get_yticklabels()) == 13 and list(right.lines[2].get_xdata()) == [25.0] * 13
    (panel,) = cost_growth(records()["scale"]).axes
    assert [line.get_label() for line in panel.lines] == ["train, power 1.00", "answer, power 1.00"]
    assert list(panel.lines[0].get_ydata()) == [1.0, 2.0]
