"""What the noise depends on: its seed and the step, and no global state."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE, cause_of_equal_sizes
from embnoise.testing.failures import NotClaimedError, UntestableError
from embnoise.testing.inputs import SMALL, Array, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.paths import over_paths
from embnoise.testing.registry import NOISE, check, needs_repeats

LATE = [256, 257, 2048, 2049, 65536]
"""Steps that a counter of 8 or 16 bits, or one in a short mantissa, confuses with others."""


def _same(left: Array, right: Array, tolerance: float = 2.0**-18) -> bool:
    """Whether two noises are equal, up to the rounding of subtracting a different table."""
    return bool(abs(left - right).max() <= tolerance * abs(left).max())


@check("EN05", dtypes="all", claimed=needs_repeats)
def same_seed_same_noise(context: CheckContext) -> None:
    """A layer made again with the same seed draws the same noise at the same steps.

    With ``seeded=True`` the framework's global seed differs the second time, which must not matter;
    with ``seeded="global"`` it is the same. Fails for layers that are seeded by the clock, follow a
    global generator, or share a generator with other layers.
    """
    for inputs in over_paths(context, sizes=True):
        _drawn_again(context, inputs)
    _drawn_again_otherwise(context)


def _steps(context: CheckContext) -> list[int]:
    """The first steps that have noise, and in plain batches one that is later."""
    start, late = context.first_step(), 41
    if not context.layer().takes("step"):  # each takes a call
        late = 13 if context.dtype == "float32" else 2
    loud = context.loud(range(start, start + late))
    return loud[:2] if context.where else list(dict.fromkeys((*loud[:3], loud[-1])))


def _drawn_again(context: CheckContext, inputs: Inputs) -> None:
    """Expect two layers with one seed to draw the same noise for a batch."""
    own = context.claims.seeded is True
    steps = _steps(context)
    same = partial(_same, tolerance=4 * context.usual_slack(inputs))
    first = _noises(context.layer(dim=inputs.dim), inputs, steps)
    again = _noises(context.layer(dim=inputs.dim, world=context.world + own), inputs, steps)

    def likely() -> str:
        layer = partial(context.layer, dim=inputs.dim)
        with context.transcript.paused():
            normalized = cause_of_equal_sizes(layer().eval(inputs))
            if context.case.inputs == "ids" and normalized:
                return normalized
            if own and same(_noises(layer(), inputs, steps), first):
                return (
                    "the layer draws from the framework's global generator (in JAX, from the key "
                    "that it is given; in Keras, a SeedGenerator without a seed takes one from "
                    "it): give it its own generator, or claim seeded='global'"
                )
            if same(*(_noises_from_numpy(context, inputs, steps) for _ in range(2))):
                return (
                    "the noise is drawn from NumPy's or Python's global generator, which neither "
                    "the layer's seed nor the framework's reaches"
                )
        return (
            "nothing fixes the draw: it comes from a generator that is seeded by the clock, or "
            "from a state that all layers share, such as a counter of the class"
        )

    other = "a different" if own else "the same"
    context.expect(
        same(first, again),
        f"two layers made with seed {context.seed} draw different noise ({other} global seed)",
        likely,
    )


def _drawn_again_otherwise(context: CheckContext) -> None:
    """Expect the same of a step that is given again, beside another layer, and of the seed 0."""
    own = context.claims.seeded is True
    inputs = context.batch()
    steps = [context.first_step() + k for k in (0, 1, 2)]
    same = partial(_same, tolerance=4 * context.usual_slack(inputs))
    first = _noises(context.layer(), inputs, steps)
    if own and context.layer().takes("step"):
        context.transcript.clear()
        layer = context.layer()
        first_time = layer.noise(inputs, steps[0])
        layer.noise(inputs, steps[1])
        context.expect(
            same(first_time, layer.noise(inputs, steps[0])),
            f"step {steps[0]} has other noise, or none, when it is given again after step "
            f"{steps[1]}",
            "the layer counts its calls although it is given the step, so that a recomputed or a "
            "restarted step draws anew",
        )
    context.transcript.clear()
    layer = context.layer()
    parts = [layer.noise(inputs, steps[0])]
    context.layer(name="other")
    parts += [layer.noise(inputs, step) for step in steps[1:]]
    context.expect(
        same(first, np.stack(parts)),
        "making a second layer changes the noise of the first",
        "the layers share one generator (of the class or the module), and each new layer seeds it "
        "again: give every layer its own generator",
    )
    context.transcript.clear()
    other = "a different" if own else "the same"
    zero = [
        context.layer(seed=0, world=context.world + (own and number)).noise(inputs, steps[0])
        for number in (0, 1)
    ]
    context.expect(
        same(*zero),
        f"two layers made with seed 0 draw different noise ({other} global seed)",
        "0 is taken for 'not given', as in `seed or time()`: ask whether the seed is None",
    )


def _noises_from_numpy(context: CheckContext, inputs: Inputs, steps: list[int]) -> Array:
    """The noise after the seeds of NumPy and Python are set, which the kit restores."""
    random.seed(context.world)
    np.random.seed(context.world)  # noqa: NPY002, as a user would
    return _noises(context.layer(dim=inputs.dim), inputs, steps)


def _noises(layer: LayerUnderTest, inputs: Inputs, steps: list[int]) -> Array:
    return np.stack([layer.noise(inputs, step) for step in steps])


@check("EN06", dtypes="all")
def steps_differ(context: CheckContext) -> None:
    """Every step draws new noise.

    Fails for layers that draw once and keep the draw, seed their generator again in every call,
    ignore the step that they are given, or keep it in too few bits.
    """
    inputs = context.batch()
    layer = context.layer()
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0]
    if layer.takes("step") and context.claims.schedule is None:
        steps += LATE
    units = [layer.units(inputs, step) for step in steps]
    for k in range(len(steps)):
        context.expect(
            bool(units[k].any()),
            f"there is no noise at step {steps[k]} in training mode",
            NO_NOISE,
            premises=("EN21",),
        )
        twins = [steps[j] for j in range(k) if _same(units[k], units[j], 2.0**-12)]
        twin = twins[0] if twins else steps[k]
        context.expect(
            not twins,
            f"steps {twin} and {steps[k]} have the same noise in all {units[k].size} elements",
            _cause_of_twins(twin, steps[k], at_once=k == 1),
        )
    if context.claims.seeded == "global" and context.driver.key is None:  # else it is given
        _draws_move_on(context, inputs, steps[0])
    if len(steps) < 2:
        raise NotClaimedError("the schedule is above 0 at one step only")


def _cause_of_twins(first: int, second: int, *, at_once: bool) -> str:
    """Why two steps have the same noise, which are the first two if ``at_once``."""
    if at_once:
        return (
            "it is drawn once and kept (in __init__, in a buffer, in a cache), the generator is "
            "seeded again in every call, or the step is not used, or divided"
        )
    apart = second - first
    how = "stops at some step" if apart == 1 else f"is taken modulo {apart} or a divisor of it"
    return (
        f"the noise repeats after some steps: the step or the count {how}, or is kept in too few "
        "bits; or a draw is kept, and added again later"
    )


def _draws_move_on(context: CheckContext, inputs: Inputs, step: int) -> None:
    """Expect two draws after one global seed to differ, and the second one to follow the seed.

    All other calls are made after a seed of their own, as if training were seeded at each step.
    """
    context.transcript.clear()
    layer = context.layer()
    native = layer.prepared(inputs)
    layer.advance(inputs, step)
    clean = layer.clean(inputs)
    seconds = []
    for moment in ("one", "other"):
        layer.seed(moment)
        first, second = (
            layer.checked(layer.call(inputs, native, training=True, step=step), inputs) - clean
            for _ in range(2)
        )
        context.expect(
            not _same(first, second, 2.0**-12),
            "two calls after one global seed have the same noise, as all steps of a run would",
            "the draw does not move the global generator on: it is made by one that is seeded from "
            "the global seed in every call, or the global state is put back after it",
        )
        seconds.append(second)
    context.expect(
        not _same(seconds[0], seconds[1], 2.0**-12),
        "the second call after a global seed has the same noise whatever the seed is",
        "the layer seeds the global generator with a number of its own",
        ("EN07",),
    )


@check("EN07", dtypes="all", claimed=needs_repeats, premises=(*NOISE, "EN05"))
def seeds_differ(context: CheckContext) -> None:
    """Another seed draws other noise: the layer's with ``seeded=True``, else the global one.

    Fails for layers whose seed is fixed in the code, or is lost on the way to the generator.
    """
    for inputs in over_paths(context, sizes=True):
        _seeds_differ(context, inputs)


def _seeds_differ(context: CheckContext, inputs: Inputs) -> None:
    """Expect some seeds to draw other noise for a batch than the context's, at every step."""
    own, steps = context.claims.seeded is True, _steps(context)
    far = 0x2AAAAAAB  # EN44 finds seeds of which only some are the same
    first, *others = (
        _noises(
            context.layer(
                dim=inputs.dim,
                seed=context.seed ^ apart if own else None,
                world=None if own else context.world ^ apart,
            ),
            inputs,
            steps,
        )
        for apart in (0, 1, far)
    )
    which, seed = ("seed=", context.seed) if own else ("the global seed ", context.world)
    for number, step in enumerate(steps):
        noise = first[number]
        context.expect(
            not all(_same(noise, other[number], 2.0**-12) for other in others) or not noise.any(),
            f"{which}{seed}, {which}{seed ^ 1} and {which}{seed ^ far} draw the same noise"
            + (f" at step {step}" if number else ""),
            "the seed is not used: it is fixed in the code, or lost on the way to the generator"
            if number == 0
            else "the seed counts at the first steps only: later ones draw from a generator that "
            "is made without it",
        )


