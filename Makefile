# `make reproduce` and `make check` do all the set-up; they need Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
BIN := $(VENV)/bin
OUT ?= runs/reproduce
# Waiting threads sleep instead of spinning, so that a busy machine costs less.
export OMP_WAIT_POLICY ?= PASSIVE
# Bytecode is made when a module is first used, and kept: pip would compile thousands that nobody uses.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help reproduce check lint types imports test docs docs-check extras-check coverage soak bench dist fix clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

reproduce: $(VENV)/.train ## Run the three experiments on the embedded digits and write the report.
	$(BIN)/misgiving reproduce --out $(OUT) --jobs $(JOBS)

check: lint types imports test ## Lint, types, import contracts and tests.

lint: $(VENV)/.dev ## Code style.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev ## Static types, strict.
	$(BIN)/mypy

imports: $(VENV)/.dev ## Import contracts between layers.
	$(BIN)/lint-imports

test: $(VENV)/.dev ## Tests and doctests, one process per core.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

docs: $(VENV)/.dev ## The documentation site, in site/; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-check: docs $(VENV)/lightning ## The documentation: the site, its commands, code blocks and examples.
	OMP_NUM_THREADS=1 $(BIN)/pytest -m docs -n $(JOBS) --dist worksteal tests/docs

extras-check: $(VENV)/.dev ## Each extra in an environment of its own, with the lines of the documentation that name it.
	$(BIN)/pytest -m extras --durations=0 tests/serve/test_extras.py

coverage: $(VENV)/.dev ## Tests with line and branch coverage.
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

soak: $(VENV)/.dev ## Long tests: many kills, attacks and simulations, and a thousand examples of each property.
	$(BIN)/pytest -m "soak or hypothesis" --hypothesis-profile soak

bench: $(VENV)/.dev ## Benchmarks of speed (benchmarks/results.md), of its growth and, with PREDICTIONS=FOLDER, of the guarantees.
	$(BIN)/python benchmarks/run_all.py
	$(BIN)/python benchmarks/growth.py
	$(if $(PREDICTIONS),$(BIN)/python benchmarks/guarantee.py $(PREDICTIONS))

dist: $(VENV)/.made ## A source distribution and a wheel in dist/, as Containerfile needs it.
	rm -rf dist
	$(BIN)/python -m pip install --quiet --no-compile --group dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

fix: $(VENV)/.dev ## Fix code style automatically.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the virtual environment and tool caches.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.train: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --no-compile -e '.[train,serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --no-compile -e '.[all]' --group dev
	@touch $@

$(VENV)/lightning: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target $@ --group lightning
	@touch $@
