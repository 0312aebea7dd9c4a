"""How the noise follows alpha: as a factor and by its schedule, whatever the embeddings are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embnoise._schedules import Schedule
from embnoise.testing.batches import Batch
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import (
    NO_NOISE,
    cause_of_clipping,
    cause_of_equal_sizes,
    is_close,
)
from embnoise.testing.guessed import GUESSED, guesses_padding
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.paths import SIZED, over_paths
from embnoise.testing.registry import check, needs_repeats
from embnoise.testing.statistics import RATE, amplitude, amplitude_window


@check("EN11", claimed=needs_repeats, premises=("EN02", "EN24", "EN05", "EN12"))
def alpha_is_proportional(context: CheckContext) -> None:
    """Twice the alpha gives twice the noise, or as much more as the claimed scale does.

    Padded, packed and large batches have no other alpha. Fails for layers that ignore alpha, or put
    it under the square root.
    """
    for inputs in over_paths(context, sizes=True):
        _is_proportional(context, inputs)


def _is_proportional(context: CheckContext, inputs: Inputs) -> None:
    """Expect twice the alpha to give a batch twice the noise."""
    step = context.first_step()
    share = context.claims.share(step)
    noises, claimed, largest, real = [], [], 0.0, inputs.mask  # EN09 tests padding
    for alpha in (context.alpha, 2 * context.alpha):
        layer = context.layer(dim=inputs.dim, alpha=alpha)
        noises.append(layer.noise(inputs, step)[real])
        clean = layer.clean(inputs)
        largest = float(abs(clean).max())
        claimed.append(claimed_magnitudes(context.claims, inputs, clean, alpha * share)[real])
    once, twice = noises
    growth = np.divide(claimed[1], claimed[0], out=np.zeros_like(claimed[0]), where=claimed[0] > 0)[
        ..., None
    ]
    known = float(np.sqrt(np.square(once).mean()))
    ratio = float(np.sqrt(np.square(twice).mean())) / known if known else 0.0
    causes = {1.0: "alpha is not used: the amplitude is fixed in the code",
              2.0: "alpha is a factor of the noise, but not of the claimed scale",
              2**0.5: "alpha is under the square root", 4.0: "alpha enters twice"}  # fmt: skip
    likely = [text for value, text in causes.items() if is_close(ratio, value)]
    if not known:
        likely = [NO_NOISE]
    usual = is_close(float(growth.max()), 2.0)
    likely.append(
        "alpha is used other than as a factor"
        if usual
        else "alpha enters the claimed scale in another way"
    )
    # The noise of ids is a difference, which has the rounding of the embeddings.
    rounding = context.grid * (1 + float(growth.max())) * (largest + float(abs(once).max()))
    context.expect(
        bool(known)
        and np.allclose(twice, growth * once, rtol=2.0**-18, atol=2.0**-18 * known + rounding),
        f"twice the alpha gives {ratio:.4g} times the noise, expected {growth.max():.4g} times",
        likely[0],
    )


def _known_offset(claims: Claims) -> str | None:
    if claims.scale_rule.uses_rms:
        return f"scale={claims.scale_rule.name!r} depends on the embeddings"
    return needs_repeats(claims)


@check("EN12", dtypes="usual", claimed=_known_offset, premises=("EN03", "EN05"))
def noise_is_added(context: CheckContext) -> None:
    """The noise does not depend on the embeddings: it is added to them, not multiplied.

    Fails for layers that multiply (x * (1 + noise)), or take the magnitude from x, sometimes in
    padded, packed or large batches only.
    """
    for inputs in over_paths(context, sizes=True):
        _is_added(context, inputs)


def _is_added(context: CheckContext, zeros: Inputs) -> None:
    """Expect embeddings to get the noise of a batch of zeros; or ids, that of other ones."""
    step = context.first_step()
    noises, outputs, clean = [], [], 0.0
    options = {"mask": zeros.mask} | ({"segments": zeros.segments} if zeros.packed else {})
    normal = [context.batch(zeros.shape, "normal", **options) for _ in range(2)]
    batches = [zeros, *normal]
    if context.dtype != "float32":
        del batches[2]  # 16 bits have no room for the noise on large embeddings
    elif context.case.inputs == "embeddings":
        batches[2] = batches[2].with_sizes([100.0] * zeros.shape[0], 100.0)
    for inputs in batches:
        layer = context.layer(dim=inputs.dim)
        noises.append(layer.noise(inputs, step))
        outputs.append(layer.clean(inputs) + noises[-1])
        clean = max(clean, float(abs(layer.clean(inputs)).max()))
    reach = float(abs(np.stack(noises[1:])).max())
    error = max(float(abs(noises[0] - other).max()) for other in noises[1:])
    context.expect(
        error <= max(2.0**-20, context.grid) * (clean + reach),
        f"the noise depends on the embeddings: for others it differs by up to {error:.3g} "
        f"(its largest value is {reach:.3g})",
        lambda: (
            _cause_of_equal_ids(context, batches[0], noises[0])
            or _cause_of_some_ids(context, batches, noises)
            or _cause_of_dependence(context, np.stack(noises), np.stack(outputs))
        ),
        ("EN24",) if context.case.inputs == "ids" else (),
    )


def _cause_of_equal_ids(context: CheckContext, inputs: Inputs, noise: Array) -> str | None:
    """The cause, if all tokens of the same id have the same noise."""
    if context.case.inputs != "ids" or not noise.any():
        return None
    for number in np.unique(inputs.values):
        alike = noise[inputs.values == number]
        if not np.allclose(alike, alike[0], atol=2.0**-10 * abs(noise).max()):
            return None
    return (
        "tokens of the same id have the same noise: it is drawn for each entry of the vocabulary, "
        "as if the embedding table were noised, and not for each token"
    )


def _cause_of_some_ids(
    context: CheckContext, batches: list[Inputs], noises: list[Array]
) -> str | None:
    """The cause, if the noise is another one at tokens of some ids only."""
    if context.case.inputs != "ids":
        return None
    reach = context.grid * max(float(abs(noise).max()) for noise in noises)
    found: set[int] = set()
    for other, noise in zip(batches[1:], noises[1:], strict=True):
        off = abs(noise - noises[0]).max(axis=2) > 4 * reach
        same = batches[0].values[~off] == other.values[~off]
        if (batches[0].values[off] == other.values[off]).any() or same.all():
            return None
        known = {*batches[0].values[~off][~same].tolist(), *other.values[~off][~same].tolist()}
        ids = {*batches[0].values[off].tolist(), *other.values[off].tolist()} - known
        found |= ids
    if not found:
        return None
    return (
        f"the noise of tokens depends on their id: it is other noise for {sorted(found)}, which "
        "the layer scales or negates by itself"
    )


def _cause_of_dependence(context: CheckContext, noises: Array, outputs: Array) -> str:
    """Why the noise is another one on other embeddings, those of the second batch."""
    if normalized := cause_of_equal_sizes(outputs):
        return normalized
    if not noises[0].any() and guesses_padding(context, Batch((7, 7, 7, 1), 7, 16)):
        return GUESSED
    if clipped := cause_of_clipping(outputs):
        return clipped
    small = abs(noises[0]) <= context.grid * abs(outputs).max()  # and may be rounded to 0
    if bool((small | (np.sign(noises[1:]) == np.sign(noises[0]))).all()):
        return (
            "the noise is multiplied with the embeddings, or its scale is taken from them (if that "
            "is intended, claim scale='relative')"
        )
    if not noises[-1][abs(noises[-1] - noises[0]) > 1e-3 * abs(noises[0]).max()].any():
        return "large embeddings get no noise: it depends on their size"
    return "the draw depends on the embeddings: a seed or a key is made from them"


LATEST = 1001
"""The last step that is tested if each step takes a call."""

LATE = [20, 50, 100, 101, 300, 500, 700, 1000, 3000, 10_000, 30_000, 100_003]
"""Steps of schedules that go on longer than their first steps tell."""


@check("EN21", dtypes="usual", random=True, premises=("EN12", "EN55"))
def schedule_followed(context: CheckContext) -> None:
    """Alpha has the claimed share at every step tested.

    These are the first steps, some up to step 100,003, the middle and the end of the schedule, and
    those of the first 1,000 at which it changes its course. A layer that takes no ``step`` is
    called until step 1,001 at most; the report says if its schedule goes on. Without a schedule
    alpha is the same at all steps. Padded and packed batches are tested at fewer of them. Fails
    for layers whose schedule is off by one step, runs backwards, stops, or is ignored.
    """
    counts = not context.layer().takes("step")
    steps, end = _steps(context, counts=counts)
    _schedule_followed(context, context.sample(), steps, end)
    start = context.first_step()
    few = [step for step in steps if step <= start + 20 or not counts]
    few = few[:: max(1, len(few) // 6)]
    for inputs in over_paths(context, plain=False):
        context.premises += SIZED
        _schedule_followed(context, inputs, few, end)


def _schedule_followed(context: CheckContext, inputs: Inputs, steps: list[int], end: int) -> None:
    """Expect alpha to have the claimed share at some steps of a batch."""
    claims, schedule = context.claims, context.claims.schedule
    layer = context.layer(dim=inputs.dim)
    distribution, seen, sizes, count = claims.distribution_rule, {}, {}, 0
    for step in steps:
        layer.eval(inputs)  # must not count as a step
        noise = layer.noise(inputs, step)
        full = claimed_magnitudes(claims, inputs, layer.clean(inputs), context.alpha)[..., None]
        units = np.divide(noise, full, out=np.zeros_like(noise), where=full > 0)
        units = context.independent(units)[context.independent(inputs.mask)]
        seen[step], count = amplitude(distribution, units), units.size
        sizes[step] = float(np.sqrt(np.square(units).mean()))

    def share(step: int) -> float:
        """The claimed noise at a step, as a share of that with make_layer's alpha."""
        now, full = (
            claims.magnitude(context.alpha * factor, *inputs.shape[1:])
            for factor in (claims.share(step), 1.0)
        )
        return now / full

    low, high = amplitude_window(distribution, count, RATE / (3 * len(steps)))
    largest = max(steps, key=share)
    known = 1.0 if distribution else seen[largest] / (share(largest) or 1.0)
    slack = 2 * context.usual_slack(inputs) + 2.0**-16
    ratios = [sizes[step] / share(step) for step in steps if share(step) > 0]
    other_size = (
        not low - slack <= seen[largest] / share(largest) / known <= high + slack
        and all(sizes[step] == 0 for step in steps if share(step) == 0)
        and 0 < max(ratios) <= min(ratios) * (1 + 8 / count**0.5)
    )
    if schedule is None:  # other checks test the size, and this one that it stays
        known, low, high = seen[steps[0]], low / high, high / low if low else np.inf
    found = {step: value / known if known else 0.0 for step, value in seen.items()}
    claimed = {step: share(step) for step in steps}
    wrong = [
        step
        for step in steps
        if not low * claimed[step] - slack <= found[step] <= high * claimed[step] + slack
    ]
    said = ", ".join(
        f"{found[step]:.4g} at step {step} (claimed {claimed[step]:.4g})"
        for step in (wrong or steps)[:4]
    )
    context.expect(
        not wrong or other_size,  # which is for the checks of the size and of the distribution
        f"alpha is, as a share of make_layer's: {said}",
        lambda: _schedule_cause(schedule, share, found, end, chance=1 - low),
        premises=_other_causes(ratios),
    )


