# `make demo` and `make test` work from a fresh clone: the first of them makes .venv with the pinned packages.
# Another Python: `make test PYTHON=python3.12`. More cores: `make test JOBS=8`.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
READY  := $(VENV)/.llmgym-ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -qq

# One thread a test process: the models are tiny, and the cores are shared between the processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint format check coverage model bench mutate clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## Make .venv with the pinned packages (the other targets do it when needed)

$(READY): requirements/torch.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Expected Python >= 3.11, actual: %d.%d. Name another one: make PYTHON=python3.12" % v[:2])'
	@echo "[1/4] virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/4] torch (the largest download; from one to a few minutes)"
	@$(PIP) -r requirements/torch.txt -c requirements/dev.txt
	@echo "[3/4] the other pinned packages"
	@$(PIP) -r requirements/dev.txt
	@echo "[4/4] llmgym itself, editable"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## Train the shipped model with GRPO and show what it learned (about 12 minutes on 2 cores)
	@$(BIN)/python benchmarks/main_job.py

test: $(READY) ## Run the quick tests: offline, no GPU
	@$(PYTEST) -n $(JOBS) --dist worksteal -q

slow: $(READY) ## Run the long tests: learning over several seeds, property tests with many examples
	@$(PYTEST) -m "(slow or learning) and not gpu and not network"
	@LLMGYM_HYPOTHESIS_PROFILE=wide $(PYTEST) -n $(JOBS) -q tests/property

lint: $(READY) ## Check format, lint, types and layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

check: lint test ## Everything that CI runs

coverage: $(READY) ## Run the quick tests and report branch coverage
	@$(PYTEST) -n $(JOBS) -q --cov --cov-report=term --cov-report=html

model: $(READY) ## Make llmgym/assets/tiny-reasoner again, from nothing
	@$(BIN)/python scripts/make_tiny_reasoner.py

bench: $(READY) ## Measure environment steps a second, single and batched
	@$(BIN)/python benchmarks/env_throughput.py

mutate: $(READY) ## Count how many planted errors in the formulas the golden tests find (half an hour)
	@$(PIP) cosmic-ray==8.7.0 -c requirements/dev.txt
	@nice $(BIN)/python scripts/mutate.py

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage* htmlcov
