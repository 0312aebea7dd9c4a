"""found.md: every fault that was found once has a test, which exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
FAMILIES = set((ROOT / "testing" / "faults").glob("*.py"))
ROWS = re.findall(r"^\| (?!Fault|---)(.+) \| (.+) \|$", (ROOT / "found.md").read_text(), re.M)


def defined_in(path):
    """The names of tests, of classes of tests and of ways to run a model on several ranks."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize(("fault", "tests"), ROWS, ids=[fault[:60] for fault, _ in ROWS])
def test_a_fault_has_a_test(fault, tests):
    found = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
    assert found
    for path, name in found:
        if name:
            assert name in defined_in(path)
        else:  # a family of faults
            assert (ROOT / path).resolve() in FAMILIES


def test_all_rows_are_read():
    lines = (ROOT / "found.md").read_text().splitlines()
    heads = [line for line in lines if line in ("| Fault | Tests |", "| --- | --- |")]
    assert len(ROWS) + len(heads) == sum(line.startswith("|") for line in lines)