@check(
    "EN14",
    dtypes="all",
    premises=("EN03",),
    claimed=lambda claims: None if claims.seeded else "seeded=False",
)
def random_state_untouched(context: CheckContext) -> None:
    """A call leaves the global random state of the framework, NumPy and Python alone.

    If it does not, turning noise on changes dropout and the order of the data, and no comparison
    with and without noise is fair. Evaluation and alpha = 0 must not draw either. With
    ``seeded="global"``, training may draw, from the framework's state alone.
    """
    own = context.claims.seeded is True
    cases = [(context.alpha, True), (0.0, True), (context.alpha, False)]
    for inputs in over_paths(context, sizes=True):
        for alpha, training in cases if own and context.refused(0.0) is None else cases[::2]:
            context.transcript.clear()
            _leaves_state(context, inputs, alpha, training=training)


def _leaves_state(context: CheckContext, inputs: Inputs, alpha: float, *, training: bool) -> None:
    """Expect a call to leave the global random state alone, or to draw where it may."""
    state = context.driver.random_state
    layer = context.layer(dim=inputs.dim, alpha=alpha)
    native = layer.prepared(inputs)
    start = layer.advance(inputs, context.first_step())
    layer.raw(inputs, native, training=training, step=start)  # builds what is built once
    random.random()  # noqa: S311, a state that the call above has set shows if it is set again
    np.random.random()  # noqa: NPY002
    layer.seed(start)
    other = _python_and_numpy()
    layer.seed(start + 1)
    kept = state()  # reading the state may change it
    layer.seed(start + 1)  # as the call does, with a global seed
    before = _python_and_numpy()
    layer.raw(inputs, native, training=training, step=start + 1)
    after = _python_and_numpy()
    mode = "training" if training else "evaluation"
    may_draw = training and context.claims.seeded is not True
    # What the driver seeds is the framework's.
    seeded = [name for name in before if may_draw and before[name] != other[name]]
    moved = [name for name in before if before[name] != after[name] and name not in seeded]
    if state() != kept and not may_draw:
        moved.append(f"the framework ({context.driver.name})")
    context.expect(
        not moved,
        f"a call in {mode} mode with alpha = {alpha:g} changes the global random state of "
        f"{' and '.join(moved)}",
        "the noise is drawn from the global generator, or seeds it: draw from the layer's own "
        "generator (in Keras keras.random with seed=), and only if there is noise to add",
    )


def _python_and_numpy() -> dict[str, Any]:
    words = np.random.get_state(legacy=True)  # noqa: NPY002, the state that must not change
    assert isinstance(words, tuple)
    return {"Python": random.getstate(), "NumPy": (words[1].tobytes(), *words[2:])}


@check(
    "EN39",
    premises=(),
    claimed=lambda claims: None if claims.validates_alpha else "validates_alpha=False",
)
def bad_alpha_refused(context: CheckContext) -> None:
    """A negative, infinite or NaN alpha raises an error that names alpha.

    Fails for layers that accept any number and train on NaN, or refuse only some negative ones.
    """
    for alpha in (-1.0, -0.3, -0.001, float("nan"), float("inf"), float("-inf")):
        context.transcript.clear()
        try:
            context.make(SMALL[2], alpha, context.seed)
        except UntestableError as error:
            text = str(error).partition("raised")[2]
            context.expect(
                text.lstrip().startswith(("ValueError", "TypeError")) and "alpha" in text,
                f"make_layer(alpha={alpha}) raised{text}",
                "the error is accidental: validate alpha, and raise a ValueError that names it",
            )
        else:
            context.expect(
                False, f"make_layer(alpha={alpha}) returns a layer", "alpha is not validated"
            )
