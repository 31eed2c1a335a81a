.DEFAULT_GOAL := help
SHELL := /bin/sh
.SUFFIXES:

# The newest Python that all dependencies support; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: help setup demo test test-kubernetes test-pods check smoke chaos lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything pinned, and the spike command in it

$(STAMP): requirements/uv.txt requirements/all.txt requirements/build.txt pyproject.toml
	@$(if $(PYTHON),,echo "setup: there is no python3: install Python 3.11 to 3.13" >&2; exit 1)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "setup: $(PYTHON) is $$($(PYTHON) --version 2>&1): install Python 3.11 to 3.13, or name one: make setup PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "setup: $(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "setup: fetching and installing what is pinned, 1.7 GB into .venv: a minute or two"
	$(BIN)/uv pip install --quiet --compile-bytecode --system-certs --python $(BIN)/python --require-hashes --build-constraints requirements/build.txt -r requirements/all.txt
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --no-deps --build-constraints requirements/build.txt -e .
	@touch $(STAMP)

demo: setup ## Run the whole pipeline on this machine; Ctrl-C ends it
	$(BIN)/spike up

check: setup ## Lint, format, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes: whole stacks, of which there is one at a time, are one's, and come last in the order kept.
test: setup ## Run all tests
	$(BIN)/pytest -n 2 --no-loadscope-reorder

test-kubernetes: setup ## The tests that need a cluster: KUBECONFIG=…
	@test -n "$$KUBECONFIG" || { echo "test-kubernetes: no cluster: set KUBECONFIG to one in which a namespace and a CRD may be made (kind create cluster)" >&2; exit 1; }
	$(BIN)/pytest -m kubernetes tests/kubernetes tests/contract

test-pods: setup ## Spikes as pods of a cluster; docs/kubernetes.md says what it needs
	$(BIN)/pytest -m pods tests/kubernetes

smoke: setup ## The whole pipeline in a scratch folder, with faults, then an audit
	$(BIN)/spike smoke

chaos: setup ## Hundreds of seeded faults on scratch data, every record counted: SEED=1 FAULTS=510
	$(BIN)/spike chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(REPORT),--report $(REPORT))

lock: setup ## Resolve pyproject.toml anew into requirements/ (hashes, no addresses)
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra stack --extra dev pyproject.toml -o requirements/all.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/all.txt pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/all.txt requirements/spark.in -o requirements/spark.txt

clean: ## End a running stack and delete its data (.venv and ~/.cache/spike-pipelines stay)
	@if [ -x $(BIN)/spike ] && [ -d .spike ]; then $(BIN)/spike down; fi
	rm -rf .spike
