# Every target sets up what it needs in a virtual environment of its own.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: finetune test coverage lint benchmark clean

finetune: $(VENV)/examples.done
	$(BIN)/python examples/finetune.py $(ARGS)

test: lint
	$(BIN)/pytest --numprocesses auto --dist worksteal $(ARGS)

coverage: lint
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage xml --quiet
	$(BIN)/coverage report

lint: $(VENV)/test-all.done
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

benchmark: $(VENV)/examples.done
	$(BIN)/python benchmarks/lookups.py $(ARGS)
	$(BIN)/python benchmarks/overhead.py $(ARGS)
	$(BIN)/python benchmarks/lengths.py $(ARGS)

$(VENV)/%.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV)
