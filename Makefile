PYTHON ?= python3
ENV := $(or $(BGP_PYTHON_ENV),$(BGP_VENV),.venv)
RUN := $(ENV)/bin/python
ARGS ?=
# pytest uses the last of repeated options, so ARGS="-n0 -k name" runs in one process
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

.PHONY: help env train test test-slow matrix smoke benchmark docs lint types clean

help:
	@echo 'make env        sets up $(ENV) with torch, MMCV, MMDetection and MMYOLO; does nothing if it is up to date'
	@echo 'make train      trains configs/yolov8_semi_bgpenalty.py; ARGS="..." goes to tools/train.py'
	@echo 'make test       runs the tests on up to 8 cores; ARGS="..." goes to pytest, such as ARGS="-n0 -k name"'
	@echo 'make test-slow  runs the tests that take minutes each'
	@echo 'make matrix     runs the tests with each set of versions; ARGS="..." goes to nox, such as ARGS="-s fork"'
	@echo 'make smoke      trains the shipped config for a minute, with a stop and a resume'
	@echo 'make benchmark  measures the speed of this package and of MMYOLO; ARGS="..." goes to tools/benchmark.py'
	@echo 'make docs       builds the site in docs/_build'
	@echo 'make lint       checks style with ruff, and the direction of imports with import-linter'
	@echo 'make types      checks types with mypy'
	@echo 'make clean      removes build outputs and caches; the next `make env` checks $(ENV) again'
	@echo
	@echo 'PYTHON=...           the Python, 3.10 to 3.13, that makes the environment ($(PYTHON))'
	@echo 'TORCH_SPEC=...       the torch to install (torch==2.13.0)'
	@echo 'BGP_PYTHON_ENV=...   an existing environment with torch (such as one for CUDA), in place of .venv'
	@echo 'BGP_CACHE=...        the folder of the built wheels (~/.cache/mmyolo_bgpenalty)'

env:
	@$(PYTHON) tools/setup_env.py

train: env
	$(RUN) tools/train.py configs/yolov8_semi_bgpenalty.py $(ARGS)

test: env
	$(RUN) -m pytest tests $(PARALLEL) $(ARGS)

test-slow: env
	$(RUN) -m pytest tests -m slow $(ARGS)

matrix: env
	$(RUN) -m nox -f tools/noxfile.py $(ARGS)

smoke: env
	$(RUN) .ci/smoke.py

benchmark: env
	$(RUN) -W ignore tools/benchmark.py --out docs/results/benchmark $(ARGS)

docs: env
	$(RUN) -m sphinx -q -W --keep-going -b html docs docs/_build

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(ENV)/bin/lint-imports --no-logo --no-cache

types: env
	$(RUN) -m mypy

clean:
	rm -rf docs/_build build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*
	rm -f $(ENV)/.bgpenalty-setup
