# `make reproduce` and `make check` do all the set-up; they need Python 3.11 or newer.
PYTHON ?= python3
# With LOCKED=1, in an environment of its own, versions and hashes are those of requirements.lock.
VENV ?= .venv$(if $(LOCKED),-locked)
LOCK := --no-require-hashes --constraint requirements.lock --build-constraint requirements.lock
# pip verifies the hashes of constraints, and installs what has none beside them, from 26.2.
PIP := pip>=26.2
# Each machine takes the build for its processor or GPU, so only the versions are locked.
TORCH := torch==2.13.0 torchvision==0.28.0
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
# One more process than cores: tests wait for services and browsers.
WORKERS ?= $(shell expr $(JOBS) + 1)
BIN := $(VENV)/bin
OUT ?= runs/reproduce
# Waiting threads sleep instead of spinning, so that a busy machine costs less.
export OMP_WAIT_POLICY ?= PASSIVE
# Bytecode is made when a module is first used, and kept: pip would compile thousands that nobody uses.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help reproduce check lint types imports test docs reference docs-check extras-check coverage soak bench dist release-check lock sbom audit fix clean

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

test: $(VENV)/.dev ## Tests and doctests.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

docs: $(VENV)/.dev ## The documentation site, in site/, with the gallery run anew; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(VENV)/.dev ## The reference of Python and the command line, in docs/reference/ (committed).
	$(BIN)/python docs/make_reference.py

docs-check: docs $(VENV)/lightning ## The documentation: the site, its commands, code blocks and examples.
	OMP_NUM_THREADS=1 $(BIN)/pytest -m docs -n $(WORKERS) --dist worksteal tests/docs

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

release-check: dist ## A release: clean tree, changelog, workflows; then the wheel alone runs the README's lines and the reproduction.
	@test -z "$$(git status --porcelain)" || { git status --short; echo "commit these, or remove them"; exit 1; }
	@version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/misgiving/__init__.py); \
	  grep -q "^## $$version$$" CHANGELOG.md || { echo "CHANGELOG.md has no section $$version"; exit 1; }
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(PYTHON) -m venv --clear $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --no-compile "misgiving[train,serve] @ file://$$(ls $$PWD/dist/*.whl)"
	sed -n '/start:lines/,/end:lines/{/^```python/,/^```/{/^```/d;p;};}' README.md > $(VENV)/wheel/lines.py
	cd $(VENV)/wheel && bin/misgiving data sample digits.csv && bin/python lines.py && \
	  bin/misgiving reproduce --out reproduce --jobs $(JOBS)

lock: $(VENV)/.supply ## requirements.lock: the newest releases that are at least three days old, for each platform.
	printf '%s\n' $(TORCH) editables hatchling | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --exclude-newer '3 days' --all-extras --group dev --group dist --group lightning --generate-hashes --no-annotate --no-header \
	  --output-file $(VENV)/lock pyproject.toml -
	{ echo '# `make lock` writes this. Not locked: pip, and the builds of torch (only its version is).'; \
	  sed -E '/^torch(vision)?==/,/[^\\]$$/{/^ /d;s/ \\$$//;}' $(VENV)/lock; } > requirements.lock

sbom: dist $(VENV)/.supply ## Bills of materials (CycloneDX) of the wheel with [train,serve] and of the container's Python, in dist/.
	for part in wheel:train,serve container:serve,postgresql; do \
	  $(PYTHON) -m venv --clear $(VENV)/sbom && \
	  $(VENV)/sbom/bin/python -m pip install --quiet --upgrade '$(PIP)' && \
	  $(VENV)/sbom/bin/python -m pip install --quiet --no-compile $(LOCK) "misgiving[$${part#*:}] @ file://$$(ls $$PWD/dist/*.whl)" && \
	  $(BIN)/cyclonedx-py environment --output-file $(VENV)/sbom.json $(VENV)/sbom && \
	  sed "s|$$PWD/||" $(VENV)/sbom.json > dist/$${part%:*}.cdx.json || exit; \
	done

audit: $(VENV)/.supply ## Known vulnerabilities of the releases in requirements.lock.
	sed '/^ /d;s/ \\$$//' requirements.lock > $(VENV)/releases
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/releases || \
	  { echo "make audit: a release is vulnerable, or the service of pip-audit did not answer (see above)"; exit 1; }

fix: $(VENV)/.dev ## Fix code style automatically.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the virtual environment and tool caches.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade '$(PIP)'
	@touch $@

$(VENV)/.train: $(VENV)/.made pyproject.toml $(if $(LOCKED),requirements.lock)
	$(BIN)/python -m pip install --quiet --no-compile $(if $(LOCKED),$(LOCK)) -e '.[train,serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --no-compile $(if $(LOCKED),$(LOCK)) -e '.[all]' --group dev
	@touch $@

$(VENV)/.supply: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --no-compile --group supply
	@touch $@

$(VENV)/lightning: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-compile $(if $(LOCKED),$(LOCK)) --no-deps --upgrade --target $@ --group lightning
	@touch $@
