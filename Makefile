# Everything one does with a checkout. `make app` on a fresh machine ends at the page; the environment
# lives in .venv and is touched again only when pyproject.toml, constraints.txt or TORCH change.

PYTHON ?= python3
PIN := $(shell sed -n '/^torch==/p' constraints.txt)

# Which torch: the pinned one, or what was chosen last, or `make app TORCH=torch` for the newest.
TORCH ?= $(or $(shell cat .venv/torch 2>/dev/null),$(PIN))

# Arguments for the page and the tests: make app ARGS="--port 8000", make test ARGS="-k spec".
ARGS ?=

# Compiling all of torch and diffusers to bytecode takes longer than the part that is ever imported,
# which is compiled when it first is; kept, too, where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE
PIP := .venv/bin/python -m pip --disable-pip-version-check install --no-compile

# Without the pin when another torch is wanted; its companions keep theirs.
define install
	sed 's|^torch==.*|$(TORCH)|' constraints.txt > .venv/constraints.txt
	$(PIP) $(if $(filter $(PIN),$(TORCH)),,--upgrade) '$(TORCH)' -e '$(1)' -c .venv/constraints.txt
	$(if $(filter $(PIN),$(TORCH)),rm -f .venv/torch,echo '$(TORCH)' > .venv/torch)
	echo '$(TORCH)' > $@
endef

# A stamp holds the torch it was installed with: another one makes it stale.
stale = $(if $(filter $(TORCH),$(shell cat $(1) 2>/dev/null)),,stale)

.PHONY: app setup test lint format pins clean help stale

app: .venv/ready  ## set up everything and open the app on the embedded model
	.venv/bin/python -m ui $(ARGS)

setup: .venv/tried  ## only the environment, in .venv

test: .venv/ready-test  ## set up everything and run the tests
	.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/ready-dev  ## style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv/ready-dev  ## put the code in order
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

pins: .venv/ready-test .venv/ready-dev  ## write constraints.txt anew from what is installed
	( sed -n '/^#/p' constraints.txt && echo '$(PIN)' && \
	  .venv/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | sed -n '/^torch=\|^triton\|^nvidia\|^cuda/d; s/^\([^@+]*==[^+]*\).*/\1/p' ) > .venv/pins
	mv .venv/pins constraints.txt

clean:  ## remove the environment and every cache (not what you rendered)
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pipeline scripts ui tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 16

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) \
	    and f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt $(call stale,.venv/ready) | .venv/bin/python
	$(call install,.)

.venv/tried: .venv/ready
	.venv/bin/python -c 'import ui.app; from pipeline.model import load_model; load_model()'
	touch $@

.venv/ready-test: pyproject.toml constraints.txt $(call stale,.venv/ready-test) | .venv/bin/python
	$(call install,.[test])

.venv/ready-dev: pyproject.toml constraints.txt $(call stale,.venv/ready-dev) | .venv/bin/python
	$(call install,.[dev])
