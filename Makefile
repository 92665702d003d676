# The environment is made once and again only when pyproject.toml changes.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3

.PHONY: demo test check ui bench bench-live clean

demo: $(STAMP)
	$(BIN)/sigmasearch search search_spaces/digits.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(STAMP)
	$(BIN)/sigmasearch ui

bench: $(STAMP)
	$(BIN)/python -m pytest tests/performance --benchmark-only -o addopts=

# Ten live searches beside ten with every trial at full size: half an hour of two cores.
bench-live: $(STAMP)
	$(BIN)/python -m tests.performance.live_cost

clean:
	rm -rf $(VENV) runs

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
# k-diffusion without what it requires: wandb, kornia, clip and more, for training. tests/peers needs its sampling alone.
	$(BIN)/python -m pip install --quiet --no-deps "k-diffusion==0.1.1.post1"
	touch $(STAMP)
