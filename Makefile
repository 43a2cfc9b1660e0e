# Every target sets itself up from a bare clone with nothing but a Python and its pip: `make demo`, `make test`.
# PYTHON picks the interpreter that .venv is made from, DEMO_ARGS is handed to the demo, PYTEST_ARGS and FUZZ_ARGS to pytest.

SHELL := /bin/bash

PYTHON ?= python3
WORKERS ?= 2
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
FUZZ_ARGS ?=
TAG ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
DOCS_READY := $(VENV)/.docs-ready
ZENNIT1 := 1.0.0
ZENNIT1_DIR := .zennit-$(ZENNIT1)

# One thread for each worker: more of them than cores makes small tensors slower, and sums come out in another order.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest
FAST := -m "not slow" -n $(WORKERS)

# pytest exits with 5 when it finds nothing to run. Where that is allowed it is said aloud; any other failure stays one.
MAY_BE_EMPTY = || { code=$$?; [ $$code -eq 5 ] && echo "NOTE: nothing ran: '$@' has no tests yet"; }

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-zennit1 test-oldest doctest fuzz lint format typecheck docs dist ci bench gpu clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 15

setup: $(READY) ## make .venv with the package and all development tools

$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

$(DEMO_READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@$(TORCH)
	$(BIN)/python -m pip install --editable ".[examples]"
	@touch $@

# PyPI's torch for Linux brings gigabytes of CUDA. Without an NVIDIA driver, PyTorch's own index has a build without it;
# where that cannot be reached, the next installation takes what there is. Nothing else is searched, because builds of
# torch and torchvision from two places do not fit each other.
define TORCH
if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	PIP_CONFIG_FILE=/dev/null $(BIN)/python -m pip install --isolated --retries 1 --timeout 15 \
		--index-url https://download.pytorch.org/whl/cpu torch torchvision \
		|| echo "PyTorch's index of CPU builds cannot be reached; the next step installs another build"; \
fi
endef

demo: $(DEMO_READY) ## train with and without the heatmap loss on two shortcuts, three minutes; a table and a picture
	$(BIN)/python examples/background_bias.py $(DEMO_ARGS)

test: $(READY) ## the fast tests and the examples in the docstrings
	$(PYTEST) $(FAST) $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory doctest

test-slow: $(READY) ## the tests that take long
	$(PYTEST) -m "slow and not huge" -n $(WORKERS) $(PYTEST_ARGS) $(MAY_BE_EMPTY)

test-zennit1: $(READY) $(ZENNIT1_DIR)/.ready ## the fast tests with Zennit 1 instead of the installed Zennit
	PYTHONPATH=$(ZENNIT1_DIR) EXPECTED_ZENNIT=$(ZENNIT1) $(PYTEST) $(FAST) $(PYTEST_ARGS)

# Zennit 1 asks for Python 3.11.11 or later and runs on earlier ones too; its dependencies are those already in .venv.
$(ZENNIT1_DIR)/.ready: $(READY)
	rm -rf $(ZENNIT1_DIR)
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --target $(ZENNIT1_DIR) "zennit==$(ZENNIT1)"
	@touch $@

test-oldest: $(VENV)-oldest/.ready ## the fast tests with the oldest versions that are allowed; downloads another torch
	$(ONE_THREAD) $(VENV)-oldest/bin/python -m pytest $(FAST) $(PYTEST_ARGS)

$(VENV)-oldest/.ready: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable ".[dev]"
	@touch $@

fuzz: $(READY) ## 10,000 random networks; FUZZ_ARGS="--hypothesis-seed=N" makes those of a seed again
	FUZZ_EXAMPLES=10000 $(PYTEST) tests/signal/test_random_networks.py $(FUZZ_ARGS)

doctest: $(READY) ## the examples in the docstrings alone
	$(PYTEST) --doctest-modules zennit_isnet zennit_isnet_command.py $(MAY_BE_EMPTY)

lint: $(READY) ## ruff: rules and format; spelling and prose; import-linter: no part imports one above it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell *.md *.py *.toml Makefile .ci .github benchmarks docs examples tests zennit_isnet
	$(BIN)/python -m pytest --quiet --noconftest tests/docs/test_prose.py
	$(BIN)/lint-imports

format: $(READY) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## mypy --strict
	$(BIN)/mypy

bench: $(READY) ## what the penalty costs: table, numbers and plot in benchmarks/results
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

gpu: $(READY) ## on a machine with a CUDA device, ten minutes: the tests that need one, and what the penalty costs there
	$(PYTEST) -m cuda -n 0 $(PYTEST_ARGS)
	$(BIN)/python benchmarks/run.py --rounds 5 --output benchmarks/results/gpu $(BENCH_ARGS)

docs: $(DOCS_READY) ## the documentation with its gallery, in docs/_build/html; warnings are errors
	rm -rf docs/reference/generated
	$(ONE_THREAD) $(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

dist: ## wheel and sdist in dist/, checked; TAG=v1.2.3 also checks that this is their version
	rm -rf dist $(VENV)-dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet build twine
	$(VENV)-dist/bin/python -m build
	$(VENV)-dist/bin/python -m twine check --strict dist/*
	$(VENV)-dist/bin/python .ci/check_dist.py dist $(TAG)
	$(VENV)-dist/bin/python -m pip install --quiet --no-deps dist/*.whl
	$(VENV)-dist/bin/zennit-isnet --help

ci: ## everything that must pass before a change is merged, in order
	@for target in lint typecheck test test-zennit1 test-slow docs; do \
		echo "=== make $$target"; $(MAKE) --no-print-directory $$target || exit 1; \
	done

clean: ## remove the environments, caches and build products
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-dist .zennit-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
