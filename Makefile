# `make demo` and `make test` need Python 3.11 or later and nothing else: the virtual environment sets itself up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 3
SEED   ?= 1

.PHONY: demo test lint bench differential robustness memory simulate traces faults cluster soak comparison setup proto clean help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

demo: $(READY) ## a Deployment manifest becomes running Pods, rolls out, survives faults
	@$(BIN)/listwatch demo

test: $(READY) lint ## lint, type checks and the whole test suite
	@$(BIN)/python -m pytest -q -n $(JOBS)

lint: $(READY) ## ruff, mypy --strict and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 8

bench: $(READY) ## every benchmark, each with a ratio against a baseline measured in the same run
	@$(BIN)/python -m benchmarks

differential: $(READY) ## 100,000 generated operations, and users and watches, against a real etcd
	@$(BIN)/python -m tests.kvstore.differential --ops 100000 --seed $(SEED)
	@$(BIN)/python -m tests.kvstore.watch_differential --streams 2000 --seed $(SEED)
	@$(BIN)/python -m tests.kvstore.auth_differential --ops 20000 --seed $(SEED)

robustness: $(READY) ## 1,000 kills of a server under load, and everything it answered checked
	@$(BIN)/python -m tests.robustness --kills 1000 --seed $(SEED) --processes $(JOBS)

memory: $(READY) ## 1,000,000 events pass 1,000 watches that nobody reads
	@$(BIN)/python -m tests.robustness.memory

simulate: $(READY) ## 5,000 lives of each simulated reconciler: faults, crashes, two leaders, on virtual time
	@$(BIN)/python -m tests.simulation --seeds 5000 --processes $(JOBS)

traces: $(READY) ## 5,000 lives of informers on virtual time, each to its end in the truth
	@$(BIN)/python -m tests.informer.trace --seeds 5000 --seed $(SEED)

faults: $(READY) ## 5,000 lives of informers behind a network that breaks, with writes and compactions
	@$(BIN)/python -m tests.faults --seeds 5000 --first $(SEED) --processes $(JOBS)

cluster: $(READY) ## 60 faults of the members of a three-member etcd, with informers and controllers at work
	@$(BIN)/python -m tests.cluster --faults 60 --seed $(SEED)

soak: traces faults cluster ## the informer's three, and the second again with TLS and expiring tokens
	@$(BIN)/python -m tests.faults --guarded --seeds 1000 --first $(SEED) --processes $(JOBS)

comparison: $(READY) ## other Python watchers and informers under the same faults; installs them first
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group comparison
	@$(BIN)/python -m tests.comparison

proto: $(READY) ## generate the protobuf modules again
	@$(BIN)/python -m kvstore.proto.generate

setup: $(READY) ## only the virtual environment

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "listwatch needs Python 3.11 or later; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(READY)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
