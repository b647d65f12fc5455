# The commands of the project. `make` alone lists them.
#   PYTHON=python3.12 make env     another interpreter (3.11 or newer)
#   make test TESTS=tests/core     part of the tests
#   make test JOBS=8               so many at a time, of those that start no processes of their own
#   make attack ATTACKS="floods or bodies"
#   make fuzz SECONDS=600 DECODERS="frame token"

PYTHON ?= python3
TESTS ?= tests
JOBS ?= 2
EACH_TIME := "not soak and not attack"
# Tests of real processes, which wait for what these do: one after another, and beside nothing else.
PROCESSES := $(wildcard tests/system tests/attack)
SECONDS ?= 60
DECODERS ?=
ATTACKS ?=
BIN := .venv/bin
STAMP := .venv/.installed
COMPARE := raw$(shell PATH="$$PATH:/usr/sbin" command -v nats-server >/dev/null 2>&1 && echo ,nats)

export PYTHON

.PHONY: help env demo test check soak attack fuzz bench docs clean

help:
	@echo "make demo    a real cluster on this machine, shown at work; ends by itself"
	@echo "make test    all tests"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make bench   requests across the bus, beside a plain pyzmq program (and NATS where installed)"
	@echo "make soak    the long rounds of the tests"
	@echo "make attack  hostile peers in full, for an hour or less; writes their figures into docs/security.md"
	@echo "make fuzz    what reads others' bytes, fed with what it does not expect, for SECONDS"
	@echo "make docs    write docs/reference/ again from the code"
	@echo "make env     only .venv"
	@echo "make clean   remove .venv, caches and build products"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/env.sh
	@tools/env.sh
	@touch $@

demo: env
	@$(BIN)/zcluster demo --once

test: env
ifeq ($(TESTS),tests)
	@$(BIN)/pytest -m $(EACH_TIME) --numprocesses $(JOBS) --dist loadfile $(PROCESSES:%=--ignore=%)
	@$(BIN)/pytest -m $(EACH_TIME) $(PROCESSES)
else
	@$(BIN)/pytest -m $(EACH_TIME) $(TESTS)
endif

check: env
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/mypy tools
	@$(BIN)/lint-imports

soak: env
	@$(BIN)/pytest -m soak $(TESTS)

attack: env
	@rm -rf build/attack
	@ZCLUSTER_ATTACK_OUT=$(CURDIR)/build/attack $(BIN)/pytest -m attack -k "$(ATTACKS)" tests/attack; tests=$$?; \
	$(BIN)/python tools/attack_page.py build/attack && exit $$tests

fuzz: env
	@$(BIN)/python tests/fuzz/fuzz_run.py --seconds $(SECONDS) $(DECODERS)

bench: env
	@$(BIN)/zcluster bench dapi --compare $(COMPARE)

docs: env
	@$(BIN)/python tools/docs_reference.py

clean:
	rm -rf .venv build dist zcluster.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
