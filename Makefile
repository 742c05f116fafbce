# Two commands: `make demo` and `make test`. Both set everything up first; set-up is idempotent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu

.PHONY: demo test test-full lint setup base-model clean-venv

demo: setup
	$(BIN)/r2v run configs/textworld_demo.yaml

test: setup
	$(BIN)/pytest tests -m "not slow"

test-full: setup
	$(BIN)/pytest tests

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(VENV)/.complete-$(EXTRA)

$(VENV)/.complete-$(EXTRA): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON=$(PYTHON) EXTRA=$(EXTRA) bash scripts/setup.sh $(VENV)
	touch $@

base-model: setup
	$(BIN)/python -m learners.base_model --size tiny --steps 1000 --output models/textworld-tiny
	$(BIN)/python -m learners.base_model --size small --steps 1600 --threads 2 --output models/textworld-small

clean-venv:
	rm -rf $(VENV)
