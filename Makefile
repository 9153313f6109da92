# `make demo` and `make test` work on a fresh machine: each sets up .venv first, when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo

.PHONY: setup demo test test-slow bench lint lock clean

setup: .venv/installed

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

# Real content, the real programs, a few minutes: data, training, submission, score; then the same untrained.
demo: setup
	$(BIN)/python prepare_data.py demo --output data/demo --overwrite
	$(BIN)/python script_1_highres_no_ela.py --profile quick --lr 2e-3 --data-dir data/demo --models-dir models/demo
	$(BIN)/python script_1_highres_no_ela.py --profile quick --epochs 0 --data-dir data/demo --models-dir models/demo_untrained
	$(BIN)/python make_submission.py --input data/demo/test_images --models-dir models/demo_untrained \
		--output $(DEMO)/untrained/submission.csv
	$(BIN)/python evaluate.py --submission $(DEMO)/untrained/submission.csv --masks data/demo/test_masks \
		--json $(DEMO)/untrained/evaluation.json
	$(BIN)/python make_submission.py --input data/demo/test_images --models-dir models/demo \
		--output $(DEMO)/submission.csv --maps $(DEMO)/maps
	$(BIN)/python evaluate.py --submission $(DEMO)/submission.csv --masks data/demo/test_masks --maps $(DEMO)/maps \
		--json $(DEMO)/evaluation.json --report $(DEMO)/report
	@$(BIN)/python -c 'import json, sys; \
		trained, untrained = (json.load(open("$(DEMO)/" + name)) for name in ("evaluation.json", "untrained/evaluation.json")); \
		print("oF1: trained {of1:.4f}, all-authentic {of1_all_authentic:.4f}, untrained".format(**trained), "%.4f" % untrained["of1"]); \
		sys.exit(trained["of1"] <= max(trained["of1_all_authentic"], untrained["of1"]) and "the training did not help")'
	@echo "look at $(DEMO)/report/predictions.png"

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m ''

bench: setup
	$(BIN)/python -m benchmarks.rle
	$(BIN)/python -m benchmarks.process_settings

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock:  # needs uv: its lock is valid for Linux and macOS at once
	uv pip compile --quiet --universal --python-version 3.11 --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv data/demo models/demo models/demo_untrained $(DEMO)
