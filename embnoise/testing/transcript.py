"""``Transcript``: the Python lines that repeat what a check did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Transcript"]

_INDENT = "    "


class Transcript:
    r"""Python lines that repeat the calls of a check; a failure prints them.

    Example:
        >>> transcript = Transcript()
        >>> transcript.set("x", "np.zeros(3)")
        >>> transcript.call("layer(x)")
        >>> transcript.set("x", "np.zeros(3)")  # it has that value: no line
        >>> with transcript.block("with driver.without_gradients():"):
        ...     transcript.call("layer(x)")
        >>> print(*transcript.lines, sep="\n")
        x = np.zeros(3)
        y1 = layer(x)
        with driver.without_gradients():
            y2 = layer(x)
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._values: dict[str, str] = {}
        self._calls = 0
        self._indent = ""
        self._paused = False

    def write(self, line: str) -> None:
        """Add a line."""
        if not self._paused:
            self.lines.append(self._indent + line)

    def set(self, name: str, value: str) -> None:
        """Add a line that sets a name, unless the name has that value."""
        if not self._paused and self._values.get(name) != value:
            self._values[name] = value
            self.write(f"{name} = {value}")

    def call(self, expression: str) -> None:
        """Add a line that names the value of an expression: y1, y2, and so on."""
        if not self._paused:
            self._calls += 1
            self.write(f"y{self._calls} = {expression}")

    def loop(self, times: int, expression: str, *, comment: str) -> None:
        """Add a loop that evaluates an expression several times."""
        with self.block(f"for _ in range({times}):  # {comment}"):
            self.write(expression)

    def clear(self) -> None:
        """Forget all lines: what follows does not depend on them."""
        self.lines.clear()
        self._values.clear()
        self._calls = 0

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """A context whose lines are indented below a header."""
        self.write(header)
        written, indent = len(self.lines), self._indent
        self._indent += _INDENT
        try:
            yield
        finally:
            if len(self.lines) == written:
                self.write("pass")
            self._indent = indent

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which nothing is recorded."""
        before = self._paused
        self._paused = True
        try:
            yield
        finally:
            self._paused = before
