"""Whether an adapter's ``add_noise`` agrees with that of NumPy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from embnoise import _schedules as schedules
from embnoise._distributions import RADEMACHER, UNIFORM, resolve_distribution
from embnoise._noise import Noise
from embnoise._reference import add_noise
from embnoise._scales import resolve_scale
from embnoise._validation import dtype_name
from embnoise.testing.examples import over_examples
from embnoise.testing.inputs import Array
from embnoise.testing.probe import Probe
from embnoise.testing.profiles import profile_of

__all__ = ["agrees_with_numpy"]

TOKENS = ("mask", "segment_ids", "positions", "sample_ids", "where")


@dataclass(frozen=True, eq=False)
class Comparison:
    """One call of ``add_noise``."""

    noise: Noise
    shape: tuple[int, ...] = (2, 5, 19)
    step: int = 0
    given: tuple[str, ...] = ()
    """The token arguments to pass, of ``TOKENS``."""
    seed: int = 0
    """Determines the embeddings and the token arrays."""

    def embeddings(self) -> Array:
        """Values that look like embeddings."""
        return np.random.default_rng(self.seed).standard_normal(self.shape)

    def tokens(self) -> dict[str, Any]:
        """The token arrays, [B, L]."""
        draw = np.random.default_rng([self.seed, 1])
        batch, length, _ = self.shape if len(self.shape) == 3 else (1, *self.shape)
        rows = draw.integers(0, 2**31, batch)
        arrays = {
            "mask": draw.random((batch, length)) < 0.7,
            "segment_ids": np.sort(draw.integers(0, 4, (batch, length)), axis=1),
            "positions": draw.integers(0, 2**31, (batch, length)),
            "sample_ids": rows if self.seed % 2 else np.repeat(rows[:, None], length, axis=1),
            "where": draw.integers(0, 2, (batch, length)),
        }
        return {name: arrays[name] for name in self.given}


TABLE = (
    Comparison(Noise(5.0, seed=1)),
    Comparison(Noise(5.0, seed=2), given=("mask",), step=3, seed=1),
    Comparison(Noise(5.0, seed=2**64 - 1, stream="image"), given=TOKENS, step=2**32 - 1, seed=2),
    Comparison(Noise(5.0, "rademacher", antithetic=True, seed=4), (4, 3, 8), given=("sample_ids",)),
    Comparison(Noise(5.0, "gaussian", seed=5), (1, 9, 33), given=("segment_ids",), seed=3),
    Comparison(Noise(5.0, "gaussian", match="rms", length="padded"), given=("mask",), seed=4),
    Comparison(Noise(1.0, scale="per_token", length=7), (3, 4, 1), given=("where",), seed=5),
    Comparison(Noise(0.5, scale="absolute", seed=-3), (5, 8), step=7, given=("positions",), seed=6),
    Comparison(Noise(0.1, scale="relative", seed=8), given=("mask", "segment_ids"), seed=7),
    Comparison(Noise(schedules.cosine(5.0, 1.0, 10), seed=9), step=4, given=("mask",), seed=8),
)


def agrees_with_numpy(probe: Probe, dtype: str) -> None:
    """The noise is that of ``embnoise.add_noise``, over a table and what Hypothesis draws."""

    def compare(comparison: Comparison) -> None:
        with warnings.catch_warnings():
            # Where values are not known, positions may repeat; the noise is compared all the same.
            warnings.filterwarnings("ignore", "embnoise: segment_ids and positions", RuntimeWarning)
            _compare(probe, comparison, dtype)

    for comparison in TABLE:
        compare(comparison)
    examples = probe.driver.examples * profile_of(probe.profile).draws
    over_examples(_drawn, compare, int(examples))


def _drawn(draw: Any, st: Any) -> Comparison:
    alphas = st.floats(2**-6, 2**6, width=32)
    kinds = [schedules.linear, schedules.cosine, schedules.exponential, schedules.sigmoid]
    alpha = draw(alphas)
    if draw(st.booleans()):
        alpha = draw(st.sampled_from(kinds))(alpha, draw(alphas), draw(st.integers(1, 1000)))
    noise = Noise(
        alpha,
        draw(st.sampled_from(["uniform", "rademacher", "gaussian"])),
        draw(st.sampled_from(["neftune", "per_token", "absolute"])),
        draw(st.sampled_from(["tokens", "padded", 7])),
        draw(st.sampled_from(["support", "rms"])),
        draw(st.booleans()),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.sampled_from(["", "image"])),
    )
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 33)))
    given = tuple(name for name in TOKENS if draw(st.booleans()))
    return Comparison(
        noise, shape, draw(st.integers(0, 2**32 - 1)), given, draw(st.integers(0, 999))
    )


def _compare(probe: Probe, comparison: Comparison, dtype: str) -> None:
    driver, noise = probe.driver, comparison.noise
    native = driver.from_numpy(comparison.embeddings(), dtype)
    x = np.asarray(driver.to_numpy(native), np.float64)
    tokens = comparison.tokens()
    output = probe.add_noise(
        native,
        noise,
        step=comparison.step,
        **{name: driver.from_numpy(array) for name, array in tokens.items()},
    )
    what = f"for {noise}, step={comparison.step}, x of shape {x.shape} and {dtype}" + (
        f", with {', '.join(tokens)}" if tokens else ""
    )
    probe.expect(
        tuple(output.shape) == x.shape and dtype_name(output) == dtype,
        f"{what}, the output is {dtype_name(output)} of shape {tuple(output.shape)}",
        "the shape or the dtype of x is not restored",
    )
    found = np.asarray(driver.to_numpy(output), np.float64)
    # In float64 the reference adds the same float32 noise, and rounds less.
    exact = add_noise(x, noise, step=comparison.step, **tokens)
    silent = (exact == x).all(axis=-1)
    probe.expect(
        np.array_equal(found[silent], x[silent]),
        f"{what}, tokens without noise change",
        "tokens of magnitude 0 must keep their bits: select them, do not add 0",
    )
    excess = abs(found - exact) - _tolerance(noise, x, exact, dtype, fused=driver.fused)
    probe.expect(
        bool((excess <= 0).all()),
        f"{what}, {int((excess > 0).sum())} of {x.size} values differ from those of "
        f"embnoise.add_noise, by up to {float(abs(found - exact).max()):.3g}",
        "the plan or the kernel differs; or the sum is rounded twice, which fused = False allows"
        if driver.fused
        else "the plan or the kernel differs from the specification",
    )
    after = np.asarray(driver.to_numpy(native), np.float64)
    probe.expect(
        np.array_equal(after, x), f"{what}, the input is changed", "the noise is added in place"
    )


def _tolerance(noise: Noise, x: Array, exact: Array, dtype: str, *, fused: bool) -> Array:
    """What rounding may do to each value.

    One unit in the last place of the result if product and sum are rounded once; else one of the
    largest of x, noise and sum, and four of a noise whose unit values have more bits to round.
    """
    added = abs(exact - x)
    if fused:
        allowed = _spacing(abs(exact), dtype)
    else:
        allowed = _spacing(np.max([abs(x), abs(exact), added], axis=0), dtype)
        if resolve_distribution(noise.distribution) not in (UNIFORM, RADEMACHER):
            allowed = allowed + 4 * _spacing(added, "float32")
    if resolve_scale(noise.scale).uses_rms:  # the mean square may be computed in float32
        allowed = allowed + 16 * _spacing(added, "float32")
    return allowed


def _spacing(values: Array, dtype: str) -> Array:
    """The distance to the next value in a dtype."""
    if dtype == "bfloat16":  # float32 without the last 16 bits
        return _spacing(values, "float32") * 2**16
    spacing: Array = np.spacing(values.astype(dtype)).astype(np.float64)
    return spacing
