"""The benchmarks' records as tables: figures and their targets, shares of the machine's peak rates, growth of cost.

``make benchmarks`` writes one JSON file a benchmark; the name of a file that was written on a GPU ends in ``-gpu``.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError

Row = dict[str, Any]
Record = Mapping[str, Any]

TITLES = {
    "training": "A training step",
    "inference": "An answer",
    "scale": "How cost grows",
    "features": "The feature store",
    "data": "Loading and augmentation",
    "encoders": "The frozen visual encoders",
    "inspector": "The mask inspector",
}
"""Titles of the benchmarks by the names of their scripts."""

GPU = "-gpu"
STEPS = {
    "": {"reference by stored": 2.2, "reference by online": 1.6},
    GPU: {"reference by stored": 10.0, "cached by stored": 3.0},
}
"""Targets for a training step on the processor and on a GPU: the least ratio of two sides' times."""

INSPECTOR = {"threshold": 50.0, "opacity": 50.0, "temperature": 50.0, "word": 100.0, "switch": 100.0}
INSPECTOR |= {"click": 60.0, "stroke": 300.0}
INSPECTOR |= {f"{what}, in the browser": INSPECTOR[what] for what in ("threshold", "word", "click", "stroke")}
"""Targets for the mask inspector: the longest time in ms from a change to the new picture."""


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """The record of the benchmark ``name`` in ``folder``; with ``-gpu`` at the end of the name, the one of a GPU.

    Raises FusionerError that names the file and the command that writes it.
    """
    file = folder / f"{name}.json"
    script = name.removesuffix(GPU)
    more = " --root VOC" if script == "data" else " --device cuda" if name != script else ""
    command = f"python benchmarks/{script}.py{more} --json {file}"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise FusionerError(f"no record {file}: run `{command}`, or `make benchmarks` for all") from error
    except (ValueError, TypeError) as error:
        raise FusionerError(f"{file} is not a benchmark's record ({error}): write it again with `{command}`") from error


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records in ``folder`` by name. Raises FusionerError if there is none."""
    names = [name + kind for name in TITLES for kind in ("", GPU)]
    found = {name: read_record(folder, name) for name in names if (folder / f"{name}.json").is_file()}
    if not found:
        raise FusionerError(
            f"no benchmark's record in {folder}: run `make benchmarks`, or name the folder as `records`"
        )
    return found


def machines(records: Mapping[str, Record]) -> list[Row]:
    """A row for each machine that is named in the records, with the names of these records."""
    rows: dict[str, Row] = {}
    for name, record in records.items():
        machine = record.get("machine", {})
        row: Row = {"processor": machine.get("processor", "not in the record")}
        row |= {key: machine.get(key) for key in ("cores", "threads", "memory_gb", "gpu", "gpu_memory_gb", "system")}
        row |= {key: machine.get("versions", {}).get(key) for key in ("python", "torch")}
        rows.setdefault(json.dumps(row), {"records": [], **row})["records"].append(name)
    return [{**row, "records": ", ".join(row["records"])} for row in rows.values()]


def targets(records: Mapping[str, Record]) -> list[Row]:
    """A row for each figure that has a target: fastest and median of the repetitions, target, whether it is met.

    The fastest repetition decides, or the median where only that was recorded.
    """
    rows: list[Row] = []

    def add(what: str, found: Mapping[str, float], target: float, unit: str, *, at_most: bool = False) -> None:
        value = found.get("fastest", found.get("median", 0.0))
        met = value <= target if at_most else value >= target
        figures = {"fastest": found.get("fastest"), "median": found.get("median"), "unit": unit}
        bound = f"{'at most' if at_most else 'at least'} {target:g}"
        rows.append({"what": what, **figures, "target": bound, "met": "yes" if met else "**no**"})

    for kind, where in (("", "processor"), (GPU, "GPU")):
        if step := records.get(f"training{kind}", {}).get("bmvc2022"):
            for ratio, target in STEPS[kind].items():
                add(f"training step, {ratio.replace(' by ', ' / ')}, {where}", step[ratio], target, "times")
    answer = records.get("inference", {})
    if photo := answer.get("photo"):
        add("photo, reference / ours", {"fastest": photo["reference_single"]}, 30.0, "times")
        add("photo, ours / bare parts", photo["over_bare"], 1.1, "times", at_most=True)
    for pixels, found in answer.get("words", {}).items():
        for what in ("five cold", "twenty cached"):
            both = {"fastest": found[what], "median": found[f"{what}, median"]}
            add(f"new words, {pixels} pixels, {what}", both, 60.0, "ms", at_most=True)
    for what, target in INSPECTOR.items():
        if found := records.get("inspector", {}).get(what):
            add(f"mask inspector, {what}", {"median": found["median"]}, target, "ms", at_most=True)
    return rows


def training(record: Record) -> dict[str, list[Row]]:
    """Steps of all sides, their parts, the machine's peak rates, and the preset ``modern``."""
    best = {side: min(turns) for side, turns in record["bmvc2022"]["seconds"].items()}
    steps = [
        {"side": side, "seconds an image": spent, "images a second": 1 / spent}
        | {f"{other} takes": best[other] / spent for other in ("reference", "cached")}
        for side, spent in best.items()
    ]
    parts = [
        {"part": name, "way": way, "ms an image": 1e3 * part["seconds"], "GFLOP": part["gigaflops"]}
        | {"GB moved": part["gigabytes"]}
        | {f"% of {peak}": round(100 * part["reached"][f"of_{peak}"]) for peak in ("matmul", "convolution", "copy")}
        for name, ways in record["parts"].items()
        for way, part in ways.items()
    ]
    peaks = [
        {"side": side, "matmul GFLOP/s": rates["matmul"], "convolution GFLOP/s": rates["convolution"]}
        | {"copy GB/s": rates["copy"]}
        for side, rates in record["ceilings"].items()
    ]
    modern = [{"fusion": name, **record["modern"][name]} for name in ("bmvc2022", "modern")]
    share = {f"{key} (share)": record["modern"][f"share_of_{key}"] for key in ("fusion_gigaflops", "parameters")}
    modern[1] |= share
    modern[0] |= dict.fromkeys(share, 1.0)
    options = record["options"]
    setting = f"{options['encoder']}, {options['images']} images a step, mixed precision {options['precision']}"
    return {f"Steps ({setting})": steps, "Parts": parts, "Peak rates of this machine": peaks, "`modern`": modern}


