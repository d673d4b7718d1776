# Two commands matter: `make reproduce` regenerates every table and figure, `make test` runs the
# tests. Both create or update the virtual environment first, and both can be run again.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= lab
CORPUS ?= phantom
# Notebooks executed at the same time; each trains on one core.
JOBS ?= 2
# Seeds of every model; with more than one, tables show mean and standard deviation.
SEEDS ?= 1
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.r2genkit-ready

.PHONY: help reproduce test lab lint format clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce            execute all notebooks, write figures/ and data/results/ (PROFILE=smoke for a first look, SEEDS=3 for mean and SD)"
	@echo "make test                 run the tests"
	@echo "make lab                  open JupyterLab on the notebooks"
	@echo "make lint / make format   check / apply code style"
	@echo "make clean                remove caches, runs and the virtual environment's marker; distclean removes .venv too"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version 2>&1): run make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

reproduce: $(READY)
	$(BIN)/python -m r2genkit reproduce --profile $(PROFILE) --corpus $(CORPUS) --jobs $(JOBS) --seeds $(SEEDS) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs data/cache build dist .pytest_cache .ruff_cache .hypothesis *.egg-info $(READY)
	find r2genkit tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
