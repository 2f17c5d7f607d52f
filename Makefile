# One command each: demo, test, check, bench, torture, fuzz, ceph, s3rver, notebooks. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is never loaded need not be compiled: most of what the tests' tools bring along.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# Tests start hundreds of processes: each compiles everything anew where it may not keep the bytecode.
export PYTHONDONTWRITEBYTECODE :=
# What the demo needs, and what all else does besides.
BASE := $(VENV)/.base
STAMP := $(VENV)/.installed

.PHONY: demo test jq check bench torture fuzz ceph s3rver notebooks clean

$(BASE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "traceark needs Python 3.11 or newer; set PYTHON=…"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing; install it (Debian: apt-get install python3-venv)"; exit 2; }
	@echo "installing traceark into $(VENV), once"
	@$(INSTALL) -e .
	@touch $(BASE)

$(STAMP): $(BASE)
	@echo "installing the tools of the tests into $(VENV), once: some minutes"
	@$(INSTALL) -e '.[test]'
	@touch $(STAMP)

demo: $(BASE)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

test: $(STAMP) jq
	@$(BIN)/python -m pytest -n 4 --dist worksteal

# The format's document is read with jq; where it cannot be installed those blocks are skipped and say so.
jq:
	@command -v jq >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq jq >/dev/null; } || echo "jq is not installed: what needs it is skipped"

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_structure.py

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

# What a test tries more of when it is told to be thorough, the same for the same SEED; with WHOLE=1 all that there is.
SEED ?= 0
WHOLE ?=
torture: export SEED := $(SEED)
torture: export WHOLE := $(WHOLE)
torture: export HYPOTHESIS_PROFILE := thorough
torture: $(STAMP)
	@echo "SEED=$(SEED)"
	@$(BIN)/python -m pytest tests/test_endurance.py
	@$(BIN)/python -m pytest -n 4 --dist worksteal --hypothesis-seed=$(SEED) \
		$$(grep -lE '^from profiles import|hypothesis' tests/test_*.py | grep -v -e structure -e endurance -e benchmarks $(if $(WHOLE),,-e conformance))

# Ceph's S3 gateway, a server that shares nothing with those which `make test` installs: a Debian in .ceph/, 0.9 GB, as root.
ceph:
	@command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null
	@tests/ceph.sh install $(CURDIR)/.ceph

# A server whose conditional writes do not hold, and which must be refused: 14 MB of Node's packages in .s3rver/.
s3rver:
	@npm install --silent --no-fund --no-audit --prefix .s3rver s3rver@3.7.1

# Fuzzes every parser by coverage, each for so many seconds.
SECONDS ?= 60
fuzz: $(STAMP)
	@$(INSTALL) -e '.[fuzz]' || echo "atheris cannot be installed for this Python"
	@$(BIN)/python tests/fuzz_atheris.py $(SECONDS)

# Runs the notebooks again and stores what they show.
notebooks: $(STAMP) jq
	@$(BIN)/python tests/notebook_runner.py

clean:
	rm -rf $(VENV) .ceph .s3rver demo-archive demo-copy notebooks/sample-runs notebooks/made-up-runs
