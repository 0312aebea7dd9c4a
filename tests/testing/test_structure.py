"""The kit's modules do not hide imports in functions, and completion shows its interface."""

import ast
from pathlib import Path

import pytest

import embnoise.testing

FOLDER = Path(embnoise.testing.__file__).parent
MODULES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))
OPTIONAL = {"hypothesis", "pytest"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("module", MODULES)
def test_imports_in_functions_are_of_optional_packages(module):
    for function in ast.walk(ast.parse((FOLDER / module).read_text())):
        if isinstance(function, ast.FunctionDef):
            tops = {name.partition(".")[0] for name in imports(function)}
            assert tops <= OPTIONAL, (function.name, tops)


def test_completion_shows_the_interface():
    assert dir(embnoise.testing) == sorted(embnoise.testing.__all__)
