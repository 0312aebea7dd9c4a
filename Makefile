# Every target sets up what it needs in a virtual environment of its own.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: finetune test lint benchmark clean

finetune: $(VENV)/examples.done
	$(BIN)/python examples/finetune.py $(ARGS)

test: $(VENV)/test-all.done
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/pytest $(ARGS)

benchmark: $(VENV)/examples.done
	$(BIN)/python benchmarks/overhead.py $(ARGS)
	$(BIN)/python benchmarks/compiled.py $(ARGS)

$(VENV)/%.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV)
