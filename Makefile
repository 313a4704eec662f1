# Everything a newcomer needs: `make demo` shows the product, `make test` proves it.
# Both set themselves up in .venv from requirements.lock; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint format kafka bench soak fuzz lock clean

help:
	@echo "make demo    replay the shipped recording through the whole pipeline, no broker needed"
	@echo "make test    run all tests (a real Kafka is used where Java and Maven are found)"
	@echo "make lint    ruff and mypy --strict"
	@echo "make kafka   run a real Kafka in the foreground, from Maven jars"
	@echo "make bench   measure, side by side in one run"
	@echo "make soak    kill workers and brokers for ten minutes and prove that nothing is lost"
	@echo "make fuzz    a million hostile records through a worker"
	@echo "make lock    pin the dependencies anew in requirements.lock"

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Faultline needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/faultline demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

kafka: $(VENV)/.ready
	$(BIN)/python -m tests.kafka_broker --port 9092

bench: $(VENV)/.ready
	$(BIN)/faultline bench align

soak: $(VENV)/.ready
	$(BIN)/python -m tests.soak --out soak.json

fuzz: $(VENV)/.ready
	$(BIN)/python -m tests.soak_hostile --records 1000000 --json

lock: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
