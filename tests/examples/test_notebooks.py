"""The notebooks in examples/notebooks, whose outputs are committed: they are what a run gives."""

import base64
import re

import pytest

from tests.frameworks import needs

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

from tests.examples.notebooks import FOLDER, METADATA, printed, read, run

NOTEBOOKS = ["jax", "keras", "pytorch"]
NUMBER = r"\d+\.\d+"
# One is run by default; the kit takes longer where each shape is compiled.
RUNS = [
    pytest.param("pytorch", marks=needs("torch")),
    pytest.param("jax", marks=[needs("jax"), pytest.mark.sweep]),
    pytest.param("keras", marks=[needs("keras"), pytest.mark.sweep]),
]


def test_each_framework_has_one():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_outputs_of_one_run_are_committed(name):
    notebook = read(name)
    assert notebook.metadata == METADATA  # no versions, and nothing of a machine
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 60_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [each for each in outputs if each.get("name") == "stderr" or "ename" in each]
    pictures = [each.data["image/png"] for each in outputs if "image/png" in each.get("data", {})]
    (picture,) = map(base64.b64decode, pictures)
    assert 5_000 < len(picture) < 40_000
    text = "".join(printed(notebook))
    assert "padding with noise: 0 of " in text
    assert "correct: True" in text
    assert "correct: False" in text
    assert "same predictions: True" in text


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_them(name):
    """The same texts; losses may differ in their last digit between machines."""
    seen, committed = printed(run(name)), printed(read(name))
    assert [re.sub(NUMBER, "#", text) for text in seen] == [
        re.sub(NUMBER, "#", text) for text in committed
    ]
    numbers, expected = (
        [float(number) for text in texts for number in re.findall(NUMBER, text)]
        for texts in (seen, committed)
    )
    assert numbers == pytest.approx(expected, abs=0.11)
