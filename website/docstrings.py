"""An extension of Griffe, which reads the API reference from the sources."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """What Griffe reads otherwise than the sources mean it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """``Example:`` is code, as ``Examples:`` is, the section that Griffe knows."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """A function hides the module that it is imported from, as ``attach`` does."""
        for name in pkg.exports or ():
            module = pkg.members[str(name)]
            if module.is_module and name in module.members:
                function = module.members[str(name)]
                pkg.members[str(name)] = griffe.Alias(str(name), function, parent=pkg)
