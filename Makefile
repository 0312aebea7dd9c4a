# Every target sets up what it needs in a virtual environment of its own.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: finetune test coverage lint docs serve benchmark release-check clean

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

docs: $(VENV)/docs.done
	$(BIN)/mkdocs build --strict $(ARGS)

serve: $(VENV)/docs.done
	$(BIN)/mkdocs serve $(ARGS)

benchmark: $(VENV)/examples.done
	$(BIN)/python benchmarks/lookups.py $(ARGS)
	$(BIN)/python benchmarks/overhead.py $(ARGS)
	$(BIN)/python benchmarks/lengths.py $(ARGS)

release-check: # makes environments of its own, and leaves sdist and wheel in dist
	$(PYTHON) -m tests.release dist

$(VENV)/%.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV)
