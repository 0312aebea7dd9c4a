"""Whether an adapter's ``add_noise`` refuses wrong arguments as that of NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np

from embnoise._noise import Noise, neftune
from embnoise._reference import add_noise
from embnoise._schedules import linear
from embnoise.testing.probe import Probe

__all__ = ["wrong_input_refused"]

_WRONG: tuple[dict[str, Any], ...] = (
    {"x": np.zeros((2, 3, 4), np.int32)},
    {"x": np.zeros(4, np.float32)},
    {"x": np.zeros((1, 2, 3, 4), np.float32)},
    {"noise": 5.0},
    {"noise": Noise(linear(1, 2))},
    {"step": -1},
    {"step": 1.5},
    {"step": True},
    {"training": 1},
    {"mask": np.ones((3, 2), bool)},
    {"mask": np.ones((2, 3), np.float32)},
    {"segment_ids": np.ones((2, 4), np.int64)},
    {"segment_ids": np.ones((2, 3), np.float32)},
    {"positions": np.ones((3,), np.int64)},
    {"positions": np.ones((2, 3), np.float32)},
    {"sample_ids": np.ones(3, np.int64)},
    {"sample_ids": np.ones(2, np.float32)},
    {"where": np.ones((2, 3, 1), bool)},
)


def wrong_input_refused(probe: Probe) -> None:
    """Wrong arguments raise the errors of ``embnoise.add_noise``, and leave the input alone."""
    for wrong in _WRONG:
        arguments = {
            "x": np.zeros((2, 3, 4), np.float32), "noise": neftune(), "step": 0, **wrong
        }  # fmt: skip
        (name,) = wrong
        try:
            add_noise(**arguments)
        except (TypeError, ValueError) as error:
            expected = error
        native = {
            key: probe.driver.from_numpy(value) if isinstance(value, np.ndarray) else value
            for key, value in arguments.items()
        }
        shown = f"{name} {getattr(wrong[name], 'dtype', '')} {np.shape(wrong[name])}"
        if not isinstance(wrong[name], np.ndarray):
            shown = f"{name}={wrong[name]!r}"
        try:
            probe.add_noise(**native)
        except Exception as error:
            probe.expect(
                type(error) is type(expected) and str(error).startswith(_start(expected)),
                f"{shown} raises {type(error).__name__}: {error}; expected "
                f"{type(expected).__name__}: {expected}",
                "the arguments are not validated by embnoise.backend.prepare",
            )
        else:
            probe.expect(
                False,
                f"{shown} is accepted; expected {type(expected).__name__}: {expected}",
                "the arguments are not validated: call embnoise.backend.prepare",
            )
        probe.expect(
            not probe.driver.to_numpy(native["x"]).any(),
            f"{shown} changes the input before the error is raised",
            "the noise is added in place, before all arguments are validated",
        )


def _start(error: Exception) -> str:
    """The words that every message has: the argument and what it must be."""
    return " ".join(str(error).split()[:2])
