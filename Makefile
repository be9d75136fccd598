# make demo   train, judge, track, export and use three classifiers on the bundled corpus
# make test   all tests
# make lint   formatting, linters, types, import rules
# Each sets up .venv by itself, with the versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/slantwise demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (once; a minute or two)"
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "installing the development tools into .venv (once)"
	$(INSTALL) -e ".[dev]"
	@touch $@
