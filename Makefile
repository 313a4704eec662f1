# Everything a newcomer needs: `make demo` shows the product, `make test` proves it.
# Both set themselves up in .venv from the lock files; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python keeps what it compiles of what it imports; compiling all that is installed takes longer than installing it. The
# lock files are complete, so nothing has to be resolved.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
# Every file has to be the one that was locked, whatever the index serves.
INSTALL_LOCKED := $(INSTALL) --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --generate-hashes
# What torch only loads to compile kernels or to work on a GPU, 1.5 GB; the rest of CUDA it cannot be imported without.
UNUSED := cuda-bindings cuda-pathfinder nvidia-cusolver nvidia-nvjitlink triton

.PHONY: help demo test test-fast test-long lint format docs screenshots kafka bench soak fuzz lock audit sbom clean

help:
	@echo "make demo       replay the shipped recording through the whole pipeline, no broker needed"
	@echo "make test       run all tests (a real Kafka is used where Java and Maven are found)"
	@echo "make test-fast  run the tests that need neither Kafka nor patience"
	@echo "make test-long  run the tests that take a minute each: tutorial, rolling upgrade, benchmark"
	@echo "make lint       ruff and mypy --strict"
	@echo "make format     fix style"
	@echo "make docs       build the documentation, with the reference of every module, in build/docs"
	@echo "make screenshots  take the pictures of the console again, in docs/pictures"
	@echo "make kafka      run a real Kafka in the foreground, from Maven jars"
	@echo "make bench      measure, side by side in one run"
	@echo "make soak       kill workers and brokers for ten minutes and prove that nothing is lost"
	@echo "make fuzz       a million hostile records through a worker; damaged states, models and recordings"
	@echo "make lock       pin the dependencies again, in the lock files, with the hashes of their files"
	@echo "make audit      look up known vulnerabilities of what serves; needs the internet"
	@echo "make sbom       list what serves in build/sbom.json (CycloneDX)"

# What serves: no torch, no CUDA.
$(VENV)/.serving: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Faultline needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL_LOCKED) -r requirements.lock
	$(INSTALL) --editable .
	@touch $@

# What trains, tests and lints, on top of it.
$(VENV)/.development: $(VENV)/.serving requirements-dev.lock
	$(INSTALL_LOCKED) -r requirements-dev.lock
	@touch $@

# What builds the documentation; it reads the code and does not import it.
$(VENV)/.documentation: $(VENV)/.serving requirements-docs.lock
	$(INSTALL_LOCKED) -r requirements-docs.lock
	@touch $@

# What examines the dependencies.
$(VENV)/.audit: $(VENV)/.serving requirements-audit.lock
	$(INSTALL_LOCKED) -r requirements-audit.lock
	@touch $@

demo: $(VENV)/.serving
	$(BIN)/faultline demo

# Tests with a broker wait much of their time: three processes keep two cores busy.
test: $(VENV)/.development
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" $(PYTEST_ARGS)

# The tutorial as printed, two releases in one group, and the benchmark: what takes a minute each.
test-long: $(VENV)/.development
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

test-fast: $(VENV)/.development
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not kafka and not slow" $(PYTEST_ARGS)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.documentation
	$(BIN)/zensical build --clean --strict

# Debian's chromium takes them, while the pages are tested.
screenshots: $(VENV)/.development
	CONSOLE_PICTURES=docs/pictures $(BIN)/python -m pytest -q tests/agents/console/test_console_pages.py

kafka: $(VENV)/.serving
	$(BIN)/python -m agents.bench.local_kafka.broker --port 9092

bench: $(VENV)/.serving
	$(BIN)/faultline bench align

soak: $(VENV)/.development
	$(BIN)/python -m tests.soak.soak --out soak.json

fuzz: $(VENV)/.development
	$(BIN)/python -m tests.soak.soak_hostile --records 1000000 --json
	$(BIN)/python -m tests.soak.soak_files --rounds 100 --json

lock: $(VENV)/.serving
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --extra dev --constraint requirements.lock $(UNUSED:%=--no-emit-package %) pyproject.toml -o requirements-dev.lock
	$(LOCK) --extra audit --constraint requirements.lock pyproject.toml -o requirements-audit.lock
	$(LOCK) --extra docs --constraint requirements-dev.lock pyproject.toml -o requirements-docs.lock

# A package that cannot be looked up is a failure: silence would look like safety.
audit: $(VENV)/.audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

sbom: $(VENV)/.audit
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --of JSON -o build/sbom.json requirements.lock

clean:
	rm -rf $(VENV) build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
