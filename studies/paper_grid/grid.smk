# The graph of a grid, one job a training. `fusioner grid` writes its config file and runs it; by hand:
#   snakemake --snakefile studies/paper_grid/grid.smk --directory outputs/grid --configfile outputs/grid/grid.json --cores 8 \
#       --rerun-incomplete --keep-going --rerun-triggers mtime params
#
# Snakemake deletes the declared outputs of an interrupted job; running checkpoints (training/) are not declared, so they stay.
import json
import sys

OUT, BASE = config["folder"], config["base"]
JOB = f"{sys.executable!r} -m studies.paper_grid.commands"


rule all:
    input:
        [f"records/{job}.json" for job in config["jobs"]],
    default_target: True


rule training:
    output:
        "records/{job}.json",
    log:
        "logs/{job}.log",
    params:
        run=lambda wildcards: json.dumps(config["jobs"][wildcards.job], sort_keys=True),
    threads: config["threads"]
    shell:
        "cd {BASE:q} && OMP_NUM_THREADS={threads} "
        + JOB
        + " {OUT:q}/grid.json {wildcards.job:q} > {OUT:q}/{log:q} 2>&1"
