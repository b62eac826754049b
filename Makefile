# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a process: small models lose more to waiting threads than they gain.
export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format bench bench-deployment sinusoids audit clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Set up .venv with everything the project needs (Python 3.11 or later)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; remedy: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup ## Run the default study: six hospitals, real patients, no download
	$(BIN)/grandrounds sim run

test: check ## Pass the fast tests (sets up; under two minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: setup ## Pass the slow tests: Ray, whole studies, deployments with real processes
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

check: setup ## Lint, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Print speed: demo, heart, and in process against Flower's simulation
	$(BIN)/python -m simulations.benchmark

bench-deployment: setup ## Print a deployment's speed beside stock Flower's (some minutes)
	$(BIN)/python -m simulations.deployment_benchmark

sinusoids: setup ## Print the papers' sinusoid regression by MAML, FOMAML and Reptile (some minutes)
	$(BIN)/python -m simulations.sinusoids

audit: setup ## Print which planted faults the audit finds, and sound engines under twenty seeds
	$(BIN)/python -m tests.audit_tables

clean: ## Remove .venv and caches (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
