"""Run the notebooks: ``python -m tests.examples.notebooks`` writes what they print and draw."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Of every notebook; a run would write down its versions."""


_LOGGED = re.compile(r"^(WARNING: All log messages before absl|[IW]\d{4} ).*\n", re.MULTILINE)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def run(name: str) -> Any:
    """A notebook with the outputs of a run, in a process and a folder of its own."""
    notebook = read(name)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": folder}},
        )  # fmt: skip
        client.execute(env=environment)
    notebook.metadata = nbformat.from_dict(METADATA)
    return without_logs(notebook)


def without_logs(notebook: Any) -> Any:
    """Without what TensorFlow says about the machine; other errors and warnings stay."""
    for cell in notebook.cells:
        for output in list(cell.get("outputs", ())):
            if output.get("name") == "stderr":
                output.text = _LOGGED.sub("", output.text)
                if not output.text:
                    cell.outputs.remove(output)
    return notebook


def printed(notebook: Any) -> list[str]:
    """What each cell of code prints or shows as text."""
    return [
        "".join(output.get("text") or output.get("data", {}).get("text/plain", "")
                for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]  # fmt: skip


if __name__ == "__main__":
    for each in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        nbformat.write(run(each), FOLDER / f"{each}.ipynb")
