"""Right in the first calls, at usual seeds, in float32 or without a mask, and wrong beyond."""

import os

import numpy as np

from embnoise import linear
from embnoise.testing import Claims
from tests.testing.faults.counters import one
from tests.testing.faults.layer import fault
from tests.testing.faults.sizes import clean

LINEAR = Claims(schedule=linear(1, 0, 1000), compilable=False)
GLOBAL = Claims(seeded="global", compilable=False)


def says_nothing(call):
    """Whether the layer is given a mask of ones."""
    return call.told and bool((call.mask != 0).all())


def from_step(number, wrong):
    """The wrong value from some step on."""
    return lambda value, call: wrong(value, call) if call.step >= number else value


def told(wrong):
    """The wrong value if there is a mask of ones."""
    return lambda value, call: wrong(value) if says_nothing(call) else value


def in_half(wrong):
    """The wrong value for embeddings in float16 or bfloat16."""
    return lambda value, call: wrong(value, call) if "16" in str(call.x.dtype) else value


def with_schedule(share, **hooks):
    """Hooks of a layer whose alpha has this share at a step."""
    return {"alpha": lambda alpha, call: alpha * share(call.step), **hooks}


def decay(step):
    return max(0.0, 1 - step / 1000)


def noisy_padding(noise, call):
    magnitude = call.layer.alpha / np.sqrt(call.shape[1] * call.shape[2])
    draw = np.random.default_rng([call.layer.seed, call.step])
    return draw.uniform(-magnitude, magnitude, call.shape)


def clock(seed, call):
    return seed or int.from_bytes(os.urandom(4), "big")


def overwritten(arrays, x, mask, noise, call):
    """The sum in a buffer of the layer, which is also what the last call returned."""
    made = x + arrays.array(noise, x)
    if getattr(x, "requires_grad", False):
        return made
    kept = call.memory.setdefault((call.shape, str(x.dtype)), made)
    kept[...] = made
    return kept


def halved_later(arrays, x, mask, noise, call):
    passed = x * 0.5 + arrays.stop(x) * 0.5 if call.step >= 3 else x
    return passed + arrays.array(noise, x)


FAULTS = [
    fault("integer alpha in half", "EN54", r"16\]: alpha.*rounded to an integer",
          "alpha rounded to an integer in 16 bits alone",
          alpha=in_half(lambda alpha, call: float(int(alpha)))),
    fault("width in half", "EN47", "float16.*padding is counted in L",
          "L is the row's width in 16 bits alone",
          length=in_half(lambda length, call: np.full(length.shape, call.shape[1]))),
    fault("clean in half", "EN53", "float16.*no noise",
          "1% of the elements without noise, in 16 bits alone", noise=in_half(clean(0.01))),
    fault("none if told", "EN63", "given, even where it says nothing",
          "no noise if there is a mask of ones", noise=told(lambda noise: 0 * noise)),
    fault("twice if told", "EN63", "given, even where it says nothing",
          "twice the noise if there is a mask of ones", noise=told(lambda noise: 2 * noise)),
    fault("one row if told", "EN63", "given, even where it says nothing",
          "one draw for all rows if there is a mask of ones",
          units=told(lambda units: np.broadcast_to(units[:1], units.shape))),
    fault("seed 0 is the clock", "EN05", "seed 0.*'not given'", "seed 0 taken for the clock",
          seed=clock, repeatable=False),
    fault("seed 0 is another", "EN44", "'not given'", "seed 0 taken for a default",
          seed=lambda seed, call: seed or 1234),
    fault("one-sided later", "EN46", "in another way: on .0, 1.",
          "noise on one side of 0 from step 2 on", units=from_step(2, lambda u, call: abs(u))),
    fault("signs later", "EN46", "in another way", "signs only, from step 2 on",
          units=from_step(2, lambda u, call: np.sign(u))),
    fault("signs later, counting", "EN46", "in another way", "signs only, from call 3 on",
          units=from_step(2, lambda u, call: np.sign(u)), takes_step=False),
    fault("one row later", "EN46", "used at several places", "one draw for all rows, from step 40",
          units=from_step(40, lambda u, call: np.broadcast_to(u[:1], u.shape))),
    fault("padding later", "EN51", "from some step on", "padding noised from step 7 on",
          noise=from_step(7, noisy_padding)),
    fault("width later", "EN51", "from some step on", "L is the row's width from step 7 on",
          length=from_step(7, lambda length, call: np.full(length.shape, call.shape[1]))),
    fault("half of the gradient later", "EN59", "gradient is scaled",
          "half of the gradient from step 3 on", output=halved_later),
    fault("output overwritten", "EN16", "which every call writes into",
          "an output that the next call overwrites", output=overwritten, frameworks=("torch",)),
    fault("repeats, with a schedule", "EN46", "the noise repeats",
          "the step modulo 50, with a schedule", claims=LINEAR,
          **with_schedule(decay, step=lambda step, call: step % 50)),
    fault("sum, with a schedule", "EN45", "added .or combined by xor",
          "seed and step added, with a schedule", claims=LINEAR,
          **with_schedule(decay, draw=one(lambda seed, step: seed + step))),
    fault("half at 300", "EN21", "0.35 at step 300", "half of alpha from step 300 to 399",
          claims=LINEAR,
          **with_schedule(lambda step: decay(step) * (0.5 if 300 <= step < 400 else 1))),
    fault("starts again at 20,000", "EN21", "at step 100003", "a schedule that starts over",
          claims=LINEAR, **with_schedule(lambda step: decay(step % 20_000))),
    fault("rounded share", "EN21", "another schedule than claimed",
          "the schedule rounded to hundredths", claims=LINEAR,
          **with_schedule(lambda step: round(decay(step), 2))),
]  # fmt: skip
