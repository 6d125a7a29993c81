# `make demo` and `make test` create .venv themselves and need no active environment.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VOC    ?= data/pascal
COCO   ?= data/coco
CAMVID ?= data/camvid
RECORDS ?= outputs/benchmarks
# With labelled photographs, float16 and int8 features are also compared by their mIoU.
MIOU    = $(if $(wildcard $(VOC)),--checkpoint fusionerlib/checkpoint --root $(VOC))

# An active environment of the caller must not leak into this one.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME JUPYTER_PATH JUPYTER_CONFIG_PATH

.DEFAULT_GOAL := help
.PHONY: help venv install quickstart demo test lint unit soak docs hooks checkpoint pictures notebooks-clean grid-dry benchmarks lab clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
		     "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): downloads about 3 GB, takes about 6 GB of disk, and several minutes." \
		"Without a GPU, the packages for the CPU alone are a third of that: see docs/troubleshooting.md."
	$(BIN)/python -m pip install --quiet --editable '.[workbook,runs,data,dev,docs]'
	@touch $@

venv: $(BIN)/python ## make .venv

install: $(STAMP) ## install the project and all its extras into .venv

quickstart: install ## segment sample photographs with the packaged checkpoint: outputs/quickstart/first_look.html
	$(BIN)/fusioner quickstart

demo: install ## train and evaluate at profile demo; leaves outputs/demo/index.html
	$(BIN)/fusioner run demo

lint: install ## ruff, mypy, the direction of imports, and notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fusionerlib workbook studies
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify $(wildcard notebooks/*.ipynb)

# Two test processes on two cores: one thread each.
unit: install ## unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --ignore tests/test_notebooks.py

test: lint unit ## lint, types, unit tests, and every notebook at smoke size
	$(BIN)/python -m pytest tests/test_notebooks.py

soak: install ## long runs: memory must not grow with the number of images
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s tests

docs: demo ## the docs site in outputs/docs: pages, API, notebooks with their pictures; a warning is an error
	$(BIN)/python -m workbook.rendering outputs/rendered
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . outputs/docs
	@echo "open outputs/docs/index.html"

hooks: install ## run the checks of `make lint` before every git commit
	$(BIN)/pre-commit install

pictures: install ## draw the pictures of notebooks, README and docs again; needs VOC=data/pascal, CAMVID=data/camvid
	$(BIN)/python -m workbook.openings docs/pictures/course
	$(BIN)/python -m studies.cost_aggregation.figures docs/pictures $(VOC) $(wildcard $(CAMVID))

notebooks-clean: install ## strip the outputs out of the notebooks
	$(BIN)/nbstripout $(wildcard notebooks/*.ipynb)

checkpoint: install ## train the packaged checkpoint again; needs VOC=data/pascal, COCO=data/coco and CAMVID=data/camvid
	$(BIN)/fusioner checkpoint --voc $(VOC) --coco $(COCO) $(if $(wildcard $(CAMVID)),--camvid $(CAMVID))

grid-dry: install ## list the paper's 96 trainings and what is missing for them
	$(BIN)/fusioner grid --dry-run

benchmarks: install ## all benchmarks, one after the other, into outputs/benchmarks; on a GPU too where there is one
	@mkdir -p $(RECORDS)
	$(BIN)/python benchmarks/training.py --json $(RECORDS)/training.json
	$(BIN)/python benchmarks/inference.py --json $(RECORDS)/inference.json
	$(BIN)/python benchmarks/busy_cores.py --json $(RECORDS)/busy_cores.json
	$(BIN)/python benchmarks/raster.py --json $(RECORDS)/raster.json
	$(BIN)/python benchmarks/scale.py --json $(RECORDS)/scale.json
	$(BIN)/python benchmarks/features.py --device cpu $(MIOU) --json $(RECORDS)/features.json
	$(BIN)/python benchmarks/encoders.py --device cpu --json $(RECORDS)/encoders.json
	$(BIN)/python benchmarks/inspector.py --json $(RECORDS)/inspector.json
	$(if $(wildcard $(VOC)),$(BIN)/python benchmarks/data.py --root $(VOC) --json $(RECORDS)/data.json)
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then set -ex; \
		$(BIN)/python benchmarks/training.py --device cuda --precision bf16 --images 32 --turns 10 \
			--json $(RECORDS)/training-gpu.json; \
		$(BIN)/python benchmarks/scale.py --device cuda --precision bf16 --images 8 16 32 64 \
			--json $(RECORDS)/scale-gpu.json; \
		for name in inference features encoders; do \
			$(BIN)/python benchmarks/$$name.py --device cuda --json $(RECORDS)/$$name-gpu.json; done; fi
	@echo "The page: $(BIN)/papermill notebooks/09_performance.ipynb outputs/performance.ipynb -p page studies/performance/README.md"

lab: install ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_the_model.ipynb

clean: ## remove .venv, caches and builds (data/ and outputs/ stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .snakemake build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
