# One virtual environment in .venv, made from constraints.txt; every target makes what it needs.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := build/src

.PHONY: setup test test-fast lint types prose check faults bench docs clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0 --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

# Starts two processes of its own, in which torch now and then aborts while other tests run beside it.
ALONE = tests/algos/run/test_distributed.py

# Two processes of one thread each: faster than one of two, because most tests are small.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --ignore=$(ALONE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ALONE)

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/python .ci/link_sources.py
	MYPYPATH=$(SOURCES) $(BIN)/python -m mypy -p reelrl

prose: setup
	$(BIN)/python docs/build/prose.py

# The checks of a change before it is proposed; .ci/run is the whole of it.
check: lint types test-fast

faults: setup
	$(BIN)/python tests/faults.py

bench: setup
	$(BIN)/reelrl bench

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

clean:
	rm -rf .venv build dist runs site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
