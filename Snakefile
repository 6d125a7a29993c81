# The graph of a run: which notebook needs which files. `fusioner run PROFILE` calls Snakemake with it; by hand:
#   snakemake --configfile workbook/profiles/demo.json --cores 2 --rerun-incomplete --rerun-triggers mtime params
#
# An executed notebook is a rule's log, not its output: Snakemake deletes the outputs of a failed job, and the log with
# the traceback stays. No rule declares the folder training/, so the running checkpoints of a killed run stay too.
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

if "notebooks" not in config:
    raise WorkflowError("no profile given: use `fusioner run demo`, or --configfile workbook/profiles/demo.json")

ROOT = Path(workflow.basedir)
OUT = (ROOT / config.get("output", f"outputs/{config['name']}")).resolve()
RUN_DIR = str(OUT.relative_to(ROOT) if OUT.is_relative_to(ROOT) else OUT)
DATA = config.get("data", {})
NOTEBOOKS = ROOT / "notebooks"
FUSIONER = f"{sys.executable!r} -m fusionerlib.cli.app"
EXECUTE = f"OMP_NUM_THREADS={{threads}} {FUSIONER} notebook {{input.notebook:q}} {{log:q}} --parameters {{params.given:q}}"
CHECKPOINT = ["checkpoint/model.safetensors", "checkpoint/config.json"]
AFTER_TRAINING = ["01_feature_inspection", "03_evaluation", "04_ablations", "05_mosaic4_robustness"]

workdir: OUT


def given(name, **more):
    """The parameters of a notebook as JSON: run_dir, those that the rule adds, and those of the profile."""
    return json.dumps({"run_dir": RUN_DIR, **more, **config["notebooks"].get(name, {})}, sort_keys=True)


def record(name):
    return f"records/{name}.json"


# Every result is named, not index.html alone: otherwise a missing one would not be made again where index.html exists.
rule all:
    input:
        "index.html",
        "per_class.parquet",
        CHECKPOINT,
        [record(name) for name in ["02_training", *AFTER_TRAINING]],
    default_target: True


rule data:
    output:
        record("data"),
    params:
        options=[f"--set={key}={value}" for key, value in DATA.items() if key != "root"],
        root=str(ROOT / DATA.get("root", "data/openmoji")),
    shell:
        FUSIONER + " data openmoji --root {params.root:q} {params.options:q} --record {output:q}"


rule training:
    input:
        notebook=NOTEBOOKS / "02_training.ipynb",
        data=record("data") if DATA else [],
    output:
        CHECKPOINT,
        record("02_training"),
    log:
        "notebooks/02_training.ipynb",
    params:
        given=given("02_training", **({"root": DATA["root"]} if "root" in DATA else {})),
        # What the files of a user's own data hold: with other content it is trained and measured again.
        **({"fingerprint": config["fingerprint"]} if config.get("fingerprint") else {}),
    threads: 2
    shell:
        EXECUTE


rule inspection:
    input:
        notebook=NOTEBOOKS / "01_feature_inspection.ipynb",
        checkpoint=rules.training.output,
    output:
        record("01_feature_inspection"),
    log:
        "notebooks/01_feature_inspection.ipynb",
    params:
        given=given("01_feature_inspection", checkpoint=f"{RUN_DIR}/checkpoint"),
    shell:
        EXECUTE


rule evaluation:
    input:
        notebook=NOTEBOOKS / "03_evaluation.ipynb",
        checkpoint=rules.training.output,
    output:
        record("03_evaluation"),
        "per_class.parquet",
    log:
        "notebooks/03_evaluation.ipynb",
    params:
        given=given("03_evaluation"),
    priority: 1
    shell:
        EXECUTE


rule ablations:
    input:
        notebook=NOTEBOOKS / "04_ablations.ipynb",
        checkpoint=rules.training.output,
    output:
        record("04_ablations"),
    log:
        "notebooks/04_ablations.ipynb",
    params:
        given=given("04_ablations"),
    # Of the jobs that may run in parallel the longer ones start first, so that no core waits at the end.
    priority: 3
    shell:
        EXECUTE


rule mosaic4:
    input:
        notebook=NOTEBOOKS / "05_mosaic4_robustness.ipynb",
        checkpoint=rules.training.output,
    output:
        record("05_mosaic4_robustness"),
    log:
        "notebooks/05_mosaic4_robustness.ipynb",
    params:
        given=given("05_mosaic4_robustness"),
    priority: 2
    shell:
        EXECUTE


rule pages:
    input:
        rules.training.output,
        [record(name) for name in AFTER_TRAINING],
    output:
        "index.html",
    shell:
        FUSIONER + " pages . --missing"
