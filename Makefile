# `make bench`: the throughput report. `make test`: lint and the whole suite. Each sets up .venv by itself the first time.
# PYTHON=/path/to/python uses that environment as it is and installs nothing into it.

BASE_PYTHON ?= python3
ifdef PYTHON
setup :=
else
PYTHON := .venv/bin/python
setup := .venv/ready
endif

.PHONY: test bench lint clean

test: lint
	$(PYTHON) -m pytest

bench: $(setup)
	$(PYTHON) benchmarks/run.py $(ARGS)

lint: $(setup)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

.venv/ready: setup.py constraints.txt
	@$(BASE_PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	  || { echo "fastbert needs Python 3.11 or newer; choose one with BASE_PYTHON=/path/to/python3.11"; exit 1; }
	@$(BASE_PYTHON) -c "import venv, ensurepip" 2>/dev/null \
	  || { echo "$(BASE_PYTHON) lacks the venv module: install it (Debian: apt install python3-venv) or pass PYTHON="; exit 1; }
	$(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --progress-bar on -c constraints.txt -e ".[test,bench]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
