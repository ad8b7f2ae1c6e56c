# Everything a newcomer needs: `make demo` and `make test`. Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
REPO   ?= .
ONLY   ?=

.PHONY: help setup demo test test-unit faults bench check format lock clean

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/ready ## create .venv with the locked dependencies

$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gatelog needs Python 3.11 or newer; say which: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup      ## import a git history and show the whole way (REPO=path, default: this repository)
	$(BIN)/gatelog demo --repo $(REPO)

test: setup      ## the whole suite, on a real Postgres and a real Kafka that it starts and stops
	$(BIN)/pytest -n 2 --dist loadfile

test-unit: setup ## the tests that need no services, in seconds
	$(BIN)/pytest tests/unit

faults: setup    ## everything that must be survived, for long and from random seeds (as root: networks and full disks too)
	$(BIN)/pytest tests/faults tests/interleavings --long --timeout 3600

bench: setup     ## measure against baselines (ONLY=append, ROUNDS=3, FULL=1); JSON and pictures in bench/out
	$(BIN)/python -m bench $(ONLY)

check: setup     ## formatting, lint, types, dependency direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup      ## write requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url \
		--no-header --python-version 3.11 -o requirements.lock

clean:           ## stop the local services and remove what make made
	-$(BIN)/gatelog down
	rm -rf $(VENV) .gatelog bench/out
