"""Who imports whom: no cycles, no arrow upward, and the picture in ARCHITECTURE.md is true."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
    for base, packages in (
        (ROOT, ["embnoise"]),
        (
            ROOT / "backends",
            ["embnoise_torch", "embnoise_jax", "embnoise_keras", "pytest_embnoise"],
        ),
    )
    for package in packages
    for path in (base / package).rglob("*.py")
}
PACKAGES = {module.split(".")[0] for module in SOURCES}


@cache
def imports_of(module):
    """The modules of ours that a module imports, wherever in it, or loads by name."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name` may name a module of the package.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & SOURCES.keys()
            found |= submodules
            if names - submodules:
                found.add(node.module)
        elif isinstance(node, ast.Constant) and node.value in PACKAGES - {"embnoise"}:
            found.add(node.value)  # an adapter that is loaded by its name
    return {name for name in found if name in SOURCES and name != module}


def test_no_module_imports_itself_through_others():
    """Imports inside of functions count: they would only hide a cycle."""
    state = {}

    def visit(module, path):
        assert state.get(module) != "open", " -> ".join([*path, module])
        if module not in state:
            state[module] = "open"
            for other in sorted(imports_of(module)):
                # A package's face hands on the names of its modules, which may import each other.
                if not module.startswith(f"{other}."):
                    visit(other, [*path, module])
            state[module] = "done"

    for module in sorted(SOURCES):
        visit(module, [])


def group(module):
    """The box of ARCHITECTURE.md's picture that a module is in."""
    package, _, rest = module.partition(".")
    if package != "embnoise":
        return package
    first = rest.split(".")[0]
    if first in ("backend", "testing"):
        return f"embnoise.{first}"
    if first in ("_cli", "__main__"):
        return "command"
    return "core"


def test_the_picture_is_true():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    picture = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)[1]
    names = dict(re.findall(r"(\w+)\[\"?([\w.]+)", picture))
    drawn = {(names[one], names[other]) for one, other in re.findall(r"(\w+) --> (\w+)", picture)}
    real = {
        (group(module), group(other))
        for module in SOURCES
        for other in imports_of(module)
        if group(module) != group(other)
    }
    assert drawn == real


def test_every_module_is_listed():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in SOURCES.values():
        if path.name not in ("__init__.py", "__main__.py"):
            assert f"`{path.name}`" in text, path


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_file_has_a_subject(module):
    """It says so in its first line, and it is not long."""
    source = SOURCES[module].read_text()
    assert ast.get_docstring(ast.parse(source)), module
    assert len(source.splitlines()) <= 420, module
