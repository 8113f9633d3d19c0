# Everything lives in .venv. PYTHON chooses the interpreter that makes it (3.11 or newer) and makes it anew if another
# version made it before; without PYTHON, a .venv that is there stays as it is.
PYTHON ?= $(or $(wildcard .venv/bin/python),python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := .venv/bin
PACKAGES := --disable-pip-version-check -c constraints.txt -e '.[dev]'
INSTALLED := .venv/.installed-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Make .venv with fedvpa and everything it needs

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	    "make: $(PYTHON) is $(if $(VERSION),Python $(VERSION),not there or does not start); fedvpa needs 3.11 or newer." \
	    "Choose one: make setup PYTHON=python3.12 (after make clean, if .venv is broken)." >&2; exit 1; }
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing fedvpa and what it needs into .venv (Python $(VERSION)); this takes minutes the first time."
	@$(BIN)/python -m pip install -qq $(PACKAGES) || { echo "make: pip failed. To see all that it says:" \
	    "$(BIN)/python -m pip install $(PACKAGES)" >&2; exit 1; }
	@touch $@

demo: setup  ## Run the main job on the bundled world and write runs/demo/report.html
	$(BIN)/fedvpa demo

test: setup  ## Run the whole test suite
	$(BIN)/python -m pytest -n 2

check: setup  ## What CI runs: format, lint, types, import layers, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

clean:  ## Remove .venv and caches (runs/ stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist src/*.egg-info
