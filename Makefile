# Every command sets up what it needs; a fresh machine needs Python 3.11 and the package registry only.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-engines test-ray test-clients soak fuzz bench evals check setup setup-dev proto clean
help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 22

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml evals/pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -e evals
	@touch $@ $(VENV)/.core

setup: $(VENV)/.core      ## the core alone, into .venv
setup-dev: $(VENV)/.dev   ## the core and what its tests and checks need

demo: $(VENV)/.core  ## index this machine's Python library, ask it questions over gRPC, print rankings and ledgers
	$(BIN)/podium demo

test: $(VENV)/.dev   ## the tests
	$(BIN)/python -m pytest -n 2

test-engines: $(VENV)/.dev  ## every strategy through a real llama.cpp and a real vLLM (the first time: 20 minutes, 3.6 GB)
	tests/engines/setup.sh
	PODIUM_ENGINES=1 $(BIN)/python -m pytest tests/engines

test-ray: .venv-ray/.ready  ## a job on a Ray cluster of two workers, one of which is killed (the first time: 5 minutes, 1 GB)
	RAY_USAGE_STATS_ENABLED=0 .venv-ray/bin/python -m pytest tests/ray

.venv-ray/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -e '.[ray]' pytest pytest-asyncio pytest-timeout
	@touch $@

test-clients: $(VENV)/.dev  ## REST by the clients that are about, docs/clients.md's table (the first time: 10 minutes, 1.2 GB)
	$(BIN)/python tests/clients/run.py

bench: $(VENV)/.dev  ## speed and size beside named peers, one table (the first time builds the peers' environment)
	$(BIN)/python bench/run.py

bench-crossencoder: $(VENV)/.dev  ## cross-encoders beside named peers, one table (the first time builds five environments)
	$(BIN)/python bench/crossencoder.py

bench-peers: $(VENV)/.dev  ## beside rerankers, llm-rankers and rank_llm at one simulated judge, one table (the first time builds three environments)
	$(BIN)/python bench/peers.py

bench-serving: $(VENV)/.dev  ## a cross-encoder behind gRPC from 0.25 to 3 × its capacity, a table and a plot (10 minutes)
	$(BIN)/python bench/serving.py

soak: $(VENV)/.dev  ## ten minutes of faults under load: what is lost, what is answered, what grows; one table
	@mkdir -p out
	nice -n 5 $(BIN)/python -m tests.soak --out out/faults.md

fuzz: $(VENV)/.dev  ## a million hostile inputs over gRPC, HTTP/2 and REST, one table (an hour; the first time builds an environment)
	$(BIN)/python -m tests.fuzz.by_schema
	$(BIN)/python -m tests.fuzz --out bench/results/fuzz.md

evals: $(VENV)/.dev  ## which pipeline is worth its price: suites, recordings, simulated judge, peers, one report (30 minutes)
	$(BIN)/podium eval all $(if $(PODIUM_DATA),--data $(PODIUM_DATA)) --out out/evals $(EVALS)

check: $(VENV)/.dev  ## format, lint, types, import rules, the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check

proto: $(VENV)/.dev  ## generate the Python of the contract
	$(BIN)/python proto/generate.py

clean:               ## remove what was built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
