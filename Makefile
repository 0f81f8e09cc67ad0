# Commands for this checkout. Each target creates the virtualenv first, if it does not exist. Only Python (3.11 or
# newer) and make must be installed.

VENV := .venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do command -v $$name && break; done)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COVERAGE := $(BIN)/coverage
# Test processes: two for each core, since many tests wait.
AT_ONCE := $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# Tests of the source itself.
CHECKED := tests/architecture tests/typing

# Ray sends usage statistics unless this is 0.
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-system check structure bench chaos clean

help:
	@echo 'make demo         run the demonstration'
	@echo 'make test         run all tests except those of "make check" and "make test-system"; check the coverage floors'
	@echo 'make test-system  run the tests that need the whole machine'
	@echo 'make check        check format, lint, types, architecture, and the examples in the documents'
	@echo 'make structure    print the sizes of the package, its imports, and the files on the path of one step'
	@echo 'make bench        run the benchmarks'
	@echo 'make chaos        inject faults for MINUTES=10 minutes, by a plan made from SEED=N'
	@echo 'make venv         create $(VENV) with everything that the other targets need'
	@echo 'make clean        remove what the other targets created, except $(VENV)'

venv: $(INSTALLED)

# Once per change of pyproject.toml.
$(INSTALLED): pyproject.toml
	@test -n '$(PYTHON)' || { \
	  echo 'No Python found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11'; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rayflow needs Python 3.11 or newer; $(PYTHON) is older. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtualenvs; on Debian and Ubuntu its package python3-venv is missing"; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/run_demo.py

# Two sessions, since a process in a Ray cluster prints Ray's messages, and commands of the tests would find that
# cluster. Tests without a cluster run on all cores; they alone must reach the coverage floors. The others share one
# cluster, without coverage, which would slow down the start of each actor.
test: $(INSTALLED)
	@$(COVERAGE) erase
	@$(COVERAGE) run -m pytest --numprocesses $(AT_ONCE) --maxprocesses 16 --dist worksteal $(CHECKED:%=--ignore=%) \
	  -m 'not ray and not cluster and not system'; alone=$$?; \
	  $(BIN)/python -m pytest -m '(ray or cluster) and not system'; status=$$?; \
	  $(COVERAGE) combine --quiet && $(COVERAGE) report; \
	  exit $$((alone > status ? alone : status))
	@$(BIN)/python tests/coverage_floors.py

# pytest exits with 5 when no test was selected.
test-system: $(INSTALLED)
	@$(BIN)/python -m pytest -m system; status=$$?; \
	  if [ $$status -eq 5 ]; then echo 'There are no system tests.'; exit 0; fi; \
	  exit $$status

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(CHECKED)

structure: $(INSTALLED)
	@$(BIN)/python -m tests.architecture.structure

# Ray runs workers at nice 15, where other load on the machine would change the figures.
bench: export RAY_worker_niceness := 0
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# See tests/faults/chaos/README.md.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.faults.chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10)

clean:
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build demo-output dist htmlcov
	find benchmarks examples rayflow tests -name __pycache__ -prune -exec rm -rf {} +
