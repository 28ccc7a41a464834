# Everything a person does with this repository. Each target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
#: More arguments for the tool behind a target: make test ARGS="-k settings -x"
ARGS ?=
#: Two test processes, each with its own servers; tests of a file stay together, long ones go first.
PROCESSES ?= -n 2 --dist loadfile --no-loadscope-reorder
#: How much `make test-faults` tries: sample, full or soak.
SCALE ?= full
#: What `make test-containers` runs: whose tests ask for addresses and credentials alone.
IN_CONTAINERS ?= tests/contract tests/integration/catalog tests/integration/catalogdb \
  tests/integration/chunker tests/integration/restore tests/integration/test_kafka_topics.py \
  tests/integration/test_kafka_client.py tests/integration/test_containers.py
READY := .venv/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Many containers set it. Then each start of a service, of the command or of a test process compiles
# a thousand modules again, which is half of what a start costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo demo-cluster drill test test-containers test-faults test-mutants soak check sbom images model bench up down docs format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv with everything in it, also the command .venv/bin/backcast

demo: $(READY) ## protect, change, lose and restore a real file-system image (3 minutes)
	$(BIN)/python -m deploy.demo $(ARGS)

demo-cluster: $(READY) ## cut a disk that three nodes write, kill a node, look for effects without causes (3 minutes)
	$(BIN)/python -m deploy.demo.cluster $(ARGS)

drill: $(READY) ## lose all but the bucket and the recovery sheet, get everything back, timed (3 minutes)
	$(BIN)/python -m deploy.drill $(ARGS)

test: $(READY) ## all tests but those of faults, on real servers (12 minutes)
	$(BIN)/pytest -m "not slow" --ignore tests/faults $(PROCESSES) $(ARGS)

test-containers: images ## tests that need servers but not their processes, in containers (10 minutes)
	BACKCAST_TEST_SERVERS=containers $(BIN)/pytest -m "not slow" $(PROCESSES) $(IN_CONTAINERS) $(ARGS)

test-faults: $(READY) ## crash points, kills, broken servers, damage, fuzzing (over an hour; SCALE=sample: 7 minutes)
	$(BIN)/pytest tests/faults --scale $(SCALE) $(if $(filter sample,$(SCALE)),-m "not slow" $(PROCESSES)) $(ARGS)

test-mutants: $(READY) ## plant bugs in copies of the code, each of which a test must catch (6 minutes)
	$(BIN)/pytest tests/faults/mutants --scale full -s $(ARGS)

soak: $(READY) ## faults for hours
	$(MAKE) test-faults SCALE=soak

check: $(READY) ## format, lint, types, imports, tidiness, unit tests, generated docs, manifests (2 minutes)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy libs services deploy bench k8s model docs/generate.py
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/tidy tests/unit
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m k8s.validate

sbom: $(READY) ## list what images install besides our code, with licences (build/sbom.cdx.json)
	$(BIN)/python -m deploy.sbom build/sbom.cdx.json

images: $(READY) ## images of servers for tests; needs root, debootstrap and an engine (10 minutes once)
	$(BIN)/python -m deploy.images

model: ## search all states of the protocol's model; needs spin and gcc (3 minutes)
	$(PYTHON) -m model.check $(ARGS)

bench: $(READY) ## compare with the bare data path and with other backup programs
	$(BIN)/python -m bench run $(ARGS)

up: $(READY) ## start servers and services on this machine
	$(BIN)/backcast dev up $(ARGS)

down: $(READY) ## stop them; data stays
	$(BIN)/backcast dev down $(ARGS)

docs: $(READY) ## write docs/reference from the code
	$(BIN)/python -m docs.generate

format: $(READY) ## rewrite the code in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the targets above made here; data of `make up` stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml uv.lock deploy/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then run=; else run="sudo -n"; fi; \
	  $$run true 2>/dev/null && command -v apt-get >/dev/null || \
	    { echo "the venv module is missing: apt-get install python3-venv (as root)" >&2; exit 1; }; \
	  echo "installing python3-venv"; \
	  $$run apt-get -qq update; $$run apt-get -qq install -y python3-venv; \
	fi
	@echo "setting up .venv (a minute or two the first time)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --only-binary :all: --require-hashes -r deploy/uv.txt
	@$(BIN)/uv sync --quiet --frozen --inexact --extra local --compile-bytecode
	@$(BIN)/python -m compileall -q libs services deploy
	@touch $@
