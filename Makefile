# Everything runs in .venv, made on first use. `make help` lists the targets; their variables:
#   CONFIG   an experiment of configs/          WORKDIR  what a run writes, a folder or gs://...
#   ARGS     more flags for the program         PYTHON   the Python that makes .venv
#   EXTRA    the TensorFlow to install: cpu | gpu | tpu (what HAS says)
#   HAS      what this machine has: cpu | gpu | tpu (found out; set it if that went wrong)
PYTHON  ?= python3
CONFIG  ?= configs/emoji32.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS    ?=
EXTRA   ?= $(HAS)
HAS     := $(shell launch/tpu_host.sh has-tpu && echo tpu || \
	{ nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo gpu || echo cpu; })

$(if $(filter $(EXTRA),cpu gpu tpu),,$(error EXTRA is cpu, gpu or tpu, not '$(EXTRA)'))

# What a person typed goes to the program through the environment, as it is: `value` and
# `unexport` keep make from expanding a $, the quotes in the recipes keep the shell from it.
export T2I_CONFIG  = $(CONFIG)
export T2I_WORKDIR = $(WORKDIR)
export T2I_PROMPT := $(value PROMPT)
export T2I_FROM   := $(value FROM)
export T2I_TO     := $(value TO)
export T2I_OUTPUT := $(value OUTPUT)
unexport CONFIG WORKDIR ARGS PROMPT FROM TO OUTPUT
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PY    := .venv/bin/python
READY := .venv/.ready-$(EXTRA)
DEV   := .venv/.dev-$(EXTRA)

.NOTPARALLEL:
.PHONY: help train-gpu train-tpu sample interpolate doctor bench test test-slow test-killed test-clip test-urls \
	test-beam test-old-keras test-tpu-compile lint format clean stale need-tpu need-prompt need-from-to

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

train-gpu: $(READY) ## train CONFIG (configs/emoji32.py) into WORKDIR (runs/emoji32); again: resume
ifeq ($(EXTRA),cpu)
	@echo "No GPU found (nvidia-smi does not answer): training on the CPU."
endif
	@$(PY) launch/train.py "--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

# exec, because a shell in between would die of the SIGTERM that train.py saves on, and make with it.
train-tpu: need-tpu $(READY) ## train CONFIG into WORKDIR (gs://...) on this TPU VM: docs/tpu.md
	@exec launch/tpu_host.sh work $(PY) launch/train.py --strategy=tpu \
		"--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

sample: need-prompt $(READY) ## draw PROMPT="a red heart" with the model of WORKDIR [OUTPUT=x.png]
	@$(PY) launch/sample.py "--workdir=$$T2I_WORKDIR" $${T2I_PROMPT:+"--prompt=$$T2I_PROMPT"} \
		$${T2I_OUTPUT:+"--output=$$T2I_OUTPUT"} $(ARGS)

interpolate: need-from-to $(READY) ## go from FROM="..." to TO="..." [OUTPUT=x.png or x.gif]
	@$(PY) launch/interpolate.py "--workdir=$$T2I_WORKDIR" \
		$${T2I_FROM:+"--from_prompt=$$T2I_FROM"} $${T2I_TO:+"--to_prompt=$$T2I_TO"} \
		$${T2I_OUTPUT:+"--output=$$T2I_OUTPUT"} $(ARGS)

doctor: $(READY) ## look whether CONFIG can be trained into WORKDIR here, and what to do where not
	@$(PY) launch/doctor.py "--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

bench: $(READY) ## measure a training step of CONFIG
	@$(PY) launch/bench.py "--config=$$T2I_CONFIG" $(ARGS)

test: $(DEV) ## the tests, one after the other (they share the cores with TensorFlow's own threads)
	@$(PY) -m pytest -m "not slow and not clip and not urls and not beam and not tpu_compile" $(ARGS)

test-slow: $(DEV) ## the tests that take minutes to hours
	@$(PY) -m pytest -m "slow and not clip and not urls and not beam and not tpu_compile" --timeout=0 $(ARGS)

