"""The kit's modules import one another without cycles, and none hides an import in a function."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import embnoise.testing

FOLDER = Path(embnoise.testing.__file__).parent
MODULES = {
    ".".join(["embnoise.testing", *path.relative_to(FOLDER).with_suffix("").parts]): path
    for path in FOLDER.rglob("*.py")
}
OPTIONAL = {"hypothesis", "pytest"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_cycles():
    graph = {
        module: {name for name in imports(ast.parse(path.read_text())) if name in MODULES}
        for module, path in MODULES.items()
    }
    assert len(graph) > 25
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("module", MODULES)
def test_imports_in_functions_are_of_optional_packages(module):
    for function in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(function, ast.FunctionDef):
            tops = {name.partition(".")[0] for name in imports(function)}
            assert tops <= OPTIONAL, (function.name, tops)


def test_completion_shows_the_interface():
    assert dir(embnoise.testing) == sorted(embnoise.testing.__all__)
