# Two commands do everything: `make demo` and `make test`. Both create the environment the first time.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
LOWEST = .venv-lowest
INTEGRATION = tests/test_canaries.py tests/run/trainer/test_attach.py tests/run/trainer/test_two_processes.py \
	tests/run/trainer/test_tasks.py tests/run/trainer/test_sft_trainer.py
# Two processes of one thread each: the tests are many, and their models tiny.
PYTEST = -m pytest -q -rs -n 2 --dist worksteal
# pip does not compile what it installs (--no-compile): most is never imported. What is imported is compiled once, and
# kept even where this variable says otherwise: Python would compile torch and transformers in each process again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-lowest test-wheel faults docs lint clean

demo: $(INSTALLED)
	$(BIN)/mixcd demo --output mixcd-demo --overwrite

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

# The canary and integration tests at the lowest versions that pyproject.toml allows; continuous integration runs it, too.
test-lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python $(PYTEST) $(INTEGRATION)

# Wheel and source archive, built, installed without extras, and run with the oldest and the newest Python here; continuous
# integration runs it, too.
test-wheel: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/wheel_install.py

# Kills the real command 100 times and alters 1,000 cache files; `make test` does a few of each.
faults: $(INSTALLED)
	MIXCD_FAULT_KILLS=100 MIXCD_FAULT_CORRUPTIONS=1000 $(BIN)/python -m pytest -q -rP -p no:cacheprovider tests/faults

# The documentation site, in `site/`; nothing is fetched.
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --no-compile --constraint constraints-lowest.txt --editable '.[bench,dev]'
	touch $@

$(INSTALLED): pyproject.toml constraints.txt demo-packages.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mixcd needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[bench,dev]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes --requirement demo-packages.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .venv-bare-* dist mixcd-demo site
