# `make reproduce` and `make check` do all the set-up: they need Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
BIN := $(VENV)/bin
OUT ?= runs/reproduce
# Threads that wait without spinning: a busy neighbour then costs little.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help reproduce check lint types imports test coverage soak bench fix clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

reproduce: $(VENV)/.train ## Run the three experiments on the embedded digits and write the report.
	$(BIN)/misgiving reproduce --out $(OUT) --jobs $(JOBS)

check: lint types imports test ## All that must hold: lint, types, import contracts, tests.

lint: $(VENV)/.dev ## Style of code.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev ## Static types, strict.
	$(BIN)/mypy

imports: $(VENV)/.dev ## Which module may import which.
	$(BIN)/lint-imports

test: $(VENV)/.dev ## Tests and doctests, one process for each core.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

coverage: $(VENV)/.dev ## Tests with the coverage of lines and branches.
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

soak: $(VENV)/.dev ## The long tests: many kills, many attacks, a thousand examples of each law.
	$(BIN)/pytest -m "soak or hypothesis" --hypothesis-profile soak

bench: $(VENV)/.dev ## Speed against others, into benchmarks/results.md; then the deferral guarantee.
	$(BIN)/python benchmarks/run_all.py
	$(BIN)/python benchmarks/guarantee.py
	$(BIN)/python benchmarks/serving.py

fix: $(VENV)/.dev ## Mend style where that can be done by machine.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the virtual environment and what tools left.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.train: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[train,serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet -e '.[all]' --group dev
	@touch $@