test-killed: $(DEV) ## runs killed with -9 at random moments, 100 on disk and 30 on gs://, end in the same bits (hours)
	@$(PY) -m pytest -s -m slow --timeout=0 tests/run/test_killed.py $(ARGS)

test-clip: $(DEV) ## the tests that need open_clip and torch (installs them, some 5 GB)
	@$(PY) -m pip install -q -e ".[$(EXTRA),dev,clip]"
	@$(PY) -m pytest -m clip $(ARGS)

# Python 3.10 gets no newer Keras than 3.12; here the same one runs on any Python.
test-old-keras: $(DEV) ## the models and a training step with the oldest Keras that setup.py allows
	@$(PIP) --upgrade --no-deps --target .venv/old-keras "keras==3.12.*"
	@PYTHONPATH=.venv/old-keras $(PY) -m pytest tests/models tests/train/test_step.py $(ARGS)

test-urls: $(DEV) ## the tests that need img2dataset (installs it)
	@$(PIP) -e ".[$(EXTRA),dev,urls]"
	@$(PY) -m pytest -m urls $(ARGS)

test-beam: $(DEV) ## the tests that need apache-beam (installs it)
	@$(PIP) -e ".[$(EXTRA),dev,beam]"
	@$(PY) -m pytest -m beam $(ARGS)

test-tpu-compile: $(DEV) ## the tests that compile for a TPU without one (installs its compiler, 1 GB)
	@$(PY) -m pytest -m tpu_compile --timeout=900 $(ARGS)

lint: $(DEV) ## ruff: rules and format; shellcheck
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/shellcheck launch/*.sh

format: $(DEV) ## let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-tpu:
	@[ "$(HAS)" = tpu ] || { echo "make train-tpu: this machine has no TPU:" \
		"docs/tpu.md says how to get one; make train-gpu trains here" >&2; exit 1; }

# ARGS may stand for the texts: --label=7, or --from_seed and --to_seed.
need-prompt:
	@[ -n "$${T2I_PROMPT}$(if $(value ARGS),x)" ] \
		|| { echo 'make sample: what? PROMPT="a red heart"' >&2; exit 1; }

need-from-to:
	@{ [ -n "$$T2I_FROM" ] && [ -n "$$T2I_TO" ]; } || [ -n "$(if $(value ARGS),x)" ] \
		|| { echo 'make interpolate: from what to what? FROM="apple" TO="pizza"' >&2; exit 1; }

# A stamp names the checkout that it was made for and is written last. A .venv of ours without it
# (interrupted, moved, of another EXTRA, its Python gone) is made again from nothing; one with an
# older stamp than setup.py is brought up to date; one that a user made is only installed into.
OURS  := .venv/.made-by-make
STALE := $(shell [ -x $(PY) ] && [ "`cat $(READY) 2>/dev/null`" = "`pwd`" ] || echo stale)
PIP   := $(PY) -m pip install $$([ -t 2 ] || echo -qq)

$(READY): setup.py $(STALE)
	@if [ -n "$(STALE)" ] && [ -e $(OURS) ]; then rm -rf .venv; fi
	@rm -f .venv/.ready-* .venv/.dev-*
	@[ -x $(PY) ] || $(PYTHON) -c 'import sys; \
	    sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo "$(PYTHON) is not a Python from 3.10 to 3.13 (`$(PYTHON) --version 2>&1 | tail -1`):" \
	        "name one that is, as in: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) lacks its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@[ -x $(PY) ] || { mkdir -p .venv && touch $(OURS) && $(PYTHON) -m venv .venv; }
	@echo "Installing TensorFlow for $(EXTRA) into .venv; the first time this takes minutes."
	@$(PIP) --upgrade "pip>=25"
	@$(PIP) -e ".[$(EXTRA)]"
	@pwd > $@

$(DEV): $(READY)
	@echo "Installing what the tests need into .venv."
	@$(PIP) -e ".[$(EXTRA),dev]"
	@pwd > $@
