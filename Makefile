# On a fresh Debian 12, as root: `make demo` to see it work, `make test` to test everything.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH):/usr/sbin:/sbin

.PHONY: install lint test fuzz demo flows vagrant-test

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
	@scripts/install-packages --tests
	@scripts/install-neutron
	$(BIN)/pytest --numprocesses 3 --no-loadscope-reorder

# Looks for bytes that break what reads them, for so many seconds each.
FUZZ_SECONDS ?= 60
fuzz: install
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for target in socks caller hello records channel probe; do \
		$(BIN)/python -m tests.fuzz.$$target -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

demo: install
	$(BIN)/fedsdn demo

# Writes flows/ anew from a lab that runs; a test compares.
flows: install
	$(BIN)/python flows/generate.py

# Two sites in two emulated machines, from an empty disk to the end: needs no loop device, no KVM,
# no systemd, and only Debian's packages and PyPI. A quarter of an hour.
BOX := vagrant/debian12.box
vagrant-test: install vagrant/wheels $(BOX)
	@scripts/install-packages --vagrant
	vagrant/test $(BOX)

# What fedsdn needs from PyPI, for machines that do not reach it.
vagrant/wheels: pyproject.toml | install
	rm -rf $@ $@.new
	$(BIN)/pip wheel --quiet --disable-pip-version-check --wheel-dir $@.new .
	rm $@.new/fedsdn-*.whl
	mv $@.new $@

$(BOX): $(wildcard vagrant/box/*) scripts/install-packages
	@scripts/install-packages --vagrant
	vagrant/box/make $@
