# What people type. `make demo` and `make test` need nothing but Python and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAMILIES := sana omnigen auraflow hidream cosmos2
FAMILY ?= sana
JOBS ?= 2
MODEL_PACKAGES := $(addprefix packages/model-,$(FAMILIES))
THIRD_PARTY := $(wildcard tests/third_party/*)
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test long lint types layers unit across browser trackers isolated third-party options options-check matrix matrix-check fuzz benchmarks clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## create .venv with everything

# torch comes first, so that no other requirement picks a build of several gigabytes.
$(INSTALLED): constraints.txt requirements-dev.txt packages/core/pyproject.toml $(addsuffix /pyproject.toml,$(MODEL_PACKAGES))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt \
		--editable 'packages/core[bitsandbytes,datasets,demo,parquet,prodigy,quanto,s3,tensorboard,test,torchao,wandb]' $(addprefix --editable ,$(MODEL_PACKAGES))
	touch $@

demo: $(INSTALLED) ## fine-tune a twin on real photographs, about a minute
	$(BIN)/tuner demo $(FAMILY)

test: lint types layers options-check matrix-check across isolated third-party ## everything that CI runs

lint: $(INSTALLED) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## types
	$(BIN)/mypy

layers: $(INSTALLED) ## who may import whom
	$(BIN)/lint-imports

unit: $(INSTALLED) ## tests of all packages, together
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile

long: $(INSTALLED) ## the long tests, which make test leaves out: all quickstarts, compiling, every optimizer's resume
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile -m long tests

across: $(INSTALLED) ## the tests that need several packages
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile tests

browser: $(INSTALLED) ## the page that shows a run, in Chromium (not part of `make test`)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m browser tests

trackers: $(INSTALLED) ## what services hold of a run, each installed in an environment of its own (not part of `make test`)
	$(BIN)/python scripts/trackers.py

isolated: $(INSTALLED) ## each package's tests and the kit, with nothing but its wheel and the core's installed
	$(BIN)/python scripts/isolated.py --jobs $(JOBS) packages/core $(MODEL_PACKAGES)

third-party: $(INSTALLED) ## the same for the packages of the plugin guide
	$(BIN)/python scripts/isolated.py --jobs $(JOBS) $(THIRD_PARTY)

options: $(INSTALLED) ## write docs/options.md from the models that read the settings
	$(BIN)/python scripts/options_page.py

options-check: $(INSTALLED) ## whether docs/options.md is up to date
	$(BIN)/python scripts/options_page.py --check

matrix: $(INSTALLED) ## write docs/support-matrix.md from what the families allow and the kit proves
	$(BIN)/python scripts/support_matrix.py

matrix-check: $(INSTALLED) ## whether docs/support-matrix.md is up to date
	$(BIN)/python scripts/support_matrix.py --check

fuzz: $(INSTALLED) ## 10,000 mutated configurations: a result or a clear error, never a traceback
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py --count 10000

benchmarks: $(INSTALLED) ## ratios against bare loops
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/data_plan.py
	$(BIN)/python benchmarks/caching.py
	$(BIN)/python benchmarks/optimisers.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/compiling.py

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-clean .venv-trackers demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
