"""Direct checks of a driver: what the protocol says of its methods."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._validation import dtype_name, format_value
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.probe import Probe

__all__ = [
    "GUARDS",
    "arrays_are_copies",
    "compiles_once",
    "dtypes_round_trip",
    "gradients_are_right",
    "keywords_by_name",
    "seed_sets_the_state",
]

GUARDS = "traces_once=False: the compiler guards on Python state"
"""Why a driver need not freeze what a layer counts in Python."""


def _values(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values that every floating-point dtype holds."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return ((numbers % 32 - 16) / 8).astype(np.float32)


def arrays_are_copies(probe: Probe) -> None:
    """``to_numpy`` and ``from_numpy`` copy, so that nothing changes an array of the other side."""
    driver, given = probe.driver, _values((2, 3, 4))
    native = driver.from_numpy(given, "float32")
    given[...] = 7
    seen = driver.to_numpy(native)
    probe.expect(
        np.array_equal(seen, _values((2, 3, 4))),
        "the framework's array changes with the NumPy array that it was made from",
        "from_numpy shares memory: copy the array first",
    )
    seen[...] = 7
    probe.expect(
        np.array_equal(driver.to_numpy(native), _values((2, 3, 4))),
        "the framework's array changes with the NumPy array that to_numpy returned",
        "to_numpy returns a view: copy it",
    )


def dtypes_round_trip(probe: Probe) -> None:
    """Arrays of every declared dtype keep their values and shapes; so do masks and integers."""
    driver = probe.driver
    for dtype in dict.fromkeys((*driver.dtypes, *driver.ids_dtypes)):
        for shape in ((2, 3, 4), (1, 1, 1), (0, 3, 4)):
            native = driver.from_numpy(_values(shape), dtype)
            probe.expect(
                dtype_name(native) == dtype and tuple(native.shape) == shape,
                f"from_numpy(array of shape {shape}, {dtype!r}) returns {dtype_name(native)} of "
                f"shape {tuple(native.shape)}",
                "the dtype that is given is not used",
            )
            _same(probe, driver.to_numpy(native), _values(shape), dtype)
    for array in (np.array([[True, False]]), np.array([[3, 0, 2**31 - 1]])):
        _same(probe, driver.to_numpy(driver.from_numpy(array)), array, str(array.dtype))


def _same(probe: Probe, seen: Any, array: NDArray[Any], dtype: str) -> None:
    probe.expect(
        isinstance(seen, np.ndarray)
        and seen.shape == array.shape
        and np.array_equal(np.asarray(seen, np.float64), np.asarray(array, np.float64)),
        f"to_numpy(from_numpy(array of {dtype} and shape {array.shape})) is {format_value(seen)}, "
        "with other values or another shape",
        "the values are converted, or the shape is lost",
    )


def gradients_are_right(probe: Probe) -> None:
    """The gradient of ``sum(y * weights)`` is the weights for y = x, twice them for y = x + x."""
    driver = probe.driver
    weights = np.random.default_rng(probe.seed).integers(1, 8, (2, 3, 4)).astype(np.float64)
    calls = (("x", 1, lambda layer, x: x), ("x + x", 2, lambda layer, x: x + x))
    for formula, factor, call in calls:
        found = driver.gradient(
            call,
            driver.make(_identity, dtype="float32", dim=4, alpha=1.0, seed=0),
            driver.from_numpy(_values((2, 3, 4)), "float32"),
            driver.from_numpy(weights, "float32"),
            of="inputs",
        )
        if found is None:
            raise NotClaimedError(f"the driver {driver.name!r} has no gradients")
        probe.expect(
            len(found) == 1 and np.array_equal(found[0], factor * weights),
            f"the gradient of sum(y * weights) for y = {formula} is not {factor} * weights",
            "the weights, or the call, are not used",
        )


def _identity(*, dim: int, alpha: float, seed: int) -> Any:
    return lambda x, *, training: x


def seed_sets_the_state(probe: Probe) -> None:
    """The same seed gives the same global random state, and ``kept_state`` restores it."""
    driver = probe.driver

    def state() -> bytes:
        driver.seed(1)
        return driver.random_state()

    first = state()
    probe.expect(
        first == state(),
        "random_state() differs after seed(1) and seed(1) again",
        "seed does not set all that random_state shows",
    )
    if driver.overrides("kept_state"):
        driver.seed(1)
        with driver.kept_state():
            driver.seed(2)
        probe.expect(
            driver.random_state() == first,
            "random_state() differs after a seed(2) inside of kept_state()",
            "kept_state does not restore the global random state",
        )


def keywords_by_name(probe: Probe) -> None:
    """``call`` passes the keywords that a layer names, and no others."""
    driver, seen = probe.driver, dict[str, Any]()

    def make(*, dim: int, alpha: float, seed: int) -> Any:
        def layer(x: Any, *, training: bool, step: int) -> Any:
            seen.update(training=training, step=int(step))
            return x

        return layer

    layer = driver.make(make, dtype="float32", dim=4, alpha=1.0, seed=0)
    x, mask = driver.from_numpy(_values((2, 3, 4)), "float32"), np.ones((2, 3), bool)
    for training, step in ((True, 3), (False, 4)):
        driver.call(layer, x, training=training, step=step, mask=driver.from_numpy(mask))
        probe.expect(
            seen == {"training": training, "step": step},
            f"call(layer, x, training={training}, step={step}, mask=...) gives a layer that names "
            f"training and step {seen}",
            "the keywords are lost or changed on the way to the layer",
        )


def compiles_once(probe: Probe) -> None:
    """A compiled layer is traced at its first call in a mode, and runs without Python after it.

    One that is traced again, for another step say, draws what is frozen into it anew, and passes.
    """
    driver, traced = probe.driver, list[bool]()

    def make(*, dim: int, alpha: float, seed: int) -> Any:
        def layer(x: Any, *, training: bool, step: int) -> Any:
            traced.append(training)
            return x

        return layer

    compiled = driver.compile(driver.call)
    if not driver.traces_once:
        raise NotClaimedError(GUARDS)
    layer = driver.make(make, dtype="float32", dim=4, alpha=1.0, seed=0)
    seen = []
    for training, step in ((False, 0), (True, 0), (True, 1), (False, 1), (True, 2)):
        x = driver.from_numpy(_values((2, 3, 4)) + step, "float32")
        compiled(layer, x, training=training, step=step)
        seen.append(len(traced))
    probe.expect(
        seen[0] > 0,
        "the layer does not run when its compiled call is first called",
        "`compile` does not call the layer",
    )
    probe.expect(
        seen[1] == seen[-1],
        f"after one compiled call in each mode the layer ran {seen[1]} times, and after three more "
        f"{seen[-1]} times",
        "`compile` traces again at every call or for every step, so a layer whose noise is frozen "
        "passes: compile once for each layer and mode, and make the step an argument of what is "
        "compiled. For a compiler that guards on Python state, set traces_once = False",
    )
