# Each target makes its own .venv when there is none, and is safe to run again.
#
#   make demo PYTHON=python3.12            another Python
#   make demo TORCH='torch==2.12.*'        another torch     (default: the range in pyproject.toml)
#   make demo TORCH_INDEX=https://...      another index for torch
#   make demo WHEELS=DIR                   a folder with wheels, tried before any index
#   make test WORKERS=8                    more test processes

PYTHON ?= python3
TORCH ?=
TORCH_INDEX ?=
WHEELS ?=
WORKERS ?= 2

BIN := .venv/bin
INSTALL = $(PYTHON) tools/install.py --torch '$(TORCH)' --index '$(TORCH_INDEX)' --wheels '$(WHEELS)'
SHAPES := --jaxtyping-packages=espalier,tests.shapes.check

.PHONY: help demo test test-long composed bench kills gpu-bundle docs-parts lint format clean

help:
	@echo 'make demo       train a small GPT on embedded text, sample from it, write a report (minutes, no GPU)'
	@echo 'make test       ruff, mypy --strict and the test suite (about 11 minutes on 2 cores)'
	@echo 'make test-long  the tests that take longer'
	@echo 'make bench NANOGPT=CHECKOUT LLM_C=CHECKOUT LITGPT=CHECKOUT TEXT=tinyshakespeare.txt   one script per claim'
	@echo 'make composed   1,000 models of parts put together at random: built, trained a step, decoded'
	@echo 'make kills      workers killed every few seconds: the pool, Ray, PostgreSQL (half an hour; extras ray, search)'
	@echo 'make gpu-bundle TEXT=tinyshakespeare.txt   what benchmarks/gpu.sh carries to a machine with a GPU and no network'
	@echo 'make docs-parts write docs/parts.md anew: what each part computes and costs'
	@echo 'make lint       ruff and mypy --strict alone;  make format  lets ruff mend what it can'
	@echo 'make clean      remove .venv and every cache'

demo: .venv/.demo
	@$(BIN)/espalier demo

test: lint
	@echo '== the suite, with shapes checked at run time'
	@$(BIN)/pytest -q -n $(WORKERS) -m 'not long and not compile' $(SHAPES)
	@echo '== compiled parts, without those checks (they break the graph)'
	@$(BIN)/pytest -q -n $(WORKERS) -m 'compile and not long'

test-long: .venv/.test
	@$(BIN)/pytest -q -m long

bench: .venv/.test
	@$(BIN)/python benchmarks/busy.py
	@$(BIN)/python benchmarks/start_up.py
	@$(BIN)/python benchmarks/data.py $(NANOGPT) $(TEXT)
	@$(BIN)/python benchmarks/train_step.py $(NANOGPT)
	@$(BIN)/python benchmarks/peers.py $(LLM_C:%=--llm-c %) $(LITGPT:%=--litgpt %)
	@$(BIN)/python benchmarks/decode.py $(NANOGPT)
	@$(BIN)/python benchmarks/nanogpt_parity.py $(NANOGPT)
ifneq ($(and $(NANOGPT),$(TEXT)),)
	@$(BIN)/python benchmarks/time_to_loss.py $(TEXT) $(NANOGPT)
endif
	@$(BIN)/python benchmarks/table.py

composed: .venv/.test
	@ESPALIER_COMPOSED=1000 $(BIN)/python -m pytest -q -n $(WORKERS) tests/contract/test_composed.py

kills: .venv/.test
	@PYTHONPATH=. $(BIN)/python benchmarks/kills.py

docs-parts: .venv/.test
	@$(BIN)/python tools/parts.py

gpu-bundle:
	@$(PYTHON) tools/gpu_bundle.py .gpu-bundle $(if $(TEXT),--text '$(TEXT)')

lint: .venv/.test
	@echo '== ruff, mypy --strict'
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

format: .venv/.test
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.demo: pyproject.toml tools/install.py
	@$(INSTALL) --extras plots
	@touch $@

.venv/.test: pyproject.toml tools/install.py
	@$(INSTALL) --extras test
	@touch $@ .venv/.demo