def _steps(context: CheckContext, *, counts: bool) -> tuple[list[int], int]:
    """The steps to test, and the one at which the schedule is taken to end."""
    claims, schedule, start = context.claims, context.claims.schedule, context.first_step()
    end = schedule.length if isinstance(schedule, Schedule) and schedule.length else 10
    steps = {0, 1, 2, end // 2, end - 1, end, end + 1, start, start + 1} - {-1}
    if schedule is not None:
        steps |= _turns(claims) | {int(end * factor) for factor in (0.3, 0.8, 1.1, 1.37, 1.9, 3.3)}
    if schedule is not None or not counts:
        steps.update(LATE)
    if not counts:
        return sorted(steps), end
    last = max(LATEST, start)
    if any(claims.share(step) != claims.share(last) for step in steps if step > last):
        context.note = f"up to step {last}, since the layer takes no step"
    # A schedule that has come to rest is not worth hundreds of calls.
    rest = max((s for s in steps if s <= last and claims.share(s) != claims.share(last)), default=0)
    return sorted(step for step in steps if step <= max(rest + 50, 101)), end


def _turns(claims: Claims) -> set[int]:
    """The steps around which the schedule changes its course, of the first 1,000."""
    shares = np.array([claims.share(step) for step in range(LATEST)])
    bends = abs(np.diff(shares, 2))
    sharpest = np.argsort(-bends, kind="stable")[:6]
    turns = sharpest[bends[sharpest] > 1e-3 * shares.max()]
    return {int(turn) + after for turn in turns for after in (1, 2)}


def _other_causes(ratios: list[float]) -> tuple[str, ...]:
    """The checks for what else may change the size of the noise from step to step."""
    if not any(ratios):
        return ("EN24", "EN15")
    # Few draws have no steady size.
    return ("EN25", "EN26", "EN27", "EN34") if max(ratios) < 1.5 * min(ratios) else ()


def _schedule_cause(
    schedule: object,
    share: Callable[[int], float],
    found: dict[int, float],
    end: int,
    chance: float,
) -> str:
    """Why the shares that were found are not those of the schedule, up to chance."""
    if schedule is None:
        return "alpha changes from call to call, or with the step: claim that schedule"

    def distance(expected: dict[int, float]) -> float:
        return max(abs(found[s] - expected[s]) for s in found)

    near = max(chance, 0.02)
    least = distance({s: share(s) for s in found}) / 4  # a guess must explain what is wrong

    def fits(expected: dict[int, float]) -> bool:
        close = all(abs(found[s] - expected[s]) <= near * abs(expected[s]) + 1e-4 for s in found)
        return close and distance(expected) <= least

    guesses = {
        "the schedule is ignored: alpha stays what it was at step 0": {s: share(0) for s in found},
        "the schedule is ignored: alpha stays what make_layer got": dict.fromkeys(found, 1.0),
        "the schedule is one step ahead: it is advanced before it is read, or by evaluation too": {
            s: share(s + 1) for s in found
        },
        "the schedule is one step behind": {s: share(max(s - 1, 0)) for s in found},
        "the schedule runs backwards": {s: share(max(end - s, 0)) for s in found},
    }
    for text, expected in guesses.items():
        if fits(expected):
            return text
    return "another schedule than claimed, or a share of another alpha"
