"""Refuse an environment whose versions are not those of constraints.txt."""

from importlib.metadata import version
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
pins = dict(line.split("==") for line in CONSTRAINTS.read_text().split() if "==" in line)
installed = {name: version(name).partition("+")[0] for name in pins}
wrong = [
    f"{name} {installed[name]}, not {pin}" for name, pin in pins.items() if installed[name] != pin
]
if wrong:
    raise SystemExit("\n".join(wrong))
