# Only python3 (3.10 or newer, with venv) and make are assumed; everything else is installed here.
#   PYTHON=python3.12   which interpreter makes the virtual environment
#   VENV=dir            which virtual environment to use
#   PYTEST_ARGS=...     what pytest is given
#   FUZZ_ARGS=...       what the fuzzer is given
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) pass through.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2

# A .venv that this file did not make belongs to a developer and is left alone.
ifeq ($(wildcard .venv),)
VENV ?= .venv
else
VENV ?= $(if $(wildcard .venv/.made-by-make),.venv,.venv-make)
endif

PY := $(VENV)/bin/python
PINS := pyproject.toml constraints.txt

.NOTPARALLEL:
.PHONY: help demo test lint types wheel bench fuzz check clean distclean

help:
	@echo "make demo       the main job on a model that lies in the repository"
	@echo "make test       the tests, and the examples in the docstrings"
	@echo "make lint       ruff: rules and format"
	@echo "make types      mypy --strict"
	@echo "make wheel      build wheel and sdist into dist/, try the wheel in an empty environment"
	@echo "make bench      the benchmarks"
	@echo "make fuzz       import 10,000 broken files (FUZZ_ARGS='--files N --seed N --save FOLDER')"
	@echo "make check      lint, types, test, wheel and demo"
	@echo "make clean      remove builds and caches"
	@echo "make distclean  ... and the virtual environments made here"

demo: $(VENV)/.stamp-demo
	@$(PY) examples/demo.py

test: $(VENV)/.stamp-test
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(VENV)/.stamp-dev
	@$(PY) -m mypy

bench: $(VENV)/.stamp-test
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PY) "$$script"; done

fuzz: $(VENV)/.stamp-test
	@$(PY) benchmarks/fuzz.py $(FUZZ_ARGS)

check: lint types test wheel demo

# The wheel is built from the sdist, in a clean folder, and must work without the checkout.
SCRATCH := build/wheel-check
wheel: $(VENV)/.stamp-dev
	@rm -rf build dist *.egg-info
	@mkdir -p $(SCRATCH)
	@echo "Building the sdist and, from it, the wheel"
	@$(PY) -m build --outdir dist . > build/build.log 2>&1 || { cat build/build.log; exit 1; }
	@ls dist
	@$(PY) -m check_wheel_contents dist/*.whl
	@echo "Installing the wheel into an empty environment"
	@$(PYTHON) -m venv $(SCRATCH)/venv
	@$(SCRATCH)/venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt dist/*.whl
	@cd $(SCRATCH) && unset PYTHONPATH && venv/bin/python -c "$$WHEEL_CHECK" && venv/bin/qonnx-torch --help
	@rm -rf build

define WHEEL_CHECK
import importlib, pathlib, sys
for name in ("qonnx_torch", "qonnx_torch.import_", "qonnx_torch.export"):
    path = pathlib.Path(importlib.import_module(name).__file__).resolve()
    assert path.is_relative_to(pathlib.Path(sys.prefix).resolve()), path
    print("imported from the wheel:", name)
assert (pathlib.Path(sys.modules["qonnx_torch"].__file__).parent / "py.typed").exists(), "py.typed is missing"
endef
export WHEEL_CHECK

clean:
	@rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find qonnx_torch import_ export tests examples benchmarks -name __pycache__ -type d -prune \
	    -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	@for d in .venv .venv-make; do if [ -e "$$d/.made-by-make" ]; then rm -rf "$$d"; fi; done

# One environment for everything; each job adds the extras that it needs, once per change of the pins.
$(VENV)/.stamp-demo: EXTRAS := ort
$(VENV)/.stamp-test: EXTRAS := test
$(VENV)/.stamp-dev: EXTRAS := dev
$(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-dev: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python"; exit 1; }
	@if [ ! -x $(PY) ]; then \
	    echo "Making the virtual environment $(VENV) (torch is large: the first time takes minutes)"; \
	    $(PYTHON) -m venv $(VENV) || { echo "python3 lacks venv (Debian, Ubuntu: apt install python3-venv)"; \
	        rm -rf $(VENV); exit 1; }; \
	    touch $(VENV)/.made-by-make; \
	fi
	@echo "Installing qonnx-torch[$(EXTRAS)] into $(VENV)"
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
