# make run     install what is needed into .venv and run the main experiment
# make test    the same environment, with the tests' tools, and the test suite
# make lint    ruff and mypy
# make mutate  plant faults in every derivative rule and see that the tests catch them (installs PyTorch)
# make bench   measure speed beside PyTorch and Hugging Face's transformers (installs them)
# make clean   remove .venv, caches and build outputs (runs/ stays)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint mutate peers bench clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

run: $(VENV)/.has-experiments
	$(BIN)/python -m experiments gradient-flow $(ARGS)

test: $(VENV)/.has-test
	$(BIN)/python -m pytest -n auto -q $(ARGS)

lint: $(VENV)/.has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutate: $(VENV)/.has-experiments $(VENV)/.has-test $(VENV)/.has-peers
	$(BIN)/python -m tests.tinygrad182.mutation $(ARGS)

# PyTorch, which the parity tests compare with: `make test` runs them where it is installed.
peers: $(VENV)/.has-peers

bench: $(VENV)/.has-experiments $(VENV)/.has-peers $(VENV)/.has-bench
	$(BIN)/python -m experiments.benchmarks.unrolled $(ARGS)
	$(BIN)/python -m experiments.benchmarks.decoding $(ARGS)
	$(BIN)/python -m experiments.benchmarks.recurrent $(ARGS)
	$(BIN)/python -m experiments.benchmarks.memory $(ARGS)

# A stamp for each set of extras: nothing is installed again until the metadata changes.
$(VENV)/.has-experiments: EXTRAS := experiments
$(VENV)/.has-test:        EXTRAS := experiments,test,fast
$(VENV)/.has-lint:        EXTRAS := experiments,lint
$(VENV)/.has-peers:       EXTRAS := peers
$(VENV)/.has-bench:       EXTRAS := bench

$(VENV)/.has-%: $(VENV)/.made setup.cfg pyproject.toml
	@echo "Installing tinygrad182[$(EXTRAS)] into $(VENV) (the first time takes a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tinygrad182 needs Python 3.11 or newer; '$(PYTHON)' is not one." >&2; \
	  echo "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "Making $(VENV) failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
