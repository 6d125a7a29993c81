"""What ran, in words: model, encoders, data, training, seeds, versions, code and machine of a run."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from workbook.report.executed import Ran
from workbook.report.results import notebook_records, part, read_metrics, read_object, run_settings, shown

Values = Mapping[str, Any]


def facts_of(folder: Path, ran: Sequence[Ran]) -> dict[str, str]:
    """Name to a line of text; what the run left no trace of is not there."""
    run, records = run_settings(folder), notebook_records(folder)
    environments = {stem: part(record, "environment") for stem, record in records.items()}
    told = {
        "Run": _run(folder, ran),
        "Model": _model(part(run, "fusion"), part(read_metrics(folder), "training")),
        "Encoders": _encoders(part(run, "pair")),
        "Data": _data(part(run, "data"), folder),
        "Training": _training(part(run, "training"), part(read_metrics(folder), "training")),
        "Seeds": _seeds(records, folder),
        "Versions": _by_notebook({stem: _versions(one) for stem, one in environments.items()}),
        "Code": _by_notebook({stem: _code(part(one, "git")) for stem, one in environments.items()}),
        "Machine": _by_notebook({stem: str(one.get("platform", "")) for stem, one in environments.items()}),
    }
    return {name: text for name, text in told.items() if text}


def settings_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Every setting, default or given: rows of name and value by section of the config, then by notebook."""
    found = {f"{section} of the run": _pairs(values) for section, values in run_settings(folder).items()}
    for stem, record in notebook_records(folder).items():
        own = {key: value for key, value in part(record, "config").items() if key != "run"}
        found[f"notebook {stem}"] = _pairs(own)
    return {name: rows for name, rows in found.items() if rows}


def given(values: Values) -> str:
    """Parameters on one line: ``steps 700, batch 16``."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _run(folder: Path, ran: Iterable[Ran]) -> str:
    profile = read_object(folder / "profile.json").get("name")
    times = sorted(time for one in ran for time in (one.began, one.ended) if time)
    parts = [f"profile {profile}" if profile else "", _span(times[0], times[-1]) if times else ""]
    return ", ".join(filter(None, parts))


def _span(first: str, last: str) -> str:
    try:
        began, ended = datetime.fromisoformat(first), datetime.fromisoformat(last)
    except ValueError:
        return f"{first} to {last}"
    end = f"{ended:%H:%M}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M}"
    return f"{began:%Y-%m-%d %H:%M} to {end} {began.tzname() or ''}".rstrip()


def _model(fusion: Values, training: Values) -> str:
    if not fusion:
        return ""
    size = [f"{key} {fusion[key]}" for key in ("width", "depth", "heads") if key in fusion]
    count = f"{training['parameters']:,} trainable parameters" if "parameters" in training else ""
    return ", ".join(filter(None, [f"{fusion.get('kind')}, preset {fusion.get('preset')}", *size, count]))


def _encoders(pair: Values) -> str:
    if not pair:
        return ""
    extras = {key: pair.get(key) for key in ("visual_tokens", "text_tokens", "visual_weights", "text_weights")}
    named = given({key: value for key, value in extras.items() if value})
    text = f"images by {pair.get('visual')}, words by {pair.get('text')}, templates {pair.get('templates')}"
    return f"{text}, {named}" if named else text


def _data(data: Values, folder: Path) -> str:
    made = read_object(folder / "records" / "data.json")
    names = read_object(folder / "checkpoint" / "config.json").get("trained_names")
    parts = [f"{data['dataset']} from {data.get('root')}" if "dataset" in data else ""]
    parts += [f"{data['size']} pixels a side" if "size" in data else ""]
    if data.get("dataset") == "openmoji":
        parts += [f"{shown(data.get(key))} {what}" for key, what in COUNTS.items() if key in data]
    elif "fold" in data:
        parts += [f"fold {data['fold']}" if data["fold"] != -1 else "no fold held out"]
    parts += [f"{len(names):,} names in training" if isinstance(names, list) else ""]
    parts += [f"sha256 of its files {str(made['digest'])[:12]}" if "digest" in made else ""]
    return ", ".join(filter(None, parts))


COUNTS = {"train_scenes": "training scenes", "eval_scenes": "scenes a test"}


def _training(training: Values, measured: Values) -> str:
    if not training:
        return ""
    parts = [f"{shown(training.get('steps'))} steps of {training.get('batch')} images"]
    parts += [f"{name} {_plain(training[key])}" for key, name in TOLD.items() if key in training]
    return ", ".join([*parts, f"last loss {measured['loss']:.3f}"] if "loss" in measured else parts)


TOLD = {"loss": "loss", "lr": "learning rate", "feed": "features", "mixed_precision": "mixed precision"}


def _seeds(records: Mapping[str, Values], folder: Path) -> str:
    made = part(read_object(folder / "records" / "data.json"), "recipe")
    found = {"data drawn": {"seed": made["seed"]}} if "seed" in made else {}
    found |= {stem: _seeds_in(part(record, "config")) for stem, record in records.items()}
    return "; ".join(f"{stem}: {given(values)}" for stem, values in found.items() if values)


def _seeds_in(values: Values) -> dict[str, Any]:
    own = {key: value for key, value in values.items() if "seed" in key and not isinstance(value, Mapping)}
    for value in values.values():
        own |= _seeds_in(value) if isinstance(value, Mapping) else {}
    return own


def _versions(environment: Values) -> str:
    packages = {name: version for name, version in part(environment, "packages").items() if version}
    python = {"Python": environment["python"]} if "python" in environment else {}
    return given({**python, **packages})


def _code(git: Values) -> str:
    if "commit" not in git:
        return ""
    return f"commit {str(git['commit'])[:12]}" + (", with changes that are not in it" if git.get("dirty") else "")


def _by_notebook(told: Mapping[str, str]) -> str:
    """One text where all notebooks agree; else each with the notebooks that it holds for."""
    texts = list(dict.fromkeys(filter(None, told.values())))
    if len(texts) < 2:
        return "".join(texts)
    held = {text: ", ".join(stem for stem, own in told.items() if own == text) for text in texts}
    return "; ".join(f"{stems}: {text}" for text, stems in held.items())


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(str(key), _plain(value)) for key, value in values.items()] if isinstance(values, Mapping) else []


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)
