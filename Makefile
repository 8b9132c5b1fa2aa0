# Everything from nothing: a virtual environment in .venv, then the command. Nothing outside this folder and the cache is touched.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SEED   ?= 0

.PHONY: demo test check parity docs bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runs ## train a real model on this machine and measure what it learned
	$(BIN)/corollary demo --seed $(SEED) $(ARGS)

test: $(VENV)/.tests ## the whole CPU suite
	bash scripts/browser.sh
	bash scripts/sandbox.sh
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.tests ## formatting, lint, types, tests, doctests
	$(BIN)/ruff format --check src tests benchmarks scripts docs/_ext docs/conf.py
	$(BIN)/ruff check src tests benchmarks scripts docs/_ext docs/conf.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(MAKE) test

parity: ## a step of each loss against TRL's, in an environment of its own
	PYTHON=$(PYTHON) bash scripts/parity.sh $(ARGS)

docs: $(VENV)/.docs ## the book, every page of it run, to docs/_build/html; reads without a network
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.runs ## tokens per second and seconds per step on this machine, by phase
	$(BIN)/python benchmarks/step.py

clean: ## remove the virtual environment
	rm -rf $(VENV) .venv-parity

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) must be Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }

$(VENV)/.runs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.runs

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
