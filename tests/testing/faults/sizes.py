"""Parts of the noise that have another size, and alphas that are changed on the way."""

import math

import numpy as np

from tests.testing.faults.layer import fault


def scaled(index, factor):
    """Some of the noise, given as an index, by another factor."""

    def noise(noise, call):
        noise = noise.copy()
        if all(size > 4 for size in noise.shape[1:]):
            noise[index] *= factor
        return noise

    return noise


def hollow(units):
    """No sizes from 0.4 to 0.6: others instead, with the same mean square."""
    sizes = abs(units)
    lower, upper = 0.2 + (sizes - 0.4) * 0.2 / 0.12, 0.6 + (sizes - 0.52) * 0.2 / 0.08
    moved = np.where((sizes > 0.4) & (sizes < 0.6), np.where(sizes < 0.52, lower, upper), sizes)
    return np.copysign(moved, units)


def clean(share, seed=3):
    """A share of the elements gets no noise."""

    def noise(noise, call):
        kept = np.random.default_rng([seed, call.step]).random(noise.shape) >= share
        return noise * kept

    return noise


def on_units(change):
    return lambda units, call: change(units)


def alpha(name, says, text, change, caught_by="EN54"):
    return fault(f"alpha {name}", caught_by, says, text, alpha=lambda value, call: change(value))


def odd(name, which, text, index, factor):
    return fault(name, "EN52", f"{which} .*scaled by another factor", text,
                 noise=scaled(index, factor))  # fmt: skip


def one_sided(name, which, text, index):
    def units(units, call):
        units = units.copy()
        if units.size:
            units[index] = abs(units[index])
        return units

    return fault(f"one-sided {name}", "EN52", f"{which} .*not centered, or on one side", text,
                 units=units)  # fmt: skip


def in_bfloat16(magnitude, call):
    """Rounded to 8 bits of mantissa."""
    mantissa, exponent = np.frexp(magnitude)
    return np.ldexp(np.round(mantissa * 2**8) / 2**8, exponent)


ROUNDED = "rounded to an integer, clipped"

