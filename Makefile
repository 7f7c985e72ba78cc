# The few commands of Tradewind. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help setup setup-dev demo up down status replay test lint format chaos bench bench-models bench-faults bench-rollout bench-serving bench-soak bench-gpu docs lock clean

help: ## List the targets.
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) must be on the PATH; got none. Install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) could not make a virtual environment. On Debian: apt-get install python3.11-venv" >&2; rm -rf $(VENV); exit 1; }

setup: $(PY) ## Make .venv from the lock.
	@$(PY) -m include.runtime.packages install requirements.txt

setup-dev: $(PY)
	@$(PY) -m include.runtime.packages install requirements.txt requirements-dev.txt

demo: setup ## Run the whole loop on real flights, print what happened, stop everything.
	@$(PY) -m include.demo

up: setup ## Start Airflow, MLflow and the model server, and keep them running.
	@$(PY) -m include.runtime up

down: ## Stop exactly what `up` started.
	@test -x $(PY) || { echo "nothing was started"; exit 0; }; $(PY) -m include.runtime down

status: setup ## Say how each model and each process is, and what is stuck.
	@./tradewind status

replay: setup ## Train a registered version again and compare bytes: make replay MODEL=flight_delays@3
	@test -n "$(MODEL)" || { echo "error: MODEL must name a version; got none. For example: make replay MODEL=flight_delays@champion" >&2; exit 2; }
	@./tradewind replay "$(MODEL)"

test: setup-dev lint ## Lint, then run all tests.
	@$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: setup-dev ## ruff, mypy strict, import-linter.
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup-dev ## Let ruff mend what it can.
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

chaos: setup-dev ## Kill every server and the tasks over the whole loop; the end state must not differ.
	@$(PY) -m pytest -q -s -m chaos tests

bench: setup ## Run the loop and write benchmarks/loop.json: where the time goes.
	@$(PY) -m include.demo --bench benchmarks/loop.json

bench-models: setup-dev ## Let Airflow parse a thousand models on two cores and write benchmarks/models.json.
	@TRADEWIND_BENCH_TO=benchmarks/models.json $(PY) -m pytest -q -s -m chaos tests/bench/test_many_models.py

bench-faults: setup-dev ## Let 1,000 fault sequences befall each way of training and write benchmarks/training_faults.json.
	@TRADEWIND_BENCH_TO=benchmarks/training_faults.json $(PY) -m pytest -q -s -m chaos tests/kubernetes/test_fault_sequences.py

bench-rollout: setup-dev ## Simulate ten thousand rollouts of each kind and write benchmarks/rollout.json.
	@TRADEWIND_BENCH_TO=benchmarks/rollout.json $(PY) -m pytest -q -s -m chaos tests/bench/test_rollout.py

bench-serving: setup-dev ## Put the model server beside MLflow's, LitServe and BentoML, and write benchmarks/serving.json.
	@TRADEWIND_BENCH_TO=benchmarks/serving.json $(PY) -m pytest -q -s -m chaos tests/bench/test_serving.py

bench-soak: setup-dev ## Ask the model server for an hour and write benchmarks/soak.json: whether its memory grows.
	@TRADEWIND_BENCH_TO=benchmarks/soak.json $(PY) -m pytest -q -s -m chaos tests/bench/test_soak.py

bench-gpu: setup-dev ## Run what needs a CUDA device and write its figures into benchmarks/gpu.json; without one, name what is skipped.
	@TRADEWIND_BENCH_TO=benchmarks/gpu.json $(PY) -m pytest -q -s -rs -m gpu tests

docs: setup-dev ## Build the docs site into .site; a warning is an error.
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict --config-file docs/mkdocs.yml

lock: setup-dev ## Compile requirements*.in into the locks.
	@$(PY) -m include.runtime.packages lock

clean: ## Stop and remove every local deployment, and the virtual environment.
	@test -x $(PY) || exit 0; for home in .tradewind/*/; do test ! -d "$$home" || $(PY) -m include.runtime down --home "$$home"; done
	rm -rf $(VENV) .tradewind
