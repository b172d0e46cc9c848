# KMM: what a person does with this checkout. `make` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ONLY ?=
SECONDS ?= 60
NODES ?= auto
COUNT ?=
SANDBOX = --nodes $(NODES) $(if $(COUNT),--count $(COUNT))
IN_IMAGES = $(BIN)/python -m uv pip compile --constraint requirements.lock --universal --python-version 3.11 --generate-hashes --no-header -q

.PHONY: help sandbox sandbox-check images test test-nightly test-images test-install unit api fault e2e fuzz collect-errors check format generate lock bench clean

help: ## List the targets
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@echo "==> Python environment in $(VENV) (locked versions)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
	  || { test "$$(id -u)" = 0 || { echo "==> $(PYTHON) cannot make environments: have python3-venv installed (as root: apt-get install python3-venv), or name another Python: make PYTHON=..."; exit 1; }; \
	       echo "==> apt-get install python3-venv"; apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

sandbox: $(READY) ## Run a whole cluster on this machine, until Ctrl-C (NODES=kind, COUNT=number)
	@exec $(BIN)/python -m kmm_sandbox up $(SANDBOX)

sandbox-check: $(READY) ## The same unattended; the last line is a JSON verdict
	@exec $(BIN)/python -m kmm_sandbox check $(SANDBOX)

images: $(READY) ## Build the images of both programs, with an SBOM each (OUTPUT=directory)
	@exec $(BIN)/python -m images.build $(if $(OUTPUT),--output $(OUTPUT))

test: $(READY) ## Run the tiers unit, api, fault, images and e2e, and count their tests
	@exec $(BIN)/python tests/tiers.py unit api fault images e2e

test-nightly: $(READY) ## Run the tests that take minutes each, api-oldest and install: about 70 minutes in all
	@exec $(BIN)/python tests/tiers.py nightly api-oldest install

unit api fault e2e: $(READY) ## Run one tier of tests
	@exec $(BIN)/python tests/tiers.py $@

test-images: $(READY) ## Run the tier that builds the images and looks into them
	@exec $(BIN)/python tests/tiers.py images

test-install: $(READY) ## Run the tier that installs KMM on real kubelets, with what users rely on first
	@exec $(BIN)/python tests/tiers.py install

fuzz: $(READY) ## Fuzz every parser (SECONDS=60 for each target, ONLY=name for one)
	@cd tests && exec ../$(BIN)/python -m fuzz --seconds $(SECONDS) $(ONLY)

collect-errors: $(READY) ## Provoke every error on a real kernel, keep what it says for the unit tests
	@cd tests && exec ../$(BIN)/python -m errors

check: $(READY) ## Format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m kmm_common.api.crd --check
	$(BIN)/python -m kmm_common.wire.generate --check
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m charts.generate --check

format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(READY) ## Write crds/, the wire messages, the chart and pages of docs/ anew
	$(BIN)/python -m kmm_common.api.crd
	$(BIN)/python -m kmm_common.wire.generate
	$(BIN)/python -m docs.generate
	$(BIN)/python -m charts.generate

bench: $(READY) ## Run the benchmarks (ONLY=name for one)
	@PYTHONPATH=tests exec $(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

lock: $(READY) ## Lock the versions of pyproject.toml, of the images, and of the linter of manifests, anew
	$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header -q -o requirements.lock
	$(BIN)/python -m uv pip compile tests/support/checkov/requirements.in --universal --python-version 3.11 --generate-hashes --no-header -q \
	  -o tests/support/checkov/requirements.lock
	$(IN_IMAGES) --extra cp --extra speed pyproject.toml -o images/cp.lock
	$(IN_IMAGES) --extra daemon pyproject.toml -o images/daemon.lock
	$(IN_IMAGES) images/build.in -o images/build.lock

clean: ## Remove the Python environment and caches of this checkout
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .run
