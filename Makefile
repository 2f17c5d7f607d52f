# One command each: demo, test, check, bench, torture. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench torture clean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "traceark needs Python 3.11 or newer; set PYTHON=…"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing; install it (Debian: apt-get install python3-venv)"; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $(STAMP)

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

test: $(STAMP)
	@$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_structure.py

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

torture: $(STAMP)
	@TRACEARK_TORTURE=1 $(BIN)/python -m pytest tests/torture

clean:
	rm -rf $(VENV) demo-archive demo-copy
