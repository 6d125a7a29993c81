"""What the benchmarks measured, as tables: ratios beside their bars, parts beside the machine's ceilings, growth.

``make benchmarks`` leaves one JSON file a benchmark in a folder, and where there is a GPU a second one with ``-gpu``
behind its name. Every section is made from one benchmark's files; one that is missing leaves its section out.
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
    "data": "LoadOptions and augmentation",
    "encoders": "The frozen towers",
    "inspector": "The mask inspector",
}
"""The benchmarks, by the names of their scripts."""

GPU = "-gpu"
STEPS = {
    "": {"reference by stored": 2.2, "reference by online": 1.6},
    GPU: {"reference by stored": 10.0, "cached by stored": 3.0},
}
"""How many times less a training step is to cost, on the processor and on a GPU."""

INSPECTOR = {"threshold": 50.0, "opacity": 50.0, "temperature": 50.0, "word": 100.0, "switch": 100.0}
"""Milliseconds."""


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """What the benchmark ``name`` left in ``folder``; ``-gpu`` behind the name for that of a GPU.

    Raises FusionerError naming the file and the command that makes it.
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
        raise FusionerError(f"{file} is no benchmark's record ({error}): make it again with `{command}`") from error


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records in ``folder`` by their names. Raises FusionerError where there is none."""
    names = [name + kind for name in TITLES for kind in ("", GPU)]
    found = {name: read_record(folder, name) for name in names if (folder / f"{name}.json").is_file()}
    if not found:
        raise FusionerError(
            f"no benchmark's record in {folder}: run `make benchmarks`, or name the folder as `records`"
        )
    return found


def machines(records: Mapping[str, Record]) -> list[Row]:
    """A row for each machine that records name, and which records those are."""
    rows: dict[str, Row] = {}
    for name, record in records.items():
        told = record.get("machine", {})
        row: Row = {"processor": told.get("processor", "not in the record")}
        row |= {key: told.get(key) for key in ("cores", "threads", "memory_gb", "gpu", "gpu_memory_gb", "system")}
        row |= {key: told.get("versions", {}).get(key) for key in ("python", "torch")}
        rows.setdefault(json.dumps(row), {"records": [], **row})["records"].append(name)
    return [{**row, "records": ", ".join(row["records"])} for row in rows.values()]


def bars(records: Mapping[str, Record]) -> list[Row]:
    """A row for each figure that has a bar, by the fastest turns: measured, median of the turns, bar, met."""
    rows = []
    for kind, where in (("", "processor"), (GPU, "GPU")):
        if step := records.get(f"training{kind}", {}).get("bmvc2022"):
            for ratio, bar in STEPS[kind].items():
                what = f"training step, {ratio.replace(' by ', ' / ')}, {where}"
                rows.append(_bar(what, step[ratio], bar, "times"))
    answer = records.get("inference", {})
    if photo := answer.get("photo"):
        rows.append(_bar("photo, reference / ours", {"fastest": photo["reference_single"]}, 30.0, "times"))
        rows.append(_bar("photo, ours / bare parts", photo["over_bare"], 1.1, "times", most=True))
    for pixels, found in answer.get("words", {}).items():
        for what in ("five cold", "twenty cached"):
            both = {"fastest": found[what], "median": found[f"{what}, median"]}
            rows.append(_bar(f"new words, {pixels} pixels, {what}", both, 60.0, "ms", most=True))
    if "data" in records:
        both = {"fastest": records["data"]["ratio"], "median": records["data"]["median_ratio"]}
        rows.append(_bar("loading, ours / bare Pillow, on one core", both, 0.9, "times"))
    for what, bound in INSPECTOR.items():
        if found := records.get("inspector", {}).get(what):
            rows.append(_bar(f"mask inspector, {what}", {"median": found["median"]}, bound, "ms", most=True))
    return rows


def _bar(what: str, found: Mapping[str, float], bar: float, unit: str, *, most: bool = False) -> Row:
    measured = found.get("fastest", found.get("median", 0.0))
    met = measured <= bar if most else measured >= bar
    side = "at most" if most else "at least"
    return {"what": what, "fastest": found.get("fastest"), "median": found.get("median"), "unit": unit} | {
        "bar": f"{side} {bar:g}",
        "met": "yes" if met else "**no**",
    }


def training(record: Record) -> dict[str, list[Row]]:
    """Steps of either path, their parts beside the ceilings, and ``modern``."""
    best = {side: min(turns) for side, turns in record["bmvc2022"]["seconds"].items()}
    steps = [
        {"side": side, "seconds an image": spent, "images a second": 1 / spent}
        | {f"{other} takes": best[other] / spent for other in ("reference", "cached")}
        for side, spent in best.items()
    ]
    parts = [
        {"part": name, "way": way, "ms an image": 1e3 * part["seconds"], "GFLOP": part["gigaflops"]}
        | {"GB moved": part["gigabytes"]}
        | {f"% of {most}": round(100 * part["reached"][f"of_{most}"]) for most in ("matmul", "convolution", "copy")}
        for name, ways in record["parts"].items()
        for way, part in ways.items()
    ]
    most = [
        {"side": side, "matmul GFLOP/s": rates["matmul"], "convolution GFLOP/s": rates["convolution"]}
        | {"copy GB/s": rates["copy"]}
        for side, rates in record["ceilings"].items()
    ]
    modern = [{"fusion": name, **record["modern"][name]} for name in ("bmvc2022", "modern")]
    share = {f"{key} (share)": record["modern"][f"share_of_{key}"] for key in ("fusion_gigaflops", "parameters")}
    modern[1] |= share
    modern[0] |= dict.fromkeys(share, 1.0)
    options = record["options"]
    told = f"{options['encoder']}, {options['images']} images a step, mixed precision {options['precision']}"
    return {f"Steps ({told})": steps, "Parts": parts, "The most this machine was seen to do": most, "`modern`": modern}


def inference(record: Record) -> dict[str, list[Row]]:
    """A photo by sliding windows, new words, and vocabularies that grow."""
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
        told = f"seconds grow with names to the power {record['large']['exponent']:.2f}"
        told += f"; parts equal the whole: {'yes' if record['large']['equal'] else '**no**'}"
        found[f"Large vocabularies ({told})"] = [
            {"names": int(names), "text s": row["text"], "segment s": row["segment"]}
            | {"ms a name": 1e3 * row["segment"] / int(names), "MB more": row["bytes_more"] / 1e6}
            for names, row in points.items()
        ]
    return found


def scale(record: Record) -> dict[str, list[Row]]:
    """Cost at each point of an axis, and the powers that it grows with."""
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
    """Rates of the store beside what it is compared with, bytes an image, and mIoU by the format."""
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
    told = f"{record['encoder']}, {record['size']} pixels, {record['images']} images"
    return {f"Bytes ({told}, labels included)": sizes, "Rates": rows}


def data(record: Record) -> dict[str, list[Row]]:
    """Images a second of the loader beside Pillow alone, and memory by the epoch."""
    rates = [{"side": side, "images a second": record[side]} for side in ("bare", "ours", "workers")]
    memory = [{"epoch": epoch, "MB, workers included": held} for epoch, held in enumerate(record["memory"], start=1)]
    return {"Rates": rates, "Memory": memory}


def encoders(record: Record) -> dict[str, list[Row]]:
    """Images a second and memory of each tower beside the bare network."""
    return {"Towers": [{**row, "cost": row["bare_rate"] / row["ours_rate"]} for row in record["rows"]]}


def inspector(record: Record) -> dict[str, list[Row]]:
    """Milliseconds of each change."""
    return {"Changes, ms": [{"change": kind, **row} for kind, row in record.items() if kind != "machine"]}


TABLES: dict[str, Callable[[Record], dict[str, list[Row]]]] = {
    "training": training, "inference": inference, "scale": scale, "features": features,
    "data": data, "encoders": encoders, "inspector": inspector,
}  # fmt: skip
