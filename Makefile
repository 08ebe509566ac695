# On a fresh Debian 12, as root: `make demo` to see it work, `make test` to test everything.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH):/usr/sbin:/sbin

.PHONY: install lint test demo flows

install: $(VENV)/installed
	@scripts/install-packages

# The packages come first: one of them is what makes the virtual environment.
$(VENV)/installed: pyproject.toml setup.py
	@scripts/install-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

demo: install
	$(BIN)/fedsdn demo

# Writes flows/ anew from a lab that runs; a test compares.
flows: install
	$(BIN)/python flows/generate.py
