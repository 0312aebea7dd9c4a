"""What the noise depends on: its seed and the step, and nothing global."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.failures import MisuseError, UnclaimedError
from embnoise.testing.inputs import Inputs
from embnoise.testing.layer import Array, Layer
from embnoise.testing.registry import check, needs_repeats
from embnoise.testing.subject import Subject

LATE = [256, 257, 2048, 2049, 65536]
"""Steps that a counter of 8 or 16 bits, or of a short mantissa, takes for others."""


def same(left: Array, right: Array, tolerance: float = 2.0**-18) -> bool:
    """Whether two noises are one, but for what subtracting a table that differs may leave."""
    return bool(abs(left - right).max() <= tolerance * abs(left).max())


@check("EN05", claimed=needs_repeats)
def same_seed_same_noise(subject: Subject) -> None:
    """A layer made again with the same seed gives the same noise at the same steps.

    With ``seeded=True`` the framework's global seed is another one the second time, and must not
    matter; with ``seeded="global"`` it is the same. A layer fails it that is seeded by the clock,
    follows a generator that is not its own, or shares one with other layers.
    """
    own = subject.claims.seeded is True
    inputs = subject.batch()
    steps = [subject.first_step() + k for k in (0, 1, 2)]
    first = _noises(subject.layer(), inputs, steps)
    again = _noises(subject.layer(world=subject.world + own), inputs, steps)
    likely = "nothing fixes the draw: it comes from a generator that is seeded by the clock"
    if own and not same(first, again):
        lines = list(subject.lines)
        follows = same(_noises(subject.layer(), inputs, steps), first)
        subject.lines = lines
        if follows:
            likely = (
                "the layer draws from the framework's global generator (in JAX, from the key that "
                "it is given): give it a generator of its own, or claim seeded='global'"
            )
    other = "another" if own else "the same"
    subject.expect(
        same(first, again),
        f"two layers made with seed {subject.seed} give different noise ({other} global seed)",
        likely,
    )
    subject.anew()
    layer = subject.layer()
    parts = [layer.units(inputs, steps[0])]
    subject.layer()  # another one, made meanwhile
    subject.lines[-1] = subject.lines[-1].replace("layer =", "other =", 1)
    parts += [layer.units(inputs, step) for step in steps[1:]]
    subject.expect(
        same(first, np.stack(parts)),
        "making a second layer changes the noise of the first",
        "the layers share one generator (of the class, or of the module), which each one that is "
        "made seeds anew: give every layer its own",
    )


def _noises(layer: Layer, inputs: Inputs, steps: list[int]) -> Array:
    return np.stack([layer.units(inputs, step) for step in steps])


@check("EN06")
def steps_differ(subject: Subject) -> None:
    """Every step has noise of its own.

    A layer fails it that draws once and keeps the draw, seeds its generator anew in every call,
    does not use the step that it is given, or keeps it in too few bits.
    """
    inputs = subject.batch()
    layer = subject.layer()
    start = subject.first_step()
    steps = [step for step in range(start, start + 20) if subject.claims.share(step) > 0]
    if layer.takes("step") and subject.claims.schedule is None:
        steps += LATE
    units = [layer.units(inputs, step) for step in steps]
    for k in range(len(steps)):
        subject.expect(
            bool(units[k].any()), f"there is no noise at step {steps[k]} in training mode", NO_NOISE
        )
        twins = [steps[j] for j in range(k) if same(units[k], units[j], 2.0**-12)]
        subject.expect(
            not twins,
            f"steps {twins[0] if twins else 0} and {steps[k]} have the same noise in all "
            f"{units[k].size} elements",
            "it is drawn once and kept (in __init__, in a buffer, in a cache), the generator is "
            "seeded anew in every call, the step is not used, or it repeats after some steps",
        )
    if len(steps) < 2:
        raise UnclaimedError("the schedule is above 0 at one step only")


@check("EN07", claimed=needs_repeats)
def seeds_differ(subject: Subject) -> None:
    """Another seed gives other noise: its own with ``seeded=True``, else the global one.

    A layer fails it whose seed is written into the code, or is dropped on the way.
    """
    own = subject.claims.seeded is True
    inputs = subject.batch()
    step = subject.first_step()
    first = subject.layer().units(inputs, step)
    other = subject.layer(seed=subject.seed + own, world=subject.world + (not own)).units(
        inputs, step
    )
    which = "seed=" if own else "the global seed "
    subject.expect(
        not same(first, other, 2.0**-12) or not first.any(),
        f"{which}{subject.seed} and {which}{subject.seed + 1} give the same noise",
        "the seed is not used: it is fixed in the code, or dropped on the way to the generator",
    )


@check(
    "EN14",
    claimed=lambda claims: None if claims.seeded is True else f"seeded={claims.seeded!r}",
)
def random_state_untouched(subject: Subject) -> None:
    """A call leaves the global random state of the framework, NumPy and Python alone.

    Otherwise turning noise on changes dropout and the order of the data, and no comparison with and
    without noise is fair. Evaluation and alpha = 0 must not draw either.
    """
    state = subject.able("random_state")
    inputs = subject.batch()
    for alpha, training in ((subject.alpha, True), (0.0, True), (subject.alpha, False)):
        subject.anew()
        layer = subject.layer(alpha=alpha)
        native = layer.prepared(inputs)
        start = layer.advance(inputs, subject.first_step())
        layer.raw(inputs, native, training=training, step=start)  # what is built once is built now
        layer.seed(1)
        kept = state()  # which may move what it tells
        layer.seed(1)
        before = _python_and_numpy()
        layer.raw(inputs, native, training=training, step=start + 1)
        after = _python_and_numpy()
        mode = "training" if training else "evaluation"
        moved = [name for name in before if before[name] != after[name]]
        if state() != kept:
            moved.append(f"the framework ({subject.case.driver.name})")
        subject.expect(
            not moved,
            f"a call in {mode} mode with alpha = {alpha:g} moves the global random state of "
            f"{' and '.join(moved)}",
            "the noise is drawn from (or seeds) the global generator: draw it from a generator "
            "of the layer's own (keras.random with seed=), and only where there is noise to add",
        )


def _python_and_numpy() -> dict[str, Any]:
    words = np.random.get_state(legacy=True)  # noqa: NPY002, the state that must not move
    assert isinstance(words, tuple)
    return {"Python": random.getstate(), "NumPy": (words[1].tobytes(), *words[2:])}


def _claims_ranks(claims: Claims) -> str | None:
    return None if claims.ranks else "ranks=False"


@check("EN38", claimed=_claims_ranks)
def ranks_differ(subject: Subject) -> None:
    """The ranks of a data-parallel run draw different noise from the same seed.

    Ranks are seeded alike, so that their weights agree; a layer fails it that draws from that seed
    alone, and gives all ranks one draw for different data.
    """
    rank = subject.able("rank")
    inputs = subject.batch()
    noises = []
    for number in range(2):
        subject.lines.append(
            f"# what follows, as rank {number} of 2: with driver.rank({number}, 2):"
        )
        with rank(number, 2):
            noises.append(subject.layer().noise(inputs, subject.first_step()))
    subject.expect(
        not same(noises[0], noises[1], 2.0**-12),
        "ranks 0 and 1 of a data-parallel run draw the same noise",
        "every rank seeds its generator alike: make the rank part of the seed, or number the "
        "samples over all ranks",
    )


@check("EN39", claimed=lambda claims: None if claims.refuses else "refuses=False")
def bad_alpha_refused(subject: Subject) -> None:
    """A negative, infinite or NaN alpha is refused with an error that names alpha.

    A layer fails it that takes any number, and trains on NaN.
    """
    for alpha in (-1.0, float("nan"), float("inf")):
        subject.anew()
        try:
            subject.make(16, alpha, subject.seed)
        except MisuseError as error:
            text = str(error).partition("raised")[2]
            subject.expect(
                text.lstrip().startswith(("ValueError", "TypeError")) and "alpha" in text,
                f"make_layer(alpha={alpha}) raised{text}",
                "the error is one by accident: refuse it by name, with a ValueError",
            )
        else:
            subject.expect(
                False, f"make_layer(alpha={alpha}) gives a layer", "alpha is not looked at"
            )
