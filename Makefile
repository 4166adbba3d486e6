# Two commands from a fresh clone do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart test check format test-transformers4 test-lerobot test-tfds clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 24

# One marker a set of extras: each target installs what it needs, in either order, and only once.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.base: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e '.[dev,sim,decord]'
	touch $@ $(VENV)/.base

quickstart: $(VENV)/.base  ## Install, tokenize the sample videos, show the result
	$(BIN)/lara-tok encode samples --out quickstart/tokens.parquet
	$(BIN)/lara-tok info quickstart/tokens.parquet

# A file's tests stay in one worker: they share what is slow to make.
TESTS := $(BIN)/python -m pytest -q -n auto --dist loadfile

test: $(VENV)/.dev  ## Run the test suite
	$(TESTS)

check: $(VENV)/.dev  ## Format, lint, types and tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS)

format: $(VENV)/.dev  ## Rewrite the code in the house format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

test-transformers4: $(VENV)/.dev  ## Opt-in: checkpoints load under transformers 4.57 with equal codes (builds an environment)
	tests/compat/transformers4.sh $(BIN)/python

test-lerobot: $(VENV)/.dev  ## Opt-in: lerobot 0.3 and 0.6 share our datasets, 0.6 trains policies with LARA (builds environments)
	tests/compat/lerobot.sh $(BIN)/python

test-tfds: $(VENV)/.dev  ## Opt-in: RLDS sets written by tensorflow-datasets read the same here (builds an environment)
	tests/compat/tfds.sh $(BIN)/python

clean:  ## Remove the environment and what quickstart made
	rm -rf $(VENV) quickstart dist build
