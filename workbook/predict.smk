# Predictions of a folder in shards, on one machine or on many: one job a shard, then one that collects.
#   snakemake --snakefile workbook/predict.smk --cores 4 --rerun-incomplete --config photos=photos names=cat,dog out=outputs/masks
# shards (16), format (index) and options (more options of `fusioner predict`) can be given in the same way. On a cluster
# add its executor: --executor slurm --jobs 16 --default-resources slurm_account=ME mem_mb=8000 runtime=240
#
# A shard's done-file is its only declared output: Snakemake deletes the outputs of a failed job, and the masks that a
# stopped shard has written must stay, because the next call goes on from them.
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError

if missing := [key for key in ("photos", "names", "out") if key not in config]:
    raise WorkflowError(f"--config lacks {missing[0]}: give photos=FOLDER names=cat,dog out=FOLDER")

OUT, SHARDS = Path(config["out"]), int(config.get("shards", 16))
PREDICT = " ".join(
    [
        f"{quote(sys.executable)} -m fusionerlib.cli.app predict {quote(str(config['photos']))}",
        f"--names {quote(str(config['names']))} --format {quote(str(config.get('format', 'index')))}",
        f"-o {quote(str(OUT))} {config.get('options', '')}",
    ]
)


rule all:
    input:
        [str(OUT / "shards" / f"{number}-of-{SHARDS}") for number in range(1, SHARDS + 1)],
    output:
        touch(str(OUT / "shards" / "collected")),
    shell:
        PREDICT + " || [ $? = 1 ]"


rule shard:
    output:
        touch(str(OUT / "shards" / f"{{number}}-of-{SHARDS}")),
    threads: 1
    # Status 1 means that some photos could not be read; the collecting call lists them.
    shell:
        "OMP_NUM_THREADS={threads} " + PREDICT + f" --quiet --shard {{wildcards.number}}/{SHARDS} || [ $? = 1 ]"
