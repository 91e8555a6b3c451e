# Each target works alone on a fresh machine: it makes .venv and installs what it needs there.
PYTHON ?= python3
# The constraints keep pip from taking a CUDA build of torch; users of the package are not bound by them.
PIP_FLAGS ?= --constraint constraints.txt
BIN := .venv/bin
READY := .venv/ready
# Each process makes its own fixtures, so more than four gain little.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all matrix lint clean

demo: $(READY)       ## swap the tokenizer of a real model, and measure
	$(BIN)/python -m examples.demo

test: $(READY)       ## the fast tests
	$(PYTEST) -m "not slow"

test-all: $(READY)   ## all tests, downloads and slow ones too
	$(PYTEST)

matrix:              ## the fast tests with the lowest and the newest versions of what we need, Python 3.10 to 3.13
	.ci/matrix

lint: $(READY)       ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .matrix demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable '.[dev]'
	touch $(READY)
