# Everything here starts from nothing but python3 (3.11 or later, with venv and headers), a C compiler and pip.
# Stamp files in the virtual environment remember what is installed, so that a second `make` starts at once.

PYTHON ?= python3
VENV ?= .venv
# pytest workers; tests wait more than they compute, and they need no core of their own
WORKERS ?= 3
# more arguments for pytest: make test ARGS="-k workspace -x"
ARGS ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.zcell
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CYTHON_SOURCES := $(wildcard zcell/_native/*.pyx)
# Cython writes NAME.c beside NAME.pyx: output, not source
NATIVE_SOURCES := $(CYTHON_SOURCES) $(filter-out $(CYTHON_SOURCES:.pyx=.c),$(wildcard zcell/_native/*.[ch]))

.PHONY: help run sweep federated test lint format bench build sanitize engines wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make run       train the example in a job of its own and bring its results back"
	@echo "make sweep     search good settings with several jobs at once, watched live"
	@echo "make federated several sites average a model, each in a job of its own"
	@echo "make test      the tests (ARGS=... for pytest, WORKERS=$(WORKERS))"
	@echo "make lint      ruff and mypy --strict"
	@echo "make format    let ruff write the layout and what it can fix"
	@echo "make bench     measure against the alternatives, print one table"
	@echo "make build     the native modules, in place"
	@echo "make sanitize  the tests of the native modules under ASan and UBSan"
	@echo "make engines   the tests on real Docker and Slurm engines"
	@echo "make wheel     dist/*.whl"
	@echo "make clean     remove everything made, the virtual environment included"

$(STAMPS)/tools:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not there; install Python 3.11 or later, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "make: no virtual environment; on Debian: apt-get install python3-venv python3-dev gcc" >&2; exit 1; }
	$(PIP) install "setuptools>=77" "Cython>=3.1" wheel
	@mkdir -p $(STAMPS) && touch $@

# the project itself, editable, with what it needs to run; this compiles the native modules once
$(STAMPS)/installed: $(STAMPS)/tools pyproject.toml setup.py
	PYTHONWARNINGS="ignore:Editable installation." $(PIP) install --no-build-isolation --editable .
	@touch $@ $(STAMPS)/compiled

# afterwards only what changed is compiled
$(STAMPS)/native: $(STAMPS)/installed $(NATIVE_SOURCES)
	@if [ -n "$$(find $(NATIVE_SOURCES) setup.py -newer $(STAMPS)/compiled)" ]; then $(BIN)/python setup.py --quiet build_ext --inplace; fi
	@touch $@ $(STAMPS)/compiled

# what tests, lint and benchmarks need besides
EXTRAS := 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*extras["test"], *extras["bench"], sep="\n")'
$(STAMPS)/extras: $(STAMPS)/tools pyproject.toml
	@$(BIN)/python -c $(EXTRAS) > $(STAMPS)/extras.txt
	$(PIP) install --requirement $(STAMPS)/extras.txt
	@touch $@

$(STAMPS)/example-%: examples/%/requirements.txt $(STAMPS)/tools
	$(PIP) install --requirement $<
	@touch $@

build: $(STAMPS)/native

run: $(STAMPS)/native $(STAMPS)/example-train
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/zcell run --results build/train examples/train -- python train.py

sweep: $(STAMPS)/native $(STAMPS)/example-sweep
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/sweep/sweep.py --out build/sweep $(ARGS)

federated: $(STAMPS)/native $(STAMPS)/example-federated
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/federated/federated.py --out build/federated $(ARGS)

test: $(STAMPS)/native $(STAMPS)/extras
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(STAMPS)/native $(STAMPS)/extras
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/extras
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --timeout: the longest of them moves 20 GiB; ARGS="-k latency" selects, ARGS=--quick only shows that they run
bench: $(STAMPS)/native $(STAMPS)/extras
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-quiet --benchmark-disable-gc --timeout=600 -p no:cacheprovider -p no:xdist $(ARGS)

SANITIZED := ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
# a copy of the tree, so that the instrumented modules never replace the ones in use
sanitize: $(STAMPS)/native $(STAMPS)/extras
	@rm -rf build/sanitize && mkdir -p build/sanitize
	@cp -r setup.py pyproject.toml README.md LICENSE zcell tests build/sanitize/ && rm -f build/sanitize/zcell/_native/*.so
	cd build/sanitize && ZCELL_SANITIZE=1 $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	@for module in build/sanitize/zcell/_native/*.so; do grep -q __asan_init $$module || { echo "$$module is not instrumented" >&2; exit 1; }; done
	cd build/sanitize && $(SANITIZED) $(abspath $(BIN))/python -c 'import os, zcell; assert zcell.__file__.startswith(os.getcwd()), zcell.__file__'
	cd build/sanitize && $(SANITIZED) $(abspath $(BIN))/python -m pytest -p no:cacheprovider -n $(WORKERS) tests/native $(ARGS)

# real Docker and Slurm engines, installed where they are missing, started and stopped by the tests; what is slow to make is kept in build/engines
engines: $(STAMPS)/native $(STAMPS)/extras $(STAMPS)/example-train
	$(BIN)/python -m tests.engines.prepare build/engines
	ZCELL_TEST_ENGINES=build/engines $(BIN)/python -m pytest -m engine -p no:xdist tests/engines $(ARGS)

wheel: $(STAMPS)/tools
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@ls -l dist

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks bench/results zcell/_native/*.so $(CYTHON_SOURCES:.pyx=.c)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
