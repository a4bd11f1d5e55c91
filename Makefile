# Everything runs in .venv, which is made from requirements-lock.txt when it is missing or older.
# `make PYTHON=/path/to/python3.10 test` takes another interpreter.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter of a version that the lock file is tested on and that can make a virtual
# environment. Each is run, not only looked up: a version manager's shim may exist and fail.
FIND_PYTHON = for name in python3.11 python3.10 python3; do \
	"$$name" -c "import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 12))" \
		>/dev/null 2>&1 && echo "$$name" && break; done
PYTHON ?= $(shell $(FIND_PYTHON))

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet

# One thread a process: numerical libraries slow each other down on small machines.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest

.PHONY: help setup test test-all test-lite test-arm64 lint types fuzz bench wheel demo docs lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1:/p' Makefile

setup: $(STAMP)  ## make .venv with everything that development needs

$(STAMP): requirements-lock.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "no Python 3.10 or 3.11 with venv found; name one: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; fi
	"$(PYTHON)" -m venv $(VENV)
	@# Python 3.10's own pip builds old source packages in a way that some no longer stand.
	$(PIP) install --upgrade --constraint requirements-lock.txt pip setuptools
	$(PIP) install --requirement requirements-lock.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(STAMP)

test: $(STAMP)  ## the tests that take seconds each
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: $(STAMP)  ## the slow tests too
	$(PYTEST) -m "not gpu" $(ARGS)

# Debian and QEMU, in a cache: correctness only, emulation says nothing about speed.
test-arm64: $(STAMP)  ## the base install and INT8 bundles on an emulated 64-bit ARM (as root, with apt)
	@command -v qemu-aarch64-static >/dev/null && command -v debootstrap >/dev/null \
		|| apt-get install --yes --quiet qemu-user-static debootstrap \
		|| { echo "needs qemu-user-static and debootstrap" >&2; exit 2; }
	MAKE_ARM64=1 $(PYTEST) -m slow -rsP tests/arm64 $(ARGS)

test-lite: $(STAMP)  ## Paddle Lite: conversion, its predictor, the INT8 forms (needs a Python 3.8)
	$(PYTEST) tests/lite tests/e2e/test_lite.py $(ARGS)

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot see an editable install that maps folders, so it is given an ordinary one.
types: $(STAMP)  ## mypy, strict
	rm -rf build/lib build/typed
	$(PIP) install --no-deps --no-build-isolation --upgrade --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy -p asrcompress

FUZZ_SECONDS ?= 60
fuzz: $(STAMP)  ## fuzz the readers of bundles, graphs and manifests, a minute each
	$(PIP) install -e ".[fuzz]" --no-build-isolation --constraint requirements-lock.txt
	for target in bundle graph manifest; do $(TEST_ENV) $(BIN)/python fuzz/fuzz_$$target.py \
		-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -len_control=0 -rss_limit_mb=2048 || exit 1; done

# ARGS="--quick" takes minutes; ARGS="--run PATH" benches a run of your own. See docs/performance.md.
bench: $(STAMP)  ## every contender from the same checkpoint, side by side
	$(TEST_ENV) $(BIN)/python -m bench $(ARGS)

# setuptools takes what it finds in build/lib, deleted modules included: hence the rm.
wheel: $(STAMP)  ## build the wheel and try it in a fresh environment with the base install only
	rm -rf build dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	"$(BIN)/python" -m venv build/device
	build/device/bin/python -m pip --quiet install --constraint requirements-lock.txt dist/*.whl
	@device="$$PWD/build/device/bin"; cd / && "$$device/python" -c "import asrcompress.runtime" \
		&& "$$device/asrcompress" --help >/dev/null && echo "the wheel works from /"

demo: $(STAMP)  ## evaluate, quantize, gate, export, verify, bench and transcribe on synthetic speech
	$(BIN)/python examples/voice_commands/demo.py $(ARGS)

docs: $(STAMP)  ## write docs/recipe.md from the recipe's metadata
	$(BIN)/python docs/make_recipe_reference.py

lock: $(STAMP)  ## resolve requirements-lock.txt again (needs uv)
	@mkdir -p build
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
		--no-header --no-annotate --output-file build/lock.txt --upgrade
	{ sed -n 1p requirements-lock.txt; cat build/lock.txt; } > build/lock.new
	mv build/lock.new requirements-lock.txt

clean:  ## remove everything that was made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf examples/*/work bench/work
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
