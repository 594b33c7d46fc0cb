# PyAnamo's tasks. Needs Linux x86-64, Python >= 3.11 with venv, make and bash; nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The set-up is done again when the lock file or the packaging changes, and never otherwise: no network after the first time.
# Most of the time tests wait for servers and processes; a file stays within one worker, so that its fixtures start once,
# and long files begin first (tests/seconds.txt).
PARALLEL ?= -n 4 --dist loadfile --no-loadscope-reorder
SYSTEM_PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)

.PHONY: help setup jars ready demo test check system chaos bench lock clean format

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the virtual environment from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"PyAnamo needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: try make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "PyAnamo needs Linux on x86-64, this is $$(uname -sm)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: install it (Debian: python3-venv)" >&2; exit 1; }
	@echo "Set-up: packages of requirements.lock into $(VENV)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.ready-*
	@touch $@

jars: $(READY) ## fetch and verify GATK's jars, and make the JVM's start-up cache
	@$(BIN)/python -m pyanamo_core.genomics.gatk

ready: jars ## fetch and make what tests need
	@$(BIN)/python -m pyanamo_core.local.dynamodb
	@$(BIN)/python -m pyanamo_flows.server prepare

demo: jars ## the main job for real: a simulated trio through Prefect, pilots and GATK to a joint VCF
	@$(BIN)/pyanamo demo $(DEMO)

test: ready ## unit and integration tests
	@$(BIN)/pytest tests/unit tests/integration -m "not system and not chaos" $(PARALLEL) $(PYTEST)

check: $(READY) ## style, types, arrows between packages, lock file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@PYTHONPATH=flows $(BIN)/lint-imports --no-cache
	@$(BIN)/python .ci/lock.py check

system: ready ## whole stacks: the demo, Prefect's server and worker, real data
	@$(BIN)/pytest tests -m system $(SYSTEM_PARALLEL) $(PYTEST)

chaos: jars ## faults injected for minutes, and every interleaving of the ledger's moves (several GB of memory)
	@$(BIN)/python -m pyanamo_core.local.dynamodb
	@$(BIN)/pytest tests -m chaos $(PYTEST)
	@$(BIN)/python benchmarks/ledger_model.py

bench: jars ## every benchmark: ratios, side by side in one run
	@$(BIN)/python -m pyanamo_core.local.dynamodb
	@for each in $(filter-out benchmarks/ledger_model.py,$(wildcard benchmarks/*.py)); do echo "== $$each"; $(BIN)/python $$each; done

lock: $(READY) ## renew requirements.lock from pyproject.toml
	@$(BIN)/python .ci/lock.py renew

format: $(READY) ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove what set-up, tests and demo made here
	@rm -rf $(VENV) pyanamo-demo dist build .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
