# The environment is made once and again only when pyproject.toml changes.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3

.PHONY: demo test slow faults check ui bench bench-live bench-scale screenshots clean

demo: $(STAMP)
	$(BIN)/sigmasearch search search_spaces/digits.yaml

# Two processes, a file to one of them: each has a Ray of its own, and one thread, on two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not fault and not slow" -n 2 --dist loadfile

# What takes minutes by itself: every command of the documents, a compiled network, a network trained anew. CI runs it.
slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not fault" --durations=0

# The long ones: processes, nodes, servers and disks that go away, for real.
faults: $(STAMP)
	$(BIN)/python -m pytest tests/faults --durations=0

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r pipeline reports baselines search_spaces
	$(BIN)/python -m tests.audit

ui: $(STAMP)
	$(BIN)/sigmasearch ui

bench: $(STAMP)
	$(BIN)/python -m pytest tests/performance --benchmark-only -o addopts=

# Ten live searches beside ten with every trial at full size: half an hour of two cores.
bench-live: $(STAMP)
	$(BIN)/python -m tests.performance.live_cost

# A thousand virtual workers, ten thousand trials: about half an hour, most of it the driver's.
bench-scale: $(STAMP)
	$(BIN)/python -m tests.performance.scale --workers 1000 --trials 10000

# Pictures of the report and of the leaderboard, for docs/: needs Chromium, and the study of `make demo`.
screenshots: $(STAMP)
	$(BIN)/python -m tests.screenshots

clean:
	rm -rf $(VENV) runs

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
# k-diffusion without what it requires: wandb, kornia, clip and more, for training. tests/peers needs its sampling alone.
	$(BIN)/python -m pip install --quiet --no-deps "k-diffusion==0.1.1.post1"
	touch $(STAMP)
