# Every command runs in .venv, which is created when it is first needed. `make help` lists the targets.
# Variables:
#   CONFIG   config file of the experiment
#   WORKDIR  folder or gs://bucket/path for everything that the run writes
#   ARGS     more flags for the program
#   PYTHON   Python that creates .venv
#   HAS      hardware of this machine: cpu, gpu or tpu; detected unless it is set
#   EXTRA    packages to install: TensorFlow for cpu, gpu or tpu, or JAX for jax-gpu or jax-tpu; by default,
#            TensorFlow for HAS, or JAX on a TPU that TensorFlow cannot use
PYTHON  ?= python3
CONFIG  ?= configs/emoji32.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS    ?=
FOUND   := $(shell launch/tpu_host.sh choose-extra || \
	{ nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo gpu || echo cpu; })
HAS     := $(FOUND:jax-%=%)
EXTRA   ?= $(if $(filter jax-$(HAS),$(FOUND)),$(FOUND),$(HAS))

EXTRAS  := cpu gpu tpu jax-gpu jax-tpu
$(if $(filter $(EXTRA),$(EXTRAS)),,$(error EXTRA is '$(EXTRA)'; it must be one of $(EXTRAS)))

# The user's values reach the programs unchanged, through environment variables: `value` and `unexport`
# keep make from expanding a $ in them, and the quotes in the recipes keep the shell from doing so.
export T2I_CONFIG  = $(CONFIG)
export T2I_WORKDIR = $(WORKDIR)
export T2I_PROMPT := $(value PROMPT)
export T2I_FROM   := $(value FROM)
export T2I_TO     := $(value TO)
export T2I_OUTPUT := $(value OUTPUT)
export T2I_IMAGE  := $(value IMAGE)
unexport CONFIG WORKDIR ARGS PROMPT FROM TO OUTPUT IMAGE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PY    := .venv/bin/python
READY := .venv/.ready-$(EXTRA)
DEV   := .venv/.dev-$(EXTRA)
EVALUATE := .venv/.evaluate-$(EXTRA)
# ARGS can choose another engine.
ENGINE := $(if $(filter jax-%,$(EXTRA)),jax,tensorflow)

.NOTPARALLEL:
.PHONY: help train train-gpu train-tpu sample interpolate edit evaluate doctor bench test test-slow test-killed test-clip test-urls \
	test-beam test-old-keras test-tpu-compile lint docs format clean stale need-tpu need-prompt need-from-to need-image

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

train: $(READY) ## train CONFIG (configs/emoji32.py) into WORKDIR (runs/emoji32); repeat to resume
ifeq ($(HAS)$(EXTRA),cpucpu)
	@echo "No GPU found (nvidia-smi lists none); training on the CPU."
endif
	@$(PY) launch/train.py --engine=$(ENGINE) "--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

train-gpu: train ## same as make train

# A SIGTERM makes train.py save a checkpoint and stop. Without exec, it would kill the shell and make.
train-tpu: need-tpu $(READY) ## train CONFIG into WORKDIR (gs://...) on this TPU VM; see docs/tpu.md
	@exec launch/tpu_host.sh run $(ENGINE) $(PY) launch/train.py --engine=$(ENGINE) --strategy=tpu \
		"--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

sample: need-prompt $(READY) ## draw PROMPT="a red heart" with the model in WORKDIR [OUTPUT=x.png]
	@$(PY) launch/sample.py --engine=$(ENGINE) "--workdir=$$T2I_WORKDIR" $${T2I_PROMPT:+"--prompt=$$T2I_PROMPT"} \
		$${T2I_OUTPUT:+"--output=$$T2I_OUTPUT"} $(ARGS)

interpolate: need-from-to $(READY) ## interpolate between the prompts FROM="..." and TO="..." [OUTPUT=x.png or x.gif]
	@$(PY) launch/interpolate.py --engine=$(ENGINE) "--workdir=$$T2I_WORKDIR" \
		$${T2I_FROM:+"--prompt=$$T2I_FROM"} $${T2I_TO:+"--prompt=$$T2I_TO"} \
		$${T2I_OUTPUT:+"--output=$$T2I_OUTPUT"} $(ARGS)

edit: need-image $(READY) ## change IMAGE=x.png towards PROMPT="a green heart" [OUTPUT=y.png]; ARGS=--help lists other edits
	@$(PY) launch/edit.py --engine=$(ENGINE) "--workdir=$$T2I_WORKDIR" $${T2I_IMAGE:+"--image=$$T2I_IMAGE"} \
		$${T2I_PROMPT:+"--prompt=$$T2I_PROMPT"} $${T2I_OUTPUT:+"--output=$$T2I_OUTPUT"} $(ARGS)

evaluate: $(EVALUATE) ## evaluate the model in WORKDIR: writes WORKDIR/report
	@$(PY) launch/evaluate.py --engine=$(ENGINE) "--workdir=$$T2I_WORKDIR" $(ARGS)

doctor: $(READY) ## check whether CONFIG can train into WORKDIR on this machine, and suggest fixes
	@$(PY) launch/doctor.py --engine=$(ENGINE) "--config=$$T2I_CONFIG" "--workdir=$$T2I_WORKDIR" $(ARGS)

bench: $(READY) ## measure the speed of a training step of CONFIG
	@$(PY) launch/bench.py --engine=$(ENGINE) "--config=$$T2I_CONFIG" $(ARGS)

