"""The known answers of the noise specification, through an adapter's ``add_noise``."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import LATTICE_SIZE, resolve_distribution
from embnoise._noise import Noise
from embnoise.testing.probe import Probe

__all__ = ["known_lattice", "known_units"]


def _answers() -> dict[str, Any]:
    path = files("embnoise.testing") / "noise_v1.json"
    answers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return answers


def _units(probe: Probe, shape: tuple[int, int, int], noise: Noise, **arguments: Any) -> Any:
    """The unit values of a noise of magnitude 1, float32 [B, L, d]."""
    driver = probe.driver
    arrays = {
        name: driver.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    zeros = driver.from_numpy(np.zeros(shape, np.float32), "float32")
    return driver.to_numpy(probe.add_noise(zeros, noise, **arrays))


def _integers(units: NDArray[Any]) -> NDArray[np.int64]:
    """The lattice integers of uniform unit values."""
    scaled = np.asarray(units, np.float64) * LATTICE_SIZE
    return np.rint((scaled + LATTICE_SIZE - 1) / 2).astype(np.int64)


def known_lattice(probe: Probe) -> None:
    """The lattice integers are those of the specification."""
    for answer in _answers()["lattice"]:
        noise = Noise(1.0, scale="absolute", seed=answer["seed"], stream=answer["stream"])
        units = _units(
            probe,
            (1, 1, answer["d"]),
            noise,
            step=answer["step"],
            sample_ids=np.array([answer["sample"]]),
            positions=np.array([[answer["position"]]]),
        )
        found = _integers(units[0, 0]).tolist()
        where = ", ".join(f"{name}={answer[name]!r}" for name in list(answer)[:-1])
        probe.expect(
            found == answer["lattice"],
            f"for {where} the lattice integers are {found[:8]}, expected {answer['lattice'][:8]}",
            "the Philox key, the order of the counter, or the order of the 16-bit halves",
        )


def known_units(probe: Probe) -> None:
    """The unit values of every built-in distribution are those of its table."""
    shape = (1, 8, 40)
    integers = _integers(_units(probe, shape, Noise(1.0, scale="absolute", seed=3), step=0))
    for name in _answers()["unit"]:
        noise = Noise(1.0, scale="absolute", seed=3, distribution=name)
        found = _units(probe, shape, noise, step=0)
        right = resolve_distribution(name).table[integers]
        probe.expect(
            np.array_equal(found, right),
            f"{int((found != right).sum())} of {right.size} {name} unit values differ from the "
            f"table, by up to {float(abs(found - right).max()):.3g}",
            "the table is computed or rounded in another way: use Distribution.table or unit()",
        )
