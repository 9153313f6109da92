# `make demo` and `make test` work on a fresh machine: each sets up .venv first, when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo

# make train DATA=data/mine PROFILE=quick FLAGS="--encoder-weights auto" FLAGS_hard_negative="--rounds 3"
# make fit DATA=data/mine FLAGS_fit="--tta flips"          One MODELS folder a data set; to train a member again, delete
# make submission DATA=data/mine FLAGS_submission="..."    its files there. Fewer members: MEMBERS="highres_no_ela ela"
DATA ?= data
MODELS ?= models
PROFILE ?= full
FOLDS ?= 5
FOLD ?= 0
FLAGS ?=
INPUT ?= $(DATA)/test_images
OUTPUT ?= submission.csv

.PHONY: setup demo train folds fit submission status test test-slow bench lint lock clean

setup: .venv/installed

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@touch $@

# A member is trained when its metrics are there; a run that was broken off goes on. `make -j2` trains side by side.
MEMBERS ?= highres_no_ela hard_negative high_recall enhanced_aug ela small_forgery_specialist
empty :=
target_dir = $(subst $(empty) $(empty),\ ,$(MODELS))
member = $(patsubst %_metrics.json,%,$(lastword $(subst /, ,$@)))
train = $(BIN)/python $(1) --data-dir "$(DATA)" --models-dir "$(MODELS)" --profile $(PROFILE) --folds $(FOLDS) \
	--fold $(FOLD) $(if $(wildcard $(target_dir)/$(member)_last.pth),--resume) $(FLAGS) $(FLAGS_$(member))

train: $(MEMBERS:%=$(target_dir)/%_metrics.json)

$(target_dir)/highres_no_ela_metrics.json: | setup
	$(call train,script_1_highres_no_ela.py)
$(target_dir)/hard_negative_metrics.json: | $(target_dir)/highres_no_ela_metrics.json
	$(call train,script_2_hard_negative_mining.py)
$(target_dir)/high_recall_metrics.json: | $(target_dir)/highres_no_ela_metrics.json
	$(call train,script_3_hard_fn_mining.py)
$(target_dir)/enhanced_aug_metrics.json: | setup
	$(call train,script_4_enhanced_augmentation.py)
$(target_dir)/ela_metrics.json: | setup
	$(call train,script_5_ela.py)
$(target_dir)/small_forgery_specialist_metrics.json: | setup
	$(call train,script_6_small_forgery_specialist.py)

folds: train  # the other folds too, for a fit on all images; a submission averages them
	$(if $(filter-out 0,$(FOLD)),$(error make folds trains all folds: leave FOLD=$(FOLD) out))
	for fold in $$(seq 1 $$(($(FOLDS) - 1))); do \
		$(MAKE) train MODELS="$(MODELS)/fold_$$fold" FOLD=$$fold || exit 1; done

fit: train
	$(BIN)/python fit_ensemble.py --data-dir "$(DATA)" --models-dir "$(MODELS)" $(FLAGS_fit)

submission: train
	$(BIN)/python make_submission.py --input "$(INPUT)" --models-dir "$(MODELS)" --output "$(OUTPUT)" $(FLAGS_submission)

status: setup  # what is trained, with which score, what is missing, and what to run next
	@$(BIN)/python -m common.ensemble.status --data-dir "$(DATA)" --models-dir "$(MODELS)" --profile $(PROFILE)

