"""Layers with one fault each, built from an adapter's ``add_noise``: a driver must show them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from embnoise._noise import neftune
from embnoise.testing.drivers import DriverBase

__all__ = ["FAULTS", "Fault", "right_layer"]

AddNoise = Callable[..., Any]
Change = Callable[[dict[str, Any], DriverBase], dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """A fault, and the check that must find it."""

    code: str
    name: str
    caught_by: str
    make: Callable[[AddNoise, DriverBase], Callable[..., Any]]
    """From ``add_noise`` and the driver to a ``make_layer``."""
    driver: str
    """What is wrong with the driver if the check passes."""


def right_layer(
    add_noise: AddNoise,
    driver: DriverBase,
    *,
    alpha: Callable[[float], float] = lambda alpha: alpha,
    seed: Callable[[int], int] = lambda seed: seed,
    change: Change = lambda arguments, driver: arguments,
) -> Callable[..., Any]:
    """A ``make_layer`` for NEFTune, with functions that may change what it passes on."""

    def make_layer(**given: Any) -> Any:
        noise = neftune(alpha(given["alpha"]), seed=seed(given["seed"]))

        def layer(x: Any, *, training: bool, mask: Any, step: Any, segment_ids: Any = None) -> Any:
            arguments = {"x": x, "training": training, "mask": mask, "step": step}
            arguments = change({**arguments, "segment_ids": segment_ids}, driver)
            return add_noise(noise=noise, **arguments)

        return layer

    return make_layer


def _changed(**options: Any) -> Callable[[AddNoise, DriverBase], Callable[..., Any]]:
    return lambda add_noise, driver: right_layer(add_noise, driver, **options)


def _with(**fixed: Any) -> Callable[[AddNoise, DriverBase], Callable[..., Any]]:
    return _changed(change=lambda arguments, driver: {**arguments, **fixed})


def _one_row(arguments: dict[str, Any], driver: DriverBase) -> dict[str, Any]:
    rows = np.zeros(arguments["x"].shape[0], np.int64)
    return {**arguments, "sample_ids": driver.from_numpy(rows)}


def _counting(add_noise: AddNoise, driver: DriverBase) -> Callable[..., Any]:
    def make_layer(**given: Any) -> Any:
        noise, calls = neftune(given["alpha"], seed=given["seed"]), iter(range(2**31))

        def layer(x: Any, *, training: bool, mask: Any) -> Any:
            return add_noise(x, noise, step=next(calls), mask=mask) if training else x

        return layer

    return make_layer


FAULTS = (
    Fault(
        "DR06", "noise_in_evaluation", "EN02", _with(training=True),
        "`call` does not call the layer in evaluation mode, or returns its input",
    ),
    Fault(
        "DR07", "no_noise", "EN24", lambda add_noise, driver: _silent,
        "the outputs that it returns are not those of the layer",
    ),
    Fault(
        "DR08", "mask_ignored", "EN09", _with(mask=None),
        "`to_numpy` or `from_numpy` changes values where there is padding",
    ),
    Fault(
        "DR09", "alpha_halved", "EN08", _changed(alpha=lambda alpha: alpha / 2),
        "the outputs are scaled",
    ),
    Fault(
        "DR10", "alpha_doubled", "EN10", _changed(alpha=lambda alpha: 2 * alpha),
        "the outputs are scaled",
    ),
    Fault(
        "DR11", "step_ignored", "EN06", _with(step=0),
        "something other than the step changes the noise between calls",
    ),
    Fault(
        "DR12", "seed_ignored", "EN07", _changed(seed=lambda seed: 0),
        "`make` does not pass the seed that it is given",
    ),
    Fault(
        "DR13", "seeded_by_the_clock", "EN05",
        _changed(seed=lambda seed: secrets.randbits(63)),
        "`make` returns a layer that it made before",
    ),
    Fault(
        "DR14", "one_draw_for_all_rows", "EN25", _changed(change=_one_row),
        "the rows of the outputs are not those of the layer",
    ),
    Fault(
        "DR15", "step_counted_in_python", "EN22", _counting,
        "`compile` traces at every call, so no frozen layer is ever found: compile once for each "
        "layer and mode. For a compiler that guards on Python state, set traces_once = False",
    ),
)  # fmt: skip


def _silent(**_: Any) -> Callable[..., Any]:
    return lambda x, *, training: x
