# Each target does its own set-up: on a fresh machine `make demo` is all there is to type.
MAKEFLAGS += --no-print-directory
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

help:
	@echo 'make demo    start a cluster on this machine and show placement follow demand'
	@echo 'make test    lint, type checks and the whole test suite'
	@echo 'make lint    lint and type checks alone'
	@echo 'make setup   only make .venv (the others do it when needed; PYTHON=/path/to/python chooses the interpreter)'
	@echo 'make clean   remove .venv and every cache'

setup:
	@scripts/bootstrap.sh

demo: setup
	@.venv/bin/lorajax demo

lint: setup
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

test: lint
	@.venv/bin/pytest

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
