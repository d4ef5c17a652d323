# Everything a contributor or CI types. Each target sets up what it needs: Python 3.11 to 3.13 and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := .cache/lock-tools
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=

# Real data for tests and benchmarks; those that need it are skipped where there is none.
ifneq ($(wildcard ../shared/data),)
CASCADE_SERVE_DATA ?= $(abspath ../shared/data)
export CASCADE_SERVE_DATA
endif

# Test workers run side by side: one thread each in the numeric libraries, or they fight over the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test check lint types imports pytest bench protos lock clean
help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 14

demo: $(INSTALLED)  ## Train, plan and serve a cascade on handwritten digits, and show what it saves
	$(BIN)/python examples/demo.py

test: check pytest  ## Everything that a change must pass: the checks, then the tests

check: lint types imports  ## Lint, format, types and import directions

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What mypy finds can depend on the order of its sets, which Python draws anew for each process.
types: $(INSTALLED)
	PYTHONHASHSEED=0 $(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports --no-logo

# Tests of one file stay on one worker, so that its fixtures (servers, zoos) are made once.
pytest: $(INSTALLED)  ## The tests alone; PYTEST_ARGS='-k gate' narrows them
	$(ONE_THREAD) $(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

bench: $(INSTALLED)  ## Take the measurements behind benchmarks/RESULTS.md, and print their tables
	$(BIN)/python benchmarks/run.py

protos: $(INSTALLED)  ## Generate cascade_serve/rpc/stubs from protos/
	$(BIN)/python protos/generate.py

lock: $(TOOLS)/bin/uv  ## Resolve requirements/*.txt anew from pyproject.toml
	$(call resolve,dev,--extra dev)
	$(call resolve,serve-cpu,--extra cpu)
	$(call resolve,serve-gpu,--extra gpu)

# No header: a lock file must not tell where it was made.
define resolve
	$(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-header \
		$(2) pyproject.toml --output-file requirements/$(1).txt
endef

clean:  ## Remove the environment, caches and outputs
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build \
		demo_out bench_out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than what was installed from, so a changed lock file installs again and nothing else does.
$(INSTALLED): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(TOOLS)/bin/uv: | python-version
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv

$(BIN)/python: | python-version
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }

.PHONY: python-version
python-version:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; Python 3.11 to 3.13 is needed," \
		"such as: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "error:" \
		"$(PYTHON) is $$($(PYTHON) --version); Python 3.11 to 3.13 is needed, such as: make PYTHON=python3.12" >&2; exit 1; }