FAULTS = [
    odd("half a channel", "channel 3", "one channel with half of the noise", np.s_[..., 3], 0.5),
    odd("last channel", "channel", "the last channel with half of the noise", np.s_[..., -1], 0.5),
    odd("small channel", "channel 0", "one channel with a tenth of the noise", np.s_[..., 0], 0.1),
    odd("three quarters of a channel", "channel 2", "one channel with three quarters of the noise",
        np.s_[..., 2], 0.75),
    odd("every eighth channel", "channel", "every eighth channel with half of the noise",
        np.s_[..., ::8], 0.5),
    odd("upper channels", "channel", "half of the channels with 0.8 of the noise",
        np.s_[..., 8:], 0.8),
    odd("first token", "token 0", "the first token with half of the noise", np.s_[:, 0], 0.5),
    odd("last token", "token", "the last token with half of the noise", np.s_[:, -1], 0.5),
    odd("second token", "token 1", "one token with 0.8 of the noise", np.s_[:, 1], 0.8),
    odd("odd tokens", "token", "every second token with half of the noise", np.s_[:, 1::2], 0.5),
    odd("last row", "row|token|channel", "the last row with half of the noise", np.s_[-1], 0.5),
    odd("first row", "row|token|channel", "the first row with 0.8 of the noise", np.s_[0], 0.8),
    odd("doubled channel", "channel 3", "one channel with twice the noise", np.s_[..., 3], 2.0),
    odd("doubled first token", "token 0", "the first token with twice the noise", np.s_[:, 0], 2.0),
    odd("rows from 2", "row|token|channel", "all rows but two with half of the noise", np.s_[2:],
        0.5),
    one_sided("last token", "token", "the last token with positive noise alone", np.s_[:, -1]),
    one_sided("odd channels", "channel", "every second channel with positive noise alone",
              np.s_[..., 1::2]),
    one_sided("first row", "row|token|channel", "the first row with positive noise alone",
              np.s_[0]),
    fault("signs in odd rows", "EN52", "row", "every second row with signs alone",
          units=lambda units, call: np.where(np.arange(len(units))[:, None, None] % 2,
                                             np.sign(units), units)),
    fault("fading along the row", "EN52", "token", "noise that fades along the row",
          noise=lambda noise, call: noise * np.linspace(1, 0.6, noise.shape[1])[:, None]),
    fault("fading along the channels", "EN52", "channel", "noise that fades along the channels",
          noise=lambda noise, call: noise * np.linspace(1, 0.6, noise.shape[2])),
    fault("signs in one channel", "EN52", "channel 4", "one channel that has signs only",
          units=lambda units, call: np.where(np.arange(units.shape[2]) == 4, np.sign(units),
                                             units)),
    fault("one channel squared", "EN52", "channel 4", "one channel with another distribution",
          units=lambda units, call: np.where(np.arange(units.shape[2]) == 4,
                                             units * abs(units) ** 3, units)),
    fault("1% clean", "EN53", "no noise", "1% of the elements without noise", noise=clean(0.01)),
    fault("0.3% clean", "EN53", "no noise", "0.3% of the elements without noise",
          noise=clean(0.003)),
    fault("3% clean", "EN53", "no noise", "3% of the elements without noise", noise=clean(0.03)),
    fault("dropped by the half", "EN53", "no noise", "dropout on the noise", noise=clean(0.5)),
    fault("small noise dropped", "EN53", "no noise", "small noise set to 0",
          units=on_units(lambda units: units * (abs(units) > 0.01))),
    fault("hollow", "EN31", "distribution function", "no noise of middling size",
          units=on_units(hollow)),
    fault("magnitude in bfloat16", "EN10", "a little too large: rounded to 16 bits",
          "the magnitude rounded to bfloat16", magnitude=in_bfloat16),
    fault("clipped at 0.99", "EN53", "clipped", "noise clipped at 0.99 of its range",
          units=on_units(lambda units: np.clip(1.01 * units, -1, 1))),
    fault("clipped on one side", "EN53", "clipped", "positive noise clipped",
          units=on_units(
              lambda units: np.where(units > 0, np.minimum(1.01 * units, 1), units)
          )),
    fault("1% rounded", "EN53", "rounded", "1% of the elements rounded to one value",
          units=on_units(lambda units: np.where(abs(units - 0.5) < 0.01, 0.5, units))),
    alpha("as an integer", ROUNDED, "int(alpha)", int),
    alpha("rounded", ROUNDED, "round(alpha)", round),
    alpha("rounded up", ROUNDED, "ceil(alpha)", math.ceil),
    alpha("at most 10", ROUNDED, "alpha at most 10", lambda value: min(value, 10.0)),
    alpha("at most 100", ROUNDED, "alpha at most 100", lambda value: min(value, 100.0)),
    alpha("at least 1", ROUNDED, "alpha at least 1",
          lambda value: max(value, 1.0) if value else 0.0),
    alpha("at least 0.1", ROUNDED, "alpha at least 0.1",
          lambda value: max(value, 0.1) if value else 0.0),
    alpha("below a threshold", ROUNDED, "no noise for an alpha below 0.1",
          lambda value: value if value >= 0.1 else 0.0),
    alpha("in half precision", ROUNDED, "alpha in half precision",
          lambda value: float(np.float16(value))),
    alpha("in tenths", ROUNDED, "alpha rounded to tenths", lambda value: round(value, 1)),
    alpha("by tanh", "other than as a factor", "tanh of alpha",
          lambda value: 5 * math.tanh(value / 5), "EN11"),
    alpha("by log1p", "other than as a factor", "log(1 + alpha)", math.log1p, "EN11"),
    fault("alpha rooted", "EN11", "square root", "the square root of alpha",
          alpha=lambda value, call: math.sqrt(value)),
    fault("alpha squared", "EN11", "enters twice", "the square of alpha",
          alpha=lambda value, call: value**2),
    fault("alpha's default", "EN11", "not used", "alpha's default, 5, whatever is given",
          alpha=lambda value, call: 5.0 * bool(value)),
    fault("without the root", "EN08", "square root is missing", "alpha/(L*d)",
          magnitude=lambda value, call: value**2 / (call.layer.alpha or 1)),
    fault("fourth root", "EN11", "under the square root", "a fourth root",
          magnitude=lambda value, call: np.sqrt(value)),
    fault("root of the length alone", "EN08", "another scale|instead|missing", "sqrt(L) * d",
          magnitude=lambda value, call: value / call.shape[2] ** 0.5),
    fault("d less one", "EN10", "at most", "sqrt(L * (d - 1))",
          magnitude=lambda value, call: value * (call.shape[2] / max(call.shape[2] - 1, 1)) ** 0.5),
    fault("d of the model", "EN10", "at most", "d fixed at 64",
          magnitude=lambda value, call: value * (call.shape[2] / 64) ** 0.5),
]  # fmt: skip
