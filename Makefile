# make demo    train the digits sweep, print the clones, draw the figure   (first run installs: a few minutes)
# make test    the tests, in minutes       make test-slow  the long ones
# make lint    formatting, lint and types  make bench      the benchmarks
# make clean   remove what make made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= .

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/.demo
	@$(BIN)/actstore demo $(DEMO_DIR)

# A file of tests a core, one thread each: more would wait for each other. A file's tests share what
# its fixtures record, so they stay together.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" \
	  -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "actstore needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# A stamp a set of extras: nothing is installed again until pyproject.toml changes.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV): PyTorch is large, a few minutes the first time"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,plot]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV): PyTorch is large, a few minutes the first time"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.demo $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
