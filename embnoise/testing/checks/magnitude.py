"""How large the noise is: the scale, its length, alpha, and alpha's schedule."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from embnoise._schedules import Schedule
from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE, cause_of_noise, cause_of_ratio, is_close
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import Array, Inputs, right_mask
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.registry import check, needs_distribution, needs_repeats
from embnoise.testing.statistics import (
    RATE,
    amplitude,
    amplitude_window,
    extreme_window,
    once_in,
    rms_window,
)


def _cause(context: CheckContext, units: Array, inputs: Inputs) -> str:
    batch, length, dim = inputs.shape
    return cause_of_noise(units, context.claims, batch=batch, length=length, dim=dim)


@check("EN08", dtypes="all", claimed=needs_distribution, random=True)
def support_filled(context: CheckContext) -> None:
    """The noise reaches the ends of its range, on both sides.

    The largest of n uniform draws on [-1, 1] is below t with the chance ((1 + t) / 2)^n. A layer
    fails it whose noise is too small (half the range, a standard deviation for the range,
    sqrt(B*L*d) for sqrt(L*d), an L*d that overflows in float16), or on one side of 0 only.
    """
    inputs = context.sample()
    step = context.first_step()
    layer = context.layer(dim=inputs.dim)
    units = layer.units(inputs, step)
    law = str(context.claims.distribution)
    slack = _slack(context, inputs)
    reach = extreme_window(law, units.size, RATE / 2)[0]
    if law == "gaussian":  # the quantile of the coarsest uniform grid has its end there
        reach = min(reach, NormalDist().inv_cdf(1 - context.grid / 2))
    elif law == "uniform":  # a grid of 16 bits may have one end only
        reach = min(reach, 1 - 2.0**-14)
    least = reach - 2 * slack
    rule, chance = context.claims.rule(), f"a correct layer fails this less than {once_in()}"
    largest = float(abs(units).max())
    context.expect(
        largest >= least,
        f"largest |noise| is {largest:.4g} of {rule}, expected at least {least:.4g} ({chance}; "
        f"B, L, d = {inputs.shape}, {context.dtype})",
        lambda: _cause(context, units, inputs),
    )
    for side, reached in (("positive", float(units.max())), ("negative", float(-units.min()))):
        context.expect(
            reached >= least,
            f"the largest {side} noise is {max(reached, 0.0):.4g} of {rule}, expected at least "
            f"{least:.4g} ({chance})",
            "the noise is one-sided: a draw on [0, 1] that was not moved to [-1, 1]",
        )


def _slack(context: CheckContext, inputs: Inputs) -> float:
    """Relative rounding of a unit value: embeddings of a few units under noise of many."""
    magnitude = context.claims.magnitude(
        context.alpha * context.claims.share(context.first_step()), *inputs.shape[1:]
    )
    clean = 0.0 if context.case.inputs == "embeddings" else 4.0
    return context.slack(np.array([clean]), magnitude)


@check("EN10", dtypes="all", claimed=needs_distribution, random=True)
def within_bound(context: CheckContext) -> None:
    """No noise is larger than its magnitude for the true length (Gaussian: than chance allows).

    A layer fails it whose noise is too large: sqrt(d) for sqrt(L*d), added twice, a Gaussian where
    a uniform draw is claimed, the magnitude taken for a standard deviation.
    """
    law = str(context.claims.distribution)

    def bounded(inputs: Inputs, units: Array, slack: float, rate: float) -> None:
        upper = extreme_window(law, max(units.size, 1), rate)[1] * (1 + 2 * slack)
        largest = float(abs(units).max(initial=0))
        context.expect(
            largest <= upper,
            f"largest |noise| is {largest:.4g} of {context.claims.rule()}, expected at most "
            f"{upper:.4g} (B, L, d = {inputs.shape}, {context.dtype})",
            lambda: _cause(context, units, inputs),
        )

    inputs = context.sample()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    bounded(inputs, units, _slack(context, inputs), RATE / 2)

    def body(batch: Batch) -> None:
        small = batch.inputs(context)
        layer = context.layer(dim=batch.dim, alpha=batch.scaled(context))
        step = context.first_step()
        found = layer.units(small, step)
        clean = layer.clean(small)
        magnitude = claimed_magnitudes(
            context.claims, small, clean, layer.alpha * context.claims.share(step)
        )
        least = float(magnitude[magnitude > 0].min(initial=np.inf))
        bounded(small, found[small.mask], context.slack(clean, least), RATE / 1000)

    over_batches(context, body)


@check("EN11", claimed=needs_repeats)
def alpha_is_proportional(context: CheckContext) -> None:
    """Twice the alpha gives twice the noise.

    A layer fails it that ignores alpha, or puts it under the square root.
    """
    inputs = context.batch()
    step = context.first_step()
    once, twice = (
        context.layer(alpha=times * context.alpha).noise(inputs, step) for times in (1, 2)
    )
    known = float(np.sqrt(np.square(once).mean()))
    ratio = float(np.sqrt(np.square(twice).mean())) / known if known else 0.0
    causes = {1.0: "alpha is not used: the amplitude is fixed in the code",
              2**0.5: "alpha is under the square root", 4.0: "alpha enters twice"}  # fmt: skip
    likely = [text for value, text in causes.items() if is_close(ratio, value)]
    if not known:
        likely = [NO_NOISE]
    context.expect(
        bool(known) and np.allclose(twice, 2 * once, rtol=2.0**-18, atol=2.0**-18 * known),
        f"twice the alpha gives {ratio:.4g} times the noise, expected 2 times",
        likely[0] if likely else "alpha enters in another way than as a factor",
    )


def _known_offset(claims: Claims) -> str | None:
    if claims.scale == "relative":
        return "scale='relative' depends on the embeddings"
    return needs_repeats(claims)


@check("EN12", claimed=_known_offset)
def noise_is_added(context: CheckContext) -> None:
    """The noise does not depend on the embeddings: it is added to them, not multiplied.

    A layer fails it that multiplies (x * (1 + noise)), or takes its magnitude from x.
    """
    step = context.first_step()
    noises, clean = [], 0.0
    for fill in ("zeros", "normal"):
        inputs = context.batch(fill=fill)
        layer = context.layer()
        noises.append(layer.noise(inputs, step))
        clean = max(clean, float(abs(layer.clean(inputs)).max()))
    reach = float(abs(noises[1]).max())
    error = float(abs(noises[0] - noises[1]).max())
    context.expect(
        error <= 2.0**-20 * (clean + reach),
        f"the noise depends on the embeddings: on other ones it differs by up to {error:.3g} "
        f"(its largest value is {reach:.3g})",
        "the noise is multiplied with the embeddings, or its scale is taken from them (if that is "
        "meant, claim scale='relative')"
        if not noises[0].any() or bool((np.sign(noises[0]) == np.sign(noises[1])).all())
        else "the draw depends on the embeddings: a seed or a key is made from them",
    )


def _claims_length(claims: Claims) -> str | None:
    return None if claims.length else "length=None"


@check("EN19", claimed=_claims_length, random=True)
def length_of_ragged_rows(context: CheckContext) -> None:
    """In a padded batch every row's noise has the magnitude of its own length.

    With ``length="tokens"`` L is the number of real tokens of the row, with ``"padded"`` its width.
    A layer fails it that takes L from x.shape[1] where the mask counts, or the longest or the mean
    length of the batch for all rows.
    """
    batch, width, dim = context.profile.shape("float32")
    lengths = ([3 * width // 4, width // 2, width // 4, 5] * batch)[:batch]
    _rows_have_their_length(context, right_mask(lengths, width).astype(np.int64), dim)


@check("EN20", claimed=_claims_length, random=True)
def length_of_packed_rows(context: CheckContext) -> None:
    """In a packed row every document's noise has the magnitude of its own length.

    Documents are told apart by ``segment_ids``; a layer that takes none has nothing to say of
    packed rows. A layer fails it that counts the whole row: 16 documents of 128 tokens in a row of
    2,048 get a quarter of the noise.
    """
    if context.claims.length != "tokens":
        raise NotClaimedError(f"length={context.claims.length!r}")
    batch, width, dim = context.profile.shape("float32")
    cuts = [width // 2, width // 4, 5]
    if not context.layer(dim=dim).takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    context.transcript.clear()
    segments = np.zeros((batch, width), np.int64)
    for row in range(batch):
        segments[row, : sum(cuts)] = np.repeat([1, 2, 3], cuts[:: (-1) ** row])
    _rows_have_their_length(context, segments, dim)


def _rows_have_their_length(context: CheckContext, segments: np.ndarray, dim: int) -> None:
    batch, width = segments.shape
    inputs = context.batch((batch, width, dim), segments=segments)
    units = context.layer(dim=dim).units(inputs, context.first_step())
    law = context.claims.distribution
    documents = [
        (b, int(s), segments[b] == s)
        for b in range(batch)
        for s in np.unique(segments[b][segments[b] > 0])
    ]
    seen = [amplitude(law, units[b][where]) for b, _, where in documents]
    known = 1.0 if law else seen[0]
    slack = 2 * _slack(context, inputs)
    real = segments > 0
    for (b, s, where), found in zip(documents, seen, strict=True):
        length, count = int(where.sum()), int(where.sum()) * dim
        low, high = amplitude_window(law, count, RATE / len(documents))
        ratio = found / known if known else 0.0
        others = {
            "L is the longest row of the batch": real.sum(axis=1).max(),
            "L is the mean length of the batch": real.sum() / batch,
            "L counts all tokens of the batch": real.sum(),
        }
        if segments.max() > 1:
            others = {"L is the whole packed row, not its documents": real[b].sum()}
        promised = length if context.claims.length == "tokens" else width
        causes = {text: float(np.sqrt(promised / other)) for text, other in others.items()
                  if other != promised}  # fmt: skip
        if promised != length:
            causes["L is the real tokens where the row's width is claimed"] = (
                width / length
            ) ** 0.5
        context.expect(
            low - slack <= ratio <= high + slack,
            f"row {b}{f', document {s}' if segments.max() > 1 else ''}: {length} real tokens in a "
            f"row of {width} get {ratio:.4g} of the noise that {context.claims.rule()} with L = "
            f"{promised} gives, expected {low:.4g} to {high:.4g}",
            cause_of_ratio(
                ratio, batch=batch, length=promised, dim=dim, width=width, others=causes
            ),
        )


@check("EN30", claimed=needs_distribution, random=True)
def rms(context: CheckContext) -> None:
    """The noise's root mean square is that of its distribution: 1/sqrt(3) of a uniform's range.

    Hoeffding's inequality for a uniform draw, the chi-square tail for a Gaussian. A Gaussian layer
    of the wrong scale fails it, and a mixture that fills its range too rarely.
    """
    inputs = context.sample()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    units = context.independent(units)
    low, high = rms_window(str(context.claims.distribution), units.size)
    slack = 2 * _slack(context, inputs)
    found = float(np.sqrt(np.square(units).mean()))
    context.expect(
        low - slack <= found <= high + slack,
        f"the noise's RMS is {found:.4g} of {context.claims.rule()}, expected {low:.4g} to "
        f"{high:.4g} (a correct layer fails this less than {once_in()})",
        lambda: _cause(context, units, inputs),
    )


LONGEST = 300
"""The last step of a schedule that is looked at where each step takes a call."""


@check("EN21", random=True)
def schedule_followed(context: CheckContext) -> None:
    """Alpha has the claimed share at every step looked at, the first and the last ones among them.

    Without a schedule it is the same at all of them.

    A layer fails it whose schedule is off by one step, runs backwards, or is ignored.
    """
    claims, schedule = context.claims, context.claims.schedule
    end = schedule.length if isinstance(schedule, Schedule) and schedule.length else 10
    inputs = context.sample()
    layer = context.layer(dim=inputs.dim)
    steps = sorted({0, 1, 2, end // 2, end - 1, end, end + 1} - {-1})
    if not layer.takes("step"):  # and has to be called for each
        steps = [step for step in steps if step <= LONGEST]
    law, seen, count = claims.distribution, {}, 0
    for step in steps:
        layer.eval(inputs)  # which must not count
        noise = layer.noise(inputs, step)
        full = claimed_magnitudes(claims, inputs, layer.clean(inputs), context.alpha)
        units = context.independent(noise / full[..., None])
        seen[step], count = amplitude(law, units), units.size
    low, high = amplitude_window(law, count, RATE / len(steps))
    largest = max(steps, key=claims.share)
    known = 1.0 if law else seen[largest] / (claims.share(largest) or 1.0)
    if schedule is None:  # whether the size is right is asked elsewhere: here, whether it stays
        known, low, high = seen[steps[0]], low / high, high / low
    slack = 2 * _slack(context, inputs) + 2.0**-16
    found = {step: value / known if known else 0.0 for step, value in seen.items()}
    right = {
        step: low * claims.share(step) - slack <= found[step] <= high * claims.share(step) + slack
        for step in steps
    }
    wrong = [step for step in steps if not right[step]]
    said = ", ".join(
        f"{found[step]:.4g} at step {step} (claimed {claims.share(step):.4g})"
        for step in (wrong or steps)[:4]
    )
    context.expect(
        not wrong,
        f"alpha is, as a share of make_layer's: {said}",
        lambda: _schedule_cause(claims, found, end),
    )


def _schedule_cause(claims: Claims, found: dict[int, float], end: int) -> str:
    def fits(expected: dict[int, float]) -> bool:
        return all(abs(found[s] - expected[s]) <= 0.02 * abs(expected[s]) + 1e-4 for s in found)

    share = claims.share
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
