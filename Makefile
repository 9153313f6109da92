# `make demo` and `make test` work on a fresh machine: each sets up .venv first, when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo

.PHONY: setup demo test test-slow lint lock clean

setup: .venv/installed

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

demo: setup
	$(BIN)/python prepare_data.py demo --output data/demo --overwrite

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock:  # needs uv: its lock is valid for Linux and macOS at once
	uv pip compile --quiet --universal --python-version 3.11 --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv data/demo models/demo $(DEMO)
