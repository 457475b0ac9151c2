# make run         install what is needed into .venv and run the main experiment
# make test        the same environment, with the tests' tools, and the test suite
# make lint        ruff and mypy
# make parity      the tests that compare with PyTorch, which make test skips without it (installs it)
# make notebooks   run the notebooks of docs/notebooks (installs what runs them)
# make browser     the tests that open pages in Chromium, which has to be there (installs what drives it)
# make cuda-check  tests of the CUDA path on a stand-in for CuPy, without a card (see CUPY_STAND_IN)
# make mutate      plant faults in every derivative rule and see that the tests catch them
# make bench       measure speed beside PyTorch and Hugging Face's transformers (installs them)
# make clean       remove .venv, caches and build outputs (runs/ stays)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The folder of a package `cupy` that behaves as CuPy does, on the CPU.
CUPY_STAND_IN ?= ../shared/fakecupy
# What runs there on the only card, and what runs on the second of two.
ON_CUDA := \
  tests/tinygrad182/cuda \
  @tests/on_cuda.txt
ON_CUDA_1 := \
  tests/tinygrad182/cuda \
  @tests/on_cuda.txt --deselect tests/tinygrad182/test_checks.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint parity notebooks browser cuda-check mutate peers bench clean

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

parity: $(VENV)/.has-test $(VENV)/.has-peers
	$(BIN)/python -m pytest -n auto -q -m peers tests $(ARGS)

notebooks: $(VENV)/.has-test $(VENV)/.has-notebooks
	$(BIN)/python -m pytest -n auto -q tests/docs tests/tinygrad182/inspect/microscope/test_live.py \
	  tests/tinygrad182/inspect/sliders/test_live.py $(ARGS)

browser: $(VENV)/.has-test $(VENV)/.has-browser
	$(BIN)/python -m pytest -q -rs tests/browser $(ARGS)

cuda-check: $(VENV)/.has-test
	@if [ -d "$(CUPY_STAND_IN)/cupy" ]; then \
	  export PYTHONPATH="$(abspath $(CUPY_STAND_IN))"; \
	  set -x; \
	  $(BIN)/python -m pytest -n auto -q --device cuda $(ON_CUDA) $(ARGS) && \
	  FAKECUPY_DEVICES=2 $(BIN)/python -m pytest -n auto -q --device cuda:1 $(ON_CUDA_1) $(ARGS); \
	else \
	  echo "SKIPPED: nothing of the CUDA path was tested, for there is no stand-in for CuPy in"; \
	  echo "$(CUPY_STAND_IN). Name its folder: make cuda-check CUPY_STAND_IN=FOLDER"; \
	fi

mutate: $(VENV)/.has-test
	$(BIN)/python -m tests.tinygrad182.mutation $(ARGS)

# PyTorch, which the parity tests compare with; `make test` runs them too once it is installed.
peers: $(VENV)/.has-peers

bench: $(VENV)/.has-experiments $(VENV)/.has-peers $(VENV)/.has-bench $(VENV)/.has-browser
	$(BIN)/python -m benchmarks.unrolled $(ARGS)
	$(BIN)/python -m benchmarks.operations $(ARGS)
	$(BIN)/python -m benchmarks.decoding $(ARGS)
	$(BIN)/python -m benchmarks.recurrent $(ARGS)
	$(BIN)/python -m benchmarks.vanishing $(ARGS)
	$(BIN)/python -m benchmarks.resident $(ARGS)
	$(BIN)/python -m benchmarks.first_use $(ARGS)
	$(BIN)/python -m benchmarks.memory $(ARGS)
	$(BIN)/python -m benchmarks.microscope $(ARGS)
	$(BIN)/python -m benchmarks.watch $(ARGS)

# A stamp for each set of extras: nothing is installed again until the metadata changes.
$(VENV)/.has-experiments: EXTRAS := experiments
$(VENV)/.has-test:        EXTRAS := experiments,test,fast
$(VENV)/.has-lint:        EXTRAS := experiments,lint
$(VENV)/.has-peers:       EXTRAS := peers
$(VENV)/.has-notebooks:   EXTRAS := notebooks
$(VENV)/.has-browser:     EXTRAS := browser
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