def inference(record: Record) -> dict[str, list[Row]]:
    """A photo by sliding windows, new words, and large vocabularies."""
    found: dict[str, list[Row]] = {}
    if photo := record.get("photo"):
        caption = f"Photo of 500 x 375 pixels, {photo['names']} names, {photo['windows']} windows"
        rows = [{"what": f"{side}, s", "figure": min(photo["seconds"][side])} for side in ("ours", "bare")]
        rows += [
            {"what": "reference / ours, a name at a time", "figure": photo["reference_single"]},
            {"what": "reference / ours, all names at once", "figure": photo["reference_joint"]},
        ]
        found[caption] = rows
    if "words" in record:
        found["New words on the same image, ms"] = [
            {"pixels": int(pixels), **row} for pixels, row in record["words"].items()
        ]
    if "large" in record:
        points = {key: row for key, row in record["large"].items() if isinstance(row, Mapping)}
        growth = f"seconds grow with names to the power {record['large']['exponent']:.2f}"
        equal = f"chunks equal the whole: {'yes' if record['large']['equal'] else '**no**'}"
        found[f"Large vocabularies ({growth}; {equal})"] = [
            {"names": int(names), "text s": row["text"], "segment s": row["segment"]}
            | {"ms a name": 1e3 * row["segment"] / int(names), "MB more": row["bytes_more"] / 1e6}
            for names, row in points.items()
        ]
    return found


def scale(record: Record) -> dict[str, list[Row]]:
    """Cost at each point of an axis, and the exponent of its growth."""
    base = ", ".join(f"{axis} {value}" for axis, value in record["base"].items())
    growth = [
        {"axis": axis, "part": part, "points": ", ".join(found["points"]), "seconds to the power": power}
        | {"operations to the power": found["growth"].get(f"{part} gigaflops")}
        for axis, found in record["axes"].items()
        for part, power in found["growth"].items()
        if not part.endswith("gigaflops")
    ]
    points = {
        f"Seconds and GFLOP against {axis}": [{axis: int(point), **row} for point, row in found["points"].items()]
        for axis, found in record["axes"].items()
    }
    return {f"Growth (the others held at {base})": growth, **points}


def features(record: Record) -> dict[str, list[Row]]:
    """Rates of the store and of what it is compared with; bytes an image and mIoU by number format."""
    rows = [
        {"format": kind, "what": part, "unit": "images/s" if part == "tower" else "MB/s"}
        | {"store": found[part]["store"], "compared with": found[part]["other"]}
        | {"ratio": found[part]["fastest"], "median": found[part]["median"]}
        for kind, found in record["formats"].items()
        for part in ("tower", "write", "cold read", "warm read")
    ]
    miou = record["miou"]
    sizes = [
        {"format": kind, "bytes an image": found["image_bytes"], "mIoU %": miou.get(kind)}
        for kind, found in record["formats"].items()
    ]
    setting = f"{record['encoder']}, {record['size']} pixels, {record['images']} images"
    return {f"Bytes ({setting}, labels included)": sizes, "Rates": rows}


def data(record: Record) -> dict[str, list[Row]]:
    """Images a second of the loader and of Pillow alone; memory by epoch."""
    rates = [{"side": side, "images a second": record[side]} for side in ("bare", "ours", "workers")]
    memory = [{"epoch": epoch, "MB, workers included": held} for epoch, held in enumerate(record["memory"], start=1)]
    return {"Rates": rates, "Memory": memory}


def encoders(record: Record) -> dict[str, list[Row]]:
    """Images a second and memory of each visual encoder and of its bare network."""
    return {"Visual encoders": [{**row, "cost": row["bare_rate"] / row["ours_rate"]} for row in record["rows"]]}


def inspector(record: Record) -> dict[str, list[Row]]:
    """Milliseconds of each change: on the clock, and of the processor, which other work on the machine changes less."""
    rows = {kind: row for kind, row in record.items() if isinstance(row, Mapping) and kind != "machine"}
    load = f" (load of the machine {record['load']:.1f})" if "load" in record else ""
    empty = {"processor": "-"} if any("processor" in row for row in rows.values()) else {}
    return {f"Changes, ms{load}": [{"change": kind, **empty, **row} for kind, row in rows.items()]}


TABLES: dict[str, Callable[[Record], dict[str, list[Row]]]] = {
    "training": training, "inference": inference, "scale": scale, "features": features,
    "data": data, "encoders": encoders, "inspector": inspector,
}  # fmt: skip
