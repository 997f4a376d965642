PYTHON ?= python3.11
BIN := .venv/bin
LOWEST := .venv-lowest/bin

.PHONY: setup demo test check docs wheel smoke-lowest figures
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv/ready-docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# About 6 GB on Linux with x86-64, where the lowest torch exists only with CUDA.
.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/python || $(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --upgrade pip
	$(LOWEST)/python -m pip install --quiet --no-cache-dir --constraint constraints-lowest.txt --editable . pytest
	touch $@

demo: setup
	$(BIN)/semiperm demo --force

# One thread a process: networks this small are slower on two.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Builds a wheel and looks whether every file of the package is in it.
wheel: setup
	$(BIN)/python -m pytest -q -m slow tests/test_packaging.py

smoke-lowest: .venv-lowest/ready
	OMP_NUM_THREADS=1 $(LOWEST)/python -m pytest -q tests/smoke

figures: setup
	$(BIN)/python benchmarks/figures.py