# Two processes, because a test mostly keeps one core busy and sometimes waits for a subprocess.
test: $(DEV) ## run the quick tests
	@$(PY) -m pytest -n 2 --dist worksteal \
		-m "not slow and not clip and not urls and not beam and not tpu_compile" $(ARGS)

test-slow: $(DEV) ## run the slow tests (minutes to hours)
	@$(PY) -m pytest -m "slow and not clip and not urls and not beam and not tpu_compile" --timeout=0 $(ARGS)

test-killed: $(DEV) ## check that 180 runs killed with SIGKILL and resumed end with the same weights (hours)
	@$(PY) -m pytest -s -m slow --timeout=0 tests/run/test_killed.py $(ARGS)

# torch-fidelity installs a package `tests`, which would hide ours.
test-clip: $(DEV) ## run the tests that need open_clip and torch (installs them, about 5 GB)
	@$(PY) -m pip install -q -e ".[$(EXTRA),dev,clip]"
	@$(PIP) --upgrade --no-deps --target .venv/torch-fidelity "torch-fidelity>=0.4,<0.5"
	@rm -rf .venv/torch-fidelity/tests
	@PYTHONPATH=.venv/torch-fidelity $(PY) -m pytest -m clip $(ARGS)

# Keras 3.12 is the newest for Python 3.10. This target tests it on any Python.
test-old-keras: $(DEV) ## test the models and a training step with the oldest Keras that setup.py allows
	@$(PIP) --upgrade --no-deps --target .venv/old-keras "keras==3.12.*"
	@PYTHONPATH=.venv/old-keras $(PY) -m pytest tests/models tests/step tests/engines/tensorflow/test_train_loop.py $(ARGS)

test-urls: $(DEV) ## run the tests that need img2dataset (installs it)
	@$(PIP) -e ".[$(EXTRA),dev,urls]"
	@$(PY) -m pytest -m urls $(ARGS)

test-beam: $(DEV) ## run the tests that need apache-beam (installs it)
	@$(PIP) -e ".[$(EXTRA),dev,beam]"
	@$(PY) -m pytest -m beam $(ARGS)

test-tpu-compile: $(DEV) ## run the tests that compile for a TPU without having one (installs its compiler, 1 GB)
	@$(PY) -m pytest -m tpu_compile --timeout=900 $(ARGS)

lint: $(DEV) ## run ruff and shellcheck
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/shellcheck launch/*.sh

docs: $(DEV) ## regenerate docs/config.md and the table of figures in docs/evaluation.md from the code
	@$(PY) -m tools.describe_config
	@$(PY) -m tools.describe_figures

format: $(DEV) ## format the code and fix what ruff can fix
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove .venv and caches, but not runs/
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-tpu:
	@[ "$(HAS)" = tpu ] || { echo "make train-tpu: this machine has no TPU;" \
		"see docs/tpu.md for how to get one, or run make train to train here" >&2; exit 1; }

# ARGS can replace the prompts, as in ARGS=--label=7.
need-prompt:
	@[ -n "$${T2I_PROMPT}$(if $(value ARGS),x)" ] \
		|| { echo 'make sample: set PROMPT, as in PROMPT="a red heart"' >&2; exit 1; }

need-from-to:
	@{ [ -n "$$T2I_FROM" ] && [ -n "$$T2I_TO" ]; } || [ -n "$(if $(value ARGS),x)" ] \
		|| { echo 'make interpolate: set FROM and TO, as in FROM="apple" TO="pizza"' >&2; exit 1; }

need-image:
	@[ -n "$${T2I_IMAGE}$(if $(value ARGS),x)" ] \
		|| { echo 'make edit: set IMAGE and PROMPT, as in IMAGE=x.png PROMPT="a green heart"' >&2; exit 1; }

# .venv/.ready-EXTRA and .venv/.dev-EXTRA are stamps. They are written when everything is installed, and
# contain the path of the checkout. If a .venv that make created has no valid stamp (because make was
# interrupted, the checkout was moved, EXTRA is another one, or the Python is gone), it is created
# again. If the stamp is older than setup.py, the packages are updated. A .venv that the user created is
# never removed.
OURS  := .venv/.made-by-make
STALE := $(shell [ -x $(PY) ] && [ "`cat $(READY) 2>/dev/null`" = "`pwd`" ] || echo stale)
PIP   := $(PY) -m pip install $$([ -t 2 ] || echo -qq)

$(READY): setup.py $(STALE)
	@if [ -n "$(STALE)" ] && [ -e $(OURS) ]; then rm -rf .venv; fi
	@rm -f .venv/.ready-* .venv/.dev-* .venv/.evaluate-*
	@[ -x $(PY) ] || $(PYTHON) -c 'import sys; \
	    sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo "$(PYTHON) is not Python 3.10 to 3.13 (`$(PYTHON) --version 2>&1 | tail -1`);" \
	        "set PYTHON, as in: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) does not have the venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@[ -x $(PY) ] || { mkdir -p .venv && touch $(OURS) && $(PYTHON) -m venv .venv; }
	@echo "Installing the packages for $(EXTRA) into .venv. The first time, this takes a few minutes."
	@$(PIP) --upgrade "pip>=25"
	@$(PIP) -e ".[$(EXTRA)]"
	@pwd > $@

$(EVALUATE): $(READY)
	@echo "Installing the packages for evaluations into .venv."
	@$(PIP) -e ".[$(EXTRA),evaluate]"
	@pwd > $@

$(DEV): $(READY)
	@echo "Installing the packages for the tests into .venv."
	@$(PIP) -e ".[$(EXTRA),dev]"
	@pwd > $@
