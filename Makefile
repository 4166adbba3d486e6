# Two commands from a fresh clone do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart test quality check format test-golden test-onnx test-transformers4 test-lerobot test-tfds test-wheel test-video fuzz \
        chaos clean

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

# The tests of a file stay in one worker, because they share fixtures that are slow to make. The packages are named for
# their doctests.
test: $(VENV)/.dev  ## Run the tests and the doctests
	$(BIN)/python -m pytest -q -n auto --dist loadfile --doctest-modules tests lara_tokenizer policy/lara_policy cli/lara_tok

quality: $(VENV)/.dev  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: quality test  ## Quality and tests: what CI runs

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

test-golden: $(VENV)/.dev  ## Opt-in: outputs equal those of another revision, BASE=<rev> (about 15 minutes)
	tests/golden/golden.sh $(BIN)/python $(BASE)

test-transformers4: $(VENV)/.dev  ## Opt-in: checkpoints load under transformers 4.57 with equal codes (builds an environment)
	tests/compat/transformers4.sh $(BIN)/python

test-onnx: $(VENV)/.dev  ## Opt-in: an exported ONNX file gives the codes of torch (installs the extra onnx)
	$(PIP) -e '.[onnx]'
	$(BIN)/python -m pytest -q tests/deploy

test-lerobot: $(VENV)/.dev  ## Opt-in: lerobot 0.3 and 0.6 share our datasets, 0.6 trains policies with LARA (builds environments)
	tests/compat/lerobot.sh $(BIN)/python

test-tfds: $(VENV)/.dev  ## Opt-in: RLDS sets written by tensorflow-datasets read the same here (builds an environment)
	tests/compat/tfds.sh $(BIN)/python

test-wheel: $(VENV)/.dev  ## Opt-in: README's commands run from the wheel alone, in an empty environment (builds one)
	tests/compat/wheel.sh $(BIN)/python

test-video: $(VENV)/.dev  ## Opt-in: every pair of codec and container, every order of reading, every decoder (about 10 minutes)
	$(BIN)/python tests/video_matrix.py

fuzz: $(VENV)/.dev  ## Opt-in: 3,000 damaged and hostile inputs through the real commands; SEED=, COUNT=, KIND= (about 15 minutes)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seed $(or $(SEED),1) --count $(or $(COUNT),3000) $(if $(KIND),--kind $(KIND))

chaos: $(VENV)/.dev  ## Opt-in: 50 kills, full disks, damaged jobs, replaced sources, each to equal bytes; SEED= (about 12 minutes)
	PYTHONPATH=tests $(BIN)/python -m chaos --seed $(or $(SEED),1)

clean:  ## Remove the environment and what quickstart made
	rm -rf $(VENV) quickstart dist build
