# Everything a person does with a checkout. `make` alone prints this list.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check nightly docs clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## make .venv with the local engine and the test tools, and fetch the small model
	@$(BIN)/archwright models fetch SmolLM2-135M-Instruct --json >/dev/null

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[local,postgres,dev]'
	@touch $(INSTALLED)

demo: install  ## the main job: plan, bring up, ask, measure, compare, take down
	@$(BIN)/python examples/desk/demo.py

test: check  ## every test that must hold at each commit
	@$(BIN)/python -m pytest -m 'not nightly'

check: install  ## lint, strict types, house rules
	@$(BIN)/ruff format --check -q src tests docs examples bench
	@$(BIN)/ruff check -q src tests docs examples bench
	@$(BIN)/mypy src tests examples docs
	@$(BIN)/python -m pytest tests/test_house.py

nightly: install  ## the large suites
	@$(BIN)/python -m pytest -m nightly

docs: install  ## write the generated documents
	@$(BIN)/python docs/generate.py

clean:  ## remove what make made
	rm -rf .venv .cache demo
