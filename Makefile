# Two commands: `make demo` and `make test`. Both set everything up first; set-up is idempotent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
# A run's many processes start faster with caches of its own modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-full lint setup base-model teacher-model real-models terminal-root clean-venv

demo: setup
	$(BIN)/r2v run configs/textworld_demo.yaml

# Three processes play the tests (they wait half of the time), a file each at a time; `make test TESTERS=0` plays them in one, where a breakpoint works.
TESTERS ?= 3

test: setup
	$(BIN)/pytest tests -m "not slow" --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

test-full: setup
	$(BIN)/pytest tests

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

setup: $(VENV)/.complete-$(EXTRA)

$(VENV)/.complete-$(EXTRA): pyproject.toml $(wildcard constraints*.txt overrides*.txt) scripts/setup.sh
	PYTHON=$(PYTHON) EXTRA=$(EXTRA) bash scripts/setup.sh $(VENV)
	touch $@

base-model: setup
	$(BIN)/python -m scripts.tiny_models.play --size tiny --output build/tiny.jsonl
	$(BIN)/python -m scripts.tiny_models.train --size tiny --transcripts build/tiny.jsonl --output models/textworld-tiny

# The larger one reads 16 million tokens, eight times as many: 35 minutes on two cores that have bfloat16 instructions, once its games are
# made and played; hours on others.
teacher-model: setup
	$(BIN)/python -m scripts.tiny_models.play --size small --games 4750 --episodes 6 --output build/small.jsonl
	$(BIN)/python -m scripts.tiny_models.train --size small --transcripts build/small.jsonl --steps 1000 --tokens 16384 \
		--threads 2 --workers 1 --output models/textworld-small

# Pretrained models of 135 million to 1.5 billion parameters: 1.7 GB are downloaded, and 4.4 GB stay in the cache. docs/models.md says more.
real-models: setup
	$(BIN)/r2v models fetch --all

# The prepared root of terminals (docs/environments.md); prints the folder.
terminal-root:
	python3 scripts/terminal_root.py

clean-venv:
	rm -rf $(VENV)
