# What a person does with this checkout. Each verb makes the virtualenv first, if it has to; nothing else needs to
# be installed than Python (3.11 or newer) and make.

VENV := .venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do command -v $$name && break; done)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COVERAGE := $(BIN)/coverage
# Tests that run at once: two for each core, since many of them wait.
AT_ONCE := $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# What is tested of the source itself.
CHECKED := tests/architecture tests/typing

# Ray reports usage to its makers unless it is told not to.
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-system check bench chaos clean

help:
	@echo 'make demo         run the demonstration'
	@echo 'make test         all tests but those of "make check" and those marked "system", with the coverage floors'
	@echo 'make test-system  the tests that need the whole machine'
	@echo 'make check        format, lint, types, structure, and the examples in the documents'
	@echo 'make bench        measure'
	@echo 'make chaos        kill everything again and again for MINUTES=10, by a plan that follows from SEED='
	@echo 'make venv         make $(VENV) with everything that the other verbs need'
	@echo 'make clean        remove what the other verbs left, but $(VENV)'

venv: $(INSTALLED)

# Once per change of pyproject.toml.
$(INSTALLED): pyproject.toml
	@test -n '$(PYTHON)' || { \
	  echo 'No Python found. Install Python 3.11 or newer, or say where it is: make PYTHON=/path/to/python3.11'; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rayflow needs Python 3.11 or newer; $(PYTHON) is not. Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtualenvs; on Debian and Ubuntu its package python3-venv is missing"; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/run_demo.py

# In two sessions: a process that is in a Ray cluster gets Ray's messages into its output, and its commands find it.
# What needs no cluster runs on all cores, and covers what the floors ask for by itself; one cluster is shared by what
# needs one, unmeasured, since that makes each actor's start longer.
test: $(INSTALLED)
	@$(COVERAGE) erase
	@$(COVERAGE) run -m pytest --numprocesses $(AT_ONCE) --maxprocesses 16 --dist worksteal $(CHECKED:%=--ignore=%) \
	  -m 'not ray and not cluster and not system'; alone=$$?; \
	  $(BIN)/python -m pytest -m '(ray or cluster) and not system'; status=$$?; \
	  $(COVERAGE) combine --quiet && $(COVERAGE) report; \
	  exit $$((alone > status ? alone : status))
	@$(BIN)/python tests/coverage_floors.py

# pytest answers 5 when no test was selected.
test-system: $(INSTALLED)
	@$(BIN)/python -m pytest -m system; status=$$?; \
	  if [ $$status -eq 5 ]; then echo 'There are no system tests.'; exit 0; fi; \
	  exit $$status

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(CHECKED)

# Ray runs workers at nice 15, where any other load on the machine moves the figures.
bench: export RAY_worker_niceness := 0
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# See tests/faults/chaos/README.md.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.faults.chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10)

clean:
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build demo-output dist htmlcov
	find benchmarks examples rayflow tests -name __pycache__ -prune -exec rm -rf {} +
