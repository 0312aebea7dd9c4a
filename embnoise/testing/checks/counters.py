"""Every seed and every step is one of its own, however far from the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from embnoise.testing.checks.ragged import FULL, OF_ONE_CALL, expect_claimed_draws
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.counts import far_apart
from embnoise.testing.failures import NotTestedError
from embnoise.testing.held import held
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.paths import SIZED, over_paths
from embnoise.testing.registry import DISTRIBUTION, NOISE, SEEDS, check
from embnoise.testing.runs import repeated_run
from embnoise.testing.statistics import RATE, amplitude, amplitude_window

FACTORS = (
    1, 2, 3, 5, 7, 8, 10, 13, 16, 17, 31, 32, 37, 64, 97, 100, 101, 127, 128, 256, 997, 1000, 1009,
    1024, 1337, 2048, 4096, 7919, 8192, 10_000, 12_345, 65_536, 99_991, 100_000, 123_457, 1_000_000,
    1_000_003,
)  # fmt: skip
"""What a seed or a step is multiplied with before they are added."""


def _key(units: Array) -> bytes:
    """The same for equal noise, and for no other; not for noise that is 0."""
    return np.round(units * 2.0**12).astype(np.int32).tobytes()


def _keys_of_parts(units: Array) -> Iterator[bytes]:
    """The keys of single rows and tokens that have too much noise to be equal by chance."""
    words = np.round(units * 2.0**12).astype(np.int32)
    for parts in (words.reshape(len(words), -1), words.reshape(-1, words.shape[-1])):
        values = 1 + (np.diff(np.sort(parts, axis=-1)) != 0).sum(axis=-1)
        yield from (part.tobytes() for part in parts[values >= 12])


def _own_seed(claims: Claims) -> str | None:
    return None if claims.seeded is True else f"seeded={claims.seeded!r}"


USUAL = (0, 1, 42, 123, 1234)
"""Seeds as people choose them, among them what a layer may take if it is given 0."""


def _longest(context: CheckContext) -> int:
    """All periods up to this are tested."""
    return 576 if not context.profile.draws else 4096


@check("EN44", claimed=_own_seed, premises=SEEDS)
def all_seeds_differ(context: CheckContext) -> None:
    """Any two seeds draw different noise, whether they are neighbors or far apart.

    Fails for layers that keep a seed in few bits, take its remainder by some number, or divide it;
    or that take 0 for "not given" (``seed or 42``).
    """
    inputs = context.batch()
    step = context.first_step()
    start = context.seed % 2**29
    seen: dict[bytes, int] = {}
    for seed in (*USUAL, *(start + offset for offset in far_apart(_longest(context)))):
        context.transcript.clear()
        units = context.layer(seed=seed).units(inputs, step)
        if not units.any():
            raise NotTestedError("there is no noise, which EN06 reports")
        other = seen.setdefault(_key(units), seed)
        apart = seed - other
        context.expect(
            not apart,
            f"the seeds {other} and {seed}, which are {apart} apart, draw the same noise",
            lambda other=other, apart=apart: _cause_of_twins(context, inputs, other, apart),  # type: ignore[misc]
        )


def _cause_of_twins(context: CheckContext, inputs: Inputs, seed: int, apart: int) -> str:
    """Why a seed and another one that is so far apart draw the same noise."""
    with context.transcript.paused():
        step = context.first_step()
        later = [context.layer(seed=each).units(inputs, step) for each in (1, 2)]
        others = [context.layer(seed=each + apart).units(inputs, step) for each in (1, 2)]
    if seed == 0 and not any(map(_are_equal, later, others)):
        return f"0 is taken for 'not given', as in `seed or {apart}`: ask whether the seed is None"
    if apart == 1:
        return "the seed is divided, so that neighbors are one"
    return f"the seed is taken modulo {apart} or a divisor of it: it is kept in too few bits"


@check("EN45", claimed=_own_seed, premises=SEEDS)
def seed_and_step_differ(context: CheckContext) -> None:
    """A seed's steps are not the steps of another seed, earlier or later.

    Fails for layers that add seed and step, or multiples of them, multiply them or combine them by
    xor, so that runs with different seeds share their noise.
    """
    for inputs in over_paths(context):
        _seed_and_step_differ(context, inputs, (1,) if context.where else FACTORS)
    context.transcript.clear()
    _joined_differ(context, context.batch())


def _seed_and_step_differ(context: CheckContext, inputs: Inputs, factors: Sequence[int]) -> None:
    """Expect the steps of seeds that are so far apart to differ."""
    start = context.seed % 2**5 * 2**25 + 2**24  # for a smaller number, + and xor are the same
    first = context.layer(seed=start)
    near = context.loud(range(context.first_step() + 4))
    # a * seed + b * step is the same for a step that is a later and a seed that is b higher.
    far = factors if first.takes("step") or context.where else range(1, 33)
    least = context.claims.share(near[0]) / 10
    later = [near[0] + apart for apart in far if context.claims.share(near[0] + apart) >= least]
    steps = list(dict.fromkeys((*near, *later)))
    noises = {step: first.units(inputs, step) for step in steps}
    if len({_key(units) for units in noises.values()}) < len(noises):
        raise NotTestedError("steps repeat, which EN06 reports")
    parts = {key for units in noises.values() for key in _keys_of_parts(units)}
    for seed in (*(start + apart for apart in factors), 2 * start):
        context.transcript.clear()
        layer = context.layer(seed=seed)
        for step in near[:2]:
            units = layer.units(inputs, step)
            # Of another alpha, which a schedule may have at another step, they are rounded apart.
            twins = [other for other, known in noises.items() if _are_equal(known, units)]
            twin = twins[0] if twins else step
            context.expect(
                twin == step,  # EN07 and EN44 report that of the same step
                f"seed {start} at step {twin} and seed {seed} at step {step} have the same noise",
                "seed and step are multiplied into one number: give both to the generator, as a "
                "pair or through a hash"
                if seed == 2 * start
                else "seed and step, or multiples of them, are added (or combined by xor) into one "
                "number: give both to the generator, as a pair or through a hash",
            )
            context.expect(
                bool(twins) or parts.isdisjoint(_keys_of_parts(units)),
                f"a row or a token of seed {start} has the noise of another one of seed {seed}",
                "the seed is added to the number of the row or of the token: give both to the "
                "generator, as a pair or through a hash",
            )


JOINED = ((12, 34), (123, 4)), ((34, 2), (4, 23))
"""Pairs of a seed and a step that are one number when their digits are joined, in either order."""


def _joined_differ(context: CheckContext, inputs: Inputs) -> None:
    """Expect pairs of a seed and a step not to be joined into one number."""
    for pairs in JOINED:
        context.transcript.clear()
        if not all(context.claims.share(step) for _, step in pairs):
            continue
        units, others = (context.layer(seed=seed).units(inputs, step) for seed, step in pairs)
        context.expect(
            not _are_equal(units, others),
            f"the seeds and steps {pairs[0]} and {pairs[1]} have the same noise",
            "the digits of seed and step are joined into one number: give both to the generator",
        )


def _are_equal(left: Array, right: Array) -> bool:
    return bool(abs(left - right).max() <= 2.0**-12 * abs(left).max())


FEW = 0, 1, 2, 100, 256, 1000, 1024, 10_000, 2**16, 10**6, 2**20
"""The steps of padded and packed batches: a round number apart."""


def _calls(context: CheckContext, *, few: bool) -> int:
    """How many training calls a layer that counts them must endure."""
    if few:
        return 24 if not context.profile.draws else 140
    return 140 if not context.profile.draws else 300


@check("EN46", dtypes="usual", random=True, premises=(*NOISE, "EN05", "EN06", "EN10"))
def noise_endures(context: CheckContext) -> None:
    """Every step has new noise of the same size, after many calls and at large steps too.

    The noise of all these steps is drawn anew, centered and of the claimed distribution, and a
    layer that counts its calls holds no more after them. With a schedule, the steps are those whose
    noise is not far below the largest. Fails for layers whose count wraps, whose noise repeats
    after some round number of steps, changes from some step on, or ends; or that keep something of
    every call, of padded or packed batches too.
    """
    if context.claims.schedule is not None:
        context.premises += ("EN21",)
    paths: Iterable[Inputs] = [context.batch()]
    if context.dtype == "float32":
        paths = over_paths(context)
    for inputs in paths:
        context.premises += SIZED if context.where else ()
        _endures(context, inputs)


def _endures(context: CheckContext, inputs: Inputs) -> None:
    """Expect all steps of a batch to have noise of their own, of one size."""
    layer = context.layer()
    given, few = layer.takes("step"), bool(context.where)
    tested: Iterable[int] = range(_calls(context, few=few))
    if given:
        tested = FEW if few else far_apart(_longest(context))
    steps = context.loud(tested)
    seen: dict[bytes, int] = {}
    real = context.independent(inputs.mask)
    rule = context.claims.distribution_rule
    sizes, units = [], []
    held_before = 0
    half = len(steps) // 2
    for number, step in enumerate(steps):
        if number == half and not given:
            held_before = held(layer.native)
        units.append(layer.units(inputs, step))
        ended = not units[-1].any()
        context.expect(
            not ended,
            f"the noise ends: there is none at step {step}, and at step {steps[0]} there is",
            ENDS,
        )
        twin = seen.setdefault(_key(units[-1]), step)
        context.expect(
            twin == step,
            f"steps {twin} and {step} have the same noise",
            _repeats(step - twin),
        )
        sizes.append(amplitude(rule, context.independent(units[-1])[real]))
    if not given:
        more, calls = held(layer.native) - held_before, len(steps) - half
        context.expect(
            more < calls,
            f"the layer holds {more} more objects after {calls} more calls",
            "something is kept from every call (noise in a list, a hook that forward registers): "
            "memory grows until there is none left",
        )
    count = int(real.sum()) * inputs.dim
    low, high = amplitude_window(rule, count, RATE / (6 * len(steps)))
    slack = 2 * context.usual_slack(inputs) + 2.0**-16
    low, high, known = low - slack, high + slack, 1.0
    if (
        not low <= sizes[0] <= high
    ):  # of another scale: others report it, and this one that it stays
        low, high, known = low / high, high / low if low > 0 else np.inf, sizes[0]
    off = [k for k, size in enumerate(sizes) if not low <= size / known <= high]
    context.expect(
        not off,
        f"at step {steps[off[0]] if off else 0} the noise is {sizes[off[0]] if off else 0:.4g} of "
        f"what it should be, and at step {steps[0]} {sizes[0]:.4g} ({len(off)} of {len(steps)} "
        "steps are off)",
        "the noise grows or fades with the calls, though no schedule is claimed",
        DISTRIBUTION,
    )
    if few:
        return
    if len(steps) > 1:
        _as_at_first(context, inputs, steps, units)
    if context.dtype == "float32":
        _never_again(context, inputs, layer, seen)


def _never_again(
    context: CheckContext, inputs: Inputs, layer: LayerUnderTest, seen: dict[bytes, int]
) -> None:
    """Expect no step of many more to be without noise, or to have that of another one.

    Args:
        context: The check's.
        inputs: The batch.
        layer: The layer.
        seen: The steps that were looked at, by the keys of their noise.
    """
    last = int(MANY * context.driver.examples * context.profile.draws)
    for step in context.loud(range(last)):
        if step < layer.calls and not layer.takes("step"):
            continue
        with context.transcript.paused():
            units = layer.units(inputs, step)
        twin = seen.setdefault(_key(units), step)
        if twin == step and units.any():
            continue
        context.transcript.clear()
        other = context.layer()
        other.units(inputs, twin)
        other.units(inputs, step)
        context.expect(
            bool(units.any()),
            f"the noise ends: there is none at step {step}",
            ENDS,
        )
        context.expect(
            False,
            f"steps {twin} and {step} have the same noise",
            f"{_repeats(step - twin)}, such as a hash of 16 bits",
        )


MANY = 42
"""So many steps for each batch that Hypothesis draws: few where a call takes long."""


ENDS = "noise for the first steps only, or a count that overflows"


def _repeats(apart: int) -> str:
    return (
        f"the noise repeats: the step or the count is taken modulo {apart} or a divisor of it, or "
        "is kept in too few bits"
    )


def _cause_of_run(at: list[int], where: Sequence[tuple[int, ...]]) -> str:
    """Why the same values occur at two steps and places; nothing if there are no such places."""
    if at[0] == at[1]:
        return f"from some step on, {at[0]} or an earlier one, one draw is used at several places"
    if where[0] == where[1]:
        return _repeats(abs(at[1] - at[0]))
    return "the noise of many steps is cut from one draw (a pool), at places that overlap"


def _as_at_first(
    context: CheckContext, inputs: Inputs, steps: list[int], units: list[Array]
) -> None:
    """Expect the noise of all steps to be drawn as that of the first ones, which others test."""
    rows = len(context.independent(units[0]))
    pooled = np.concatenate([context.independent(each) for each in units])
    found = repeated_run(pooled, context.claims.distribution_rule)
    at = [steps[place[0] // rows] for place in found[0]] if found else [0, 0]
    where = [(place[0] % rows, *place[1:]) for place in found[0]] if found else []
    context.expect(
        found is None,
        f"the same values occur twice: at step {at[0]} and (row, token, channel) "
        f"{where[0] if where else ''}, and at step {at[1]} and {where[1] if where else ''}",
        _cause_of_run(at, where),
        FULL,
    )
    context.premises += OF_ONE_CALL
    expect_claimed_draws(
        context,
        inputs,
        pooled.ravel(),
        f"{len(steps)} steps up to {steps[-1]}",
        "from some step on the noise is drawn in another way",
        RATE / 8,
    )
