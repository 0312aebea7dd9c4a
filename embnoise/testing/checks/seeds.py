"""What the noise depends on: its seed and the step, and no global state."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE, cause_of_equal_sizes
from embnoise.testing.drivers import NODE
from embnoise.testing.failures import NotClaimedError, UntestableError
from embnoise.testing.inputs import SMALL, Array, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.registry import NOISE, SIZE, check, needs_repeats
from embnoise.testing.right_rows import expect_right_rows
from embnoise.testing.runs import repeated_run

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
    own = context.claims.seeded is True
    inputs = context.batch()
    steps = [context.first_step() + k for k in (0, 1, 2)]
    same = partial(_same, tolerance=4 * context.usual_slack(inputs))
    first = _noises(context.layer(), inputs, steps)
    again = _noises(context.layer(world=context.world + own), inputs, steps)

    def likely() -> str:
        with context.transcript.paused():
            embeddings = context.layer().eval(inputs)
            normalized = cause_of_equal_sizes(embeddings)
            if context.case.inputs == "ids" and normalized:
                return normalized
            if own and same(_noises(context.layer(), inputs, steps), first):
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
    if own and context.layer().takes("step"):
        context.transcript.clear()
        layer = context.layer()
        first_time = layer.units(inputs, steps[0])
        layer.units(inputs, steps[1])
        context.expect(
            same(first_time, layer.units(inputs, steps[0])),
            f"step {steps[0]} has other noise, or none, when it is given again after step "
            f"{steps[1]}",
            "the layer counts its calls although it is given the step, so that a recomputed or a "
            "restarted step draws anew",
        )
    context.transcript.clear()
    layer = context.layer()
    parts = [layer.units(inputs, steps[0])]
    context.layer(name="other")
    parts += [layer.units(inputs, step) for step in steps[1:]]
    context.expect(
        same(first, np.stack(parts)),
        "making a second layer changes the noise of the first",
        "the layers share one generator (of the class or the module), and each new layer seeds it "
        "again: give every layer its own generator",
    )
    context.transcript.clear()
    zero = [
        context.layer(seed=0, world=context.world + (own and number)).units(inputs, steps[0])
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
    return _noises(context.layer(), inputs, steps)


def _noises(layer: LayerUnderTest, inputs: Inputs, steps: list[int]) -> Array:
    return np.stack([layer.units(inputs, step) for step in steps])


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
    own = context.claims.seeded is True
    inputs = context.batch()
    step = context.first_step()
    first = context.layer().units(inputs, step)
    far = 0x2AAAAAAB  # EN44 finds seeds of which only some are the same
    others = [
        context.layer(
            seed=context.seed ^ apart if own else None,
            world=None if own else context.world ^ apart,
        ).units(inputs, step)
        for apart in (1, far)
    ]
    which, seed = ("seed=", context.seed) if own else ("the global seed ", context.world)
    context.expect(
        not all(_same(first, other, 2.0**-12) for other in others) or not first.any(),
        f"{which}{seed}, {which}{seed ^ 1} and {which}{seed ^ far} draw the same noise",
        "the seed is not used: it is fixed in the code, or lost on the way to the generator",
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
    state = context.driver.random_state
    inputs = context.batch()
    own = context.claims.seeded is True
    cases = [(context.alpha, True), (0.0, True), (context.alpha, False)]
    for alpha, training in cases if own and context.refused(0.0) is None else cases[::2]:
        context.transcript.clear()
        layer = context.layer(alpha=alpha)
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
        may_draw = training and not own
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


WORLD, RANKS = 2 * NODE, (0, 1, 2, 4, NODE, 15)
"""How many ranks a run has, and which of them are compared: some that are 2, 4 and 8 apart, and the
first ones of two nodes."""


def _claims_ranks(claims: Claims) -> str | None:
    return None if claims.distinct_ranks else "distinct_ranks=False"


@check("EN38", claimed=_claims_ranks, random=True, premises=(*SIZE, "EN06", "EN43", "EN45"))
def ranks_differ(context: CheckContext) -> None:
    """The ranks of a data-parallel run draw different noise of the claimed size from one seed.

    No rank has the noise of another one at another step, or with another seed. Ranks are seeded
    alike, so that their weights agree. Fails for layers that draw from that seed alone, and so add
    one draw to the different data of all ranks; that take the rank within a node (LOCAL_RANK) for
    the rank; or that add the rank to the seed or the step.
    """
    inputs = context.batch()
    steps = context.loud(range(context.first_step(), context.first_step() + 3))
    places, draws = [], []
    for rank in RANKS:
        with (
            context.transcript.block(f"with driver.rank({rank}, {WORLD}):"),
            context.driver.rank(rank, WORLD),
        ):
            for more in (0, 1):
                layer = context.layer(seed=context.seed + more, world=context.world + more)
                places += [(rank, more, step) for step in steps]
                draws += [layer.units(inputs, step) for step in steps]
        likely = f"rank {rank} of {WORLD} has noise of another size, or none"
        own = draws[-2 * len(steps) :]
        expect_right_rows(context, inputs, own, len(RANKS), likely)
    parts = [context.independent(units) for units in draws]
    rule = context.claims.distribution_rule
    found = repeated_run(np.concatenate(parts), rule)
    at = [places[place[0] // len(parts[0])] for place in found[0]] if found else places[:2]
    (one, _, _), (other, _, _) = at

    def likely_cause() -> str:
        if at[0][1:] != at[1][1:]:
            return (
                "the rank is added to the seed or to the step: give them to the generator as a "
                "tuple, or through a hash"
            )
        first = [part for part, (rank, *_) in zip(parts, places, strict=True) if rank < NODE]
        if repeated_run(np.concatenate(first), rule) is None:
            return (
                f"the rank within a node is taken for the rank: with {NODE} ranks to a node, "
                "LOCAL_RANK is the same for both"
            )
        return (
            "every rank seeds its generator alike: make the rank part of the seed, or number the "
            "samples over all ranks"
        )

    context.expect(
        found is None,
        f"ranks {one} and {other} of a data-parallel run of {WORLD} draw the same noise, or "
        "a part of it is the same",
        likely_cause,
    )


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