# Within a minute: what is found in six examples without any training. Then, in a few minutes, a network of one's own:
# data, training, submission, score; the network alone, and untrained.
demo: setup
	$(BIN)/python prepare_data.py examples --output data/examples --overwrite
	$(BIN)/python explain.py data/examples/test_images --output $(DEMO)/examples
	$(BIN)/python explain.py data/examples/test_images/blot_with_a_pasted_piece.png --altered \
		--output $(DEMO)/examples/blot_altered.png
	@echo "look at $(DEMO)/examples; your own images: python explain.py figure.png"
	$(BIN)/python prepare_data.py demo --output data/demo --overwrite
	$(BIN)/python script_1_highres_no_ela.py --profile quick --epochs 5 --overwrite --data-dir data/demo \
		--models-dir models/demo
	$(BIN)/python script_1_highres_no_ela.py --profile quick --epochs 0 --overwrite --data-dir data/demo \
		--models-dir models/demo_untrained
	for name in demo demo_untrained; do \
		$(BIN)/python make_submission.py --allow-missing --no-copy-move --input data/demo/test_images \
			--models-dir models/$$name --output $(DEMO)/$$name/submission.csv || exit 1; \
		$(BIN)/python evaluate.py --submission $(DEMO)/$$name/submission.csv --masks data/demo/test_masks \
			--json $(DEMO)/$$name/evaluation.json || exit 1; done
	$(BIN)/python make_submission.py --allow-missing --input data/demo/test_images --models-dir models/demo \
		--output $(DEMO)/submission.csv --maps $(DEMO)/maps
	$(BIN)/python evaluate.py --submission $(DEMO)/submission.csv --masks data/demo/test_masks --maps $(DEMO)/maps \
		--json $(DEMO)/evaluation.json --report $(DEMO)/report
	@$(BIN)/python -c 'import json, sys; \
		names = ("", "demo/", "demo_untrained/"); \
		joined, trained, untrained = (json.load(open("$(DEMO)/" + name + "evaluation.json")) for name in names); \
		print("oF1: all-authentic {of1_all_authentic:.4f}, untrained %.4f, trained {of1:.4f}, with copy-move evidence %.4f" \
			.format(**trained) % (untrained["of1"], joined["of1"])); \
		sys.exit(trained["of1"] <= max(trained["of1_all_authentic"], untrained["of1"]) and "the training did not help")'
	@echo "look at $(DEMO)/report/report.html"

# The page in the browser: drop figures, look, correct, hand over. make app FLAGS_app="--port 8000 --keep data/reviewed"
.PHONY: app
app: setup
	$(BIN)/python app.py --models-dir "$(MODELS)" $(FLAGS_app)

# Two processes of a thread each, a file of tests in one: most of the time goes into starting programs.
test test-slow: export OMP_NUM_THREADS = 1

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ''

bench: setup
	$(BIN)/python -m benchmarks.rle
	$(BIN)/python -m benchmarks.process_settings
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.parts
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.million --images 20000
	$(BIN)/python -m benchmarks.copy_move speed
	$(BIN)/python -m benchmarks.video_decode

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/codespell

lock:  # needs uv: its lock is valid for Linux and macOS at once
	uv pip compile --quiet --universal --python-version 3.11 --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv data/examples data/demo models/demo models/demo_untrained $(DEMO)

.PHONY: fuzz audit

# Files of all kinds, changed at random, for the readers of the programs; what goes wrong is kept in outputs/fuzz.
SECONDS ?= 300
fuzz: setup
	$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS) $(FLAGS_fuzz)

# Known vulnerabilities of the pinned packages, and risky calls in the code. The tools have an environment of their own.
AUDIT := .venv/audit
audit: setup
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check "bandit[toml]==1.9.4" "pip-audit==2.10.1"
	$(AUDIT)/bin/bandit --quiet --severity-level medium --configfile pyproject.toml --recursive common *.py
	$(BIN)/python -m benchmarks.audit $(AUDIT)/bin/pip-audit

.PHONY: kaggle

# make kaggle OWNER=my-kaggle-name MODELS=models/mine: a data set and a notebook for Kaggle, in outputs/kaggle.
kaggle: setup
	$(if $(OWNER),,$(error make kaggle needs your user name on Kaggle: make kaggle OWNER=name))
	$(BIN)/python pack_kaggle.py --owner "$(OWNER)" --models-dir "$(MODELS)" $(FLAGS_kaggle)
