# Every target of the project. `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
TORCH_INDEX ?=# a package index with PyTorch's CPU builds, where the usual one has only those for CUDA
EXAMPLES ?= 200# requests of each kind to each route in `make fuzz`
WORKERS ?= 3# processes of `make test`, on two cores: many tests wait; 0 runs the tests in one

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage fuzz check lint types contracts bench lock serve console clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (a few minutes the first time)" && rm -f setup.log
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@.ci/quietly setup.log "installing the requirements" $(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock
	@.ci/quietly setup.log "installing parcelwatch" $(PIP) --no-deps --no-build-isolation -e .
	@rm -f setup.log
	@touch $@

setup: $(VENV)/.ready ## install everything the project needs into .venv

demo: setup ## simulate, train, stream and watch a season; ends with a report; `make console` then shows it in a browser
	$(BIN)/parcelwatch demo

test: setup ## run every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

coverage: setup ## run every test with line coverage, which takes longer
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term

fuzz: setup ## make thousands of requests to the web server, as OpenAPI allows and in hostile bytes
	PARCELWATCH_TEST_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -s --timeout 0 tests/integration/test_fuzz.py

check: lint types contracts test ## what must pass before a change lands

lint: setup ## ruff: style and formatting
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

contracts: setup ## import-linter: who may import whom
	$(BIN)/lint-imports

bench: setup ## the benchmarks, each beside a reference implementation or a limit
	@for b in encoder streaming mcnn_seq ingest extract segmentation queries api; do echo "bench.$$b"; $(BIN)/python -m research.bench.$$b || exit 1; done

lock: setup ## write requirements.lock anew from what .venv holds (make it from an empty one)
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --all --exclude-editable | grep -vE '^(pip|wheel)=='; } \
		| sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' > requirements.lock.new && mv requirements.lock.new requirements.lock

serve: setup ## bring up the stack, then consume, monitor and serve the console until interrupted
	$(BIN)/parcelwatch stack up --broker kafka || $(BIN)/parcelwatch stack up # durable where Java and Maven are to be had
	$(BIN)/parcelwatch db upgrade
	@trap 'kill 0' INT TERM; $(BIN)/parcelwatch ingest run & $(BIN)/parcelwatch monitor run & $(BIN)/parcelwatch serve & wait

console: setup ## the season of the last demo in a browser, until interrupted
	$(BIN)/parcelwatch serve --demo

clean: ## remove what setup and runs made in this folder
	rm -rf $(VENV) setup.log reports .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
