# `make demo`, `make test` and `make check` need nothing but Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo demo-quick test test-slow test-versions check format lint types docs figures bench studies reliability clean

help:
	@echo "make demo        fine-tune a real transformer under certified masks, write demo/"
	@echo "make demo-quick  the same in under 90 seconds"
	@echo "make test        the test suite with doctests"
	@echo "make test-slow   the tests that take minutes, and property tests at random"
	@echo "make test-versions  the test suite with the lowest declared versions and with the newest"
	@echo "make check       format, lint, types, docs, and the test suite"
	@echo "make bench       the benchmarks, each writing benchmarks/results/NAME.json"
	@echo "make studies     the papers' tables and figures, hours in all (one: python -m analysis.NAME --quick)"
	@echo "make reliability a million graphs against exact arithmetic, traps, a fuzzed checker, platforms, files"

$(READY): pyproject.toml constraints.txt demo-packages.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	$(BIN)/python -m pip install --quiet --no-deps -r demo-packages.txt
	@touch $@

demo: $(READY)
	$(BIN)/expandermask demo

demo-quick: $(READY)
	$(BIN)/expandermask demo --quick

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m "slow or hypothesis" --hypothesis-profile=random

# An hour and some gigabytes: the oldest torch that is declared comes with CUDA.
test-versions: $(READY)
	$(BIN)/python reliability/versions.py

check: format lint types docs test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY) figures
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

figures: $(READY)
	for script in docs/figures/*.py; do $(BIN)/python $$script || exit 1; done

# OpenBLAS is left to choose its kernels, as it does for users. Run by hand: benchmarks/demo_tuning.py,
# the sweep behind the demo's learning rates, which takes most of an hour, and
# benchmarks/theory_tables.py, the measured tables of the theory pages.
bench: $(READY)
	for script in masks constructions spectral_report diagnostics cheeger_intervals adapters decoding importance allocation demo_accuracy; do \
	  env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python benchmarks/$$script.py || exit 1; \
	done

# Each goes on where it was stopped.
studies: $(READY)
	for script in analysis/[a-z]*.py; do $(BIN)/python -m analysis.$$(basename $$script .py) || exit 1; done

# Minutes each. Run by hand are `mutation`, which takes hours, and `serving` and `peft_tests`, which need other
# environments (see reliability/README.md).
reliability: $(READY)
	for script in agreement traps recheck_fuzz platforms files_fuzz hostile_configs interrupted_saves resume; do $(BIN)/python reliability/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) demo docs/_build
