"""How large the noise is: its scale and the length in it."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import Distribution
from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.checks.distribution import names_it
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import cause_of_ratio, is_close, other_count
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import Array, Inputs, right_mask
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.registry import (
    ALPHA,
    DISTRIBUTION,
    SIZE,
    check,
    needs_distribution,
    needs_length,
)
from embnoise.testing.right_rows import other_scale, takes_long_rows
from embnoise.testing.statistics import (
    RATE,
    amplitude,
    amplitude_window,
    extreme_window,
    once_in,
    rms_window,
)


@check("EN08", dtypes="all", claimed=needs_distribution, random=True, premises=(*ALPHA, "EN11"))
def support_filled(context: CheckContext) -> None:
    """The noise reaches the ends of its range, on both sides.

    The largest of n draws is below t with the probability F(t)^n. Fails for layers whose noise is
    too small (half the range, a standard deviation for the range, sqrt(B*L*d) for sqrt(L*d), an
    L*d that overflows in float16), or is on one side of 0 only.
    """
    inputs = context.sample()
    step = context.first_step()
    units = context.layer(dim=inputs.dim).units(inputs, step)
    # The probability of the last value of a 16-bit draw, or of the coarsest correct one.
    coarsest = max(2.0**-15, context.grid / 2)
    reach = extreme_window(context.distribution, units.size, RATE / 2, coarsest)[0]
    least = reach - 2 * context.usual_slack(inputs) * max(1.0, reach)
    formula = context.claims.formula
    chance = f"a correct layer fails this less than {once_in()}"
    largest = float(abs(units).max())
    context.expect(
        largest >= least,
        f"largest |noise| is {largest:.4g} of {formula}, expected at least {least:.4g} ({chance}; "
        f"B, L, d = {inputs.shape}, {context.dtype})",
        lambda: context.cause(units, inputs),
    )
    one_sided = "the noise is one-sided: a draw on [0, 1] that was not moved to [-1, 1]"
    for side, reached in (("positive", float(units.max())), ("negative", float(-units.min()))):
        context.expect(
            reached >= least,
            f"the largest {side} noise is {max(reached, 0.0):.4g} of {formula}, expected at least "
            f"{least:.4g} ({chance})",
            one_sided if reached <= largest / 2 else lambda: context.cause(units, inputs),
        )


@check(
    "EN10",
    dtypes="all",
    claimed=needs_distribution,
    random=True,
    premises=(*ALPHA, "EN11", "EN09"),
)
def within_bound(context: CheckContext) -> None:
    """No noise exceeds the bound for the true length (if unbounded, what chance allows).

    Unbounded noise has the claimed size in rows of two tokens too, which shows an L that is off by
    one. Fails for layers whose noise is too large: sqrt(d) for sqrt(L*d), noise added twice, a
    Gaussian draw instead of a uniform one, the magnitude used as a standard deviation.
    """
    distribution = context.distribution

    def bounded(inputs: Inputs, units: Array, slack: float, rate: float) -> None:
        real = units[inputs.mask]
        upper = extreme_window(distribution, max(real.size, 1), rate)[1] * (1 + 2 * slack)
        largest = float(abs(real).max(initial=0))
        if not np.isfinite(upper):
            raise NotClaimedError(
                f"distribution={distribution.name!r} is unbounded, and its quantile function is "
                "not symmetric below 1/2, so its tail is unknown"
            )
        context.expect(
            largest <= upper,
            f"largest |noise| is {largest:.4g} of {context.claims.formula}, expected at most "
            f"{upper:.4g} (B, L, d = {inputs.shape}, {context.dtype})",
            lambda: (
                _tokens_counted(context, inputs, units)
                or _rounded(distribution, largest)
                or context.cause(real, inputs)
            ),
        )

    inputs = context.sample()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    bounded(inputs, units, context.usual_slack(inputs), RATE / 4)
    if not distribution.bounded:
        context.transcript.clear()
        _counts_two_tokens(context)

    def body(batch: Batch) -> None:
        small = batch.inputs(context)
        layer = context.layer(dim=batch.dim, alpha=batch.scaled(context))
        step = context.first_step()
        found = layer.units(small, step)
        clean = layer.clean(small)
        alpha = layer.alpha * context.claims.share(step)
        magnitudes = claimed_magnitudes(context.claims, small, clean, alpha)
        least = float(magnitudes[magnitudes > 0].min(initial=np.inf))
        bounded(small, found, context.slack(clean, least), RATE / 1000)

    over_batches(context, body)


SHORT = 128, 2, 16
"""Many rows with an L of which one more or less changes the noise far beyond what chance does."""


def _counts_two_tokens(context: CheckContext) -> None:
    """Expect unbounded noise to have the claimed size in rows of two tokens."""
    inputs = context.batch(SHORT)
    units = context.independent(context.layer(dim=inputs.dim).units(inputs, context.first_step()))
    found = amplitude(context.distribution, units)
    low, high = amplitude_window(context.distribution, units.size, RATE / 4)
    slack = 2 * context.usual_slack(inputs) * max(1.0, high)
    context.expect(
        low - slack <= found <= high + slack,
        f"in rows of 2 tokens the noise is {found:.4g} of {context.claims.formula}, expected "
        f"{low:.4g} to {high:.4g} (B, L, d = {inputs.shape}, {context.dtype})",
        lambda: other_count(found, 2, 0.1) or context.cause(units, inputs),
        ("EN08", *DISTRIBUTION),
    )


def _rounded(distribution: Distribution, largest: float) -> str | None:
    """The cause, if a bounded noise is too large by as much as rounding to bfloat16 explains."""
    if not distribution.bounded or largest > distribution.bound * (1 + 2.0**-7):
        return None
    return (
        "the magnitude is a little too large: rounded to 16 bits (compute it in float32), or of an "
        "L that is off by one"
    )


LONG = [130, 600, 2999]
"""Lengths that do not fit into 8 bits, or into the mantissa of bfloat16."""


@check("EN19", claimed=needs_length, random=True, premises=ALPHA)
def length_of_ragged_rows(context: CheckContext) -> None:
    """In a padded batch the noise of every row has the magnitude for that row's length.

    With ``length="tokens"`` L is the number of real tokens in the row, with ``"padded"`` its width.
    Fails for layers that take L from x.shape[1] although the mask counts, or use the longest or
    the mean length of the batch for all rows.
    """
    batch, width, dim = context.profile.shape("float32")
    lengths = ([3 * width // 4, width // 2, width // 4, 5] * batch)[:batch]
    _rows_have_their_length(context, right_mask(lengths, width).astype(np.int64), dim)
    context.transcript.clear()
    long = right_mask(LONG, LONG[-1] + 1)
    if not takes_long_rows(context, context.batch((*long.shape, 8), mask=long)):
        context.note = f"in rows of {width} ids, since the layer takes none of {LONG[-1] + 1}"
        return
    _rows_have_their_length(
        context,
        long.astype(np.int64),
        8,
        "long rows are counted in too few bits, or rounded, or up to some bound",
    )


@check("EN20", claimed=needs_length, random=True, premises=ALPHA)
def length_of_packed_rows(context: CheckContext) -> None:
    """In a packed row the noise of every document has the magnitude for that document's length.

    ``segment_ids`` separate the documents; a layer without that parameter claims nothing about
    packed rows. Padding may be anywhere, a row may hold many documents, and their numbers may be
    any that differ. Fails for layers that count the whole row: 16 documents of 128 tokens in a row
    of 2,048 get a quarter of the noise.
    """
    if context.claims.length != "tokens":
        raise NotClaimedError(f"length={context.claims.length!r}")
    batch, width, dim = context.profile.shape("float32")
    if not context.layer(dim=dim).takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    for cuts in ([width // 2, width // 4, 5], short_documents(width)):
        context.transcript.clear()
        segments = np.zeros((batch, width), np.int64)
        for row in range(batch):
            segments[row, : sum(cuts)] = np.repeat(range(1, len(cuts) + 1), cuts[:: (-1) ** row])
        _rows_have_their_length(context, segments, dim)
    for rows, cuts, likely in (
        (batch, [width // 4] * 3, "documents that are all of one length are counted as one"),
        (batch, [width - 9, 9], "packed rows without padding take another path"),
        (1, [width - 9, 9], "a packed batch of one row takes another path"),
    ):
        context.transcript.clear()
        segments = np.zeros((rows, width), np.int64)
        segments[:, : sum(cuts)] = np.repeat(range(1, len(cuts) + 1), cuts)
        _rows_have_their_length(context, segments, dim, likely)
    context.transcript.clear()
    if context.claims.padding == "anywhere":
        padded = np.zeros((batch, width), np.int64)
        padded[:, 3 : width // 2] = 1  # padding on the left, and between the documents
        padded[:, width // 2 + 4 : width - 2] = 2
        padded[:, width - 6] = 0  # and within one
        likely = (
            "padding on the left of documents, between them or in one is counted, or cuts a "
            "document in two"
        )
        _rows_have_their_length(context, padded, dim, likely)
        context.transcript.clear()
    many = np.repeat(range(1, MANY + 1), [1, 2] * (MANY // 2))[None]
    _rows_have_their_length(
        context, many, 32, "documents are numbered in too few bits, or up to some bound"
    )
    context.transcript.clear()
    likely = "documents are numbered from 1 in each row, or in order, by the layer's account"
    _rows_have_their_length(context, _numbered_on(batch, width), dim, likely)
    context.transcript.clear()
    long = np.repeat([1, 2], [1100, 450])[None]
    if takes_long_rows(context, context.batch((*long.shape, 8), segments=long)):
        likely = "long documents are counted up to some bound, or in too few bits"
        _rows_have_their_length(context, long, 8, likely)


def _numbered_on(batch: int, width: int) -> NDArray[np.int64]:
    """Documents whose numbers go on from row to row, and are large and in no order in the last."""
    cuts = [width // 4, width // 2, 1, 5]
    numbers = np.arange(1, batch * len(cuts) + 1).reshape(batch, -1)
    numbers[-1] = [2**31 - 1, width, 2**31 - 2, 1]
    segments = np.zeros((batch, width), np.int64)
    segments[:, : sum(cuts)] = np.repeat(numbers, cuts, axis=1)
    return segments


MANY = 300
"""How many documents of one or two tokens a row has, more than fit into 8 bits."""


def short_documents(width: int) -> list[int]:
    """The lengths of many documents in a row of a width, some of one token; padding is left."""
    lengths: list[int] = []
    for length in itertools.cycle((1, 3, 2, 1, 1, 5)):
        if sum(lengths) + length > width - 3:
            break
        lengths.append(length)
    return lengths


def _rows_have_their_length(
    context: CheckContext, segments: NDArray[np.int64], dim: int, likely: str | None = None
) -> None:
    batch, width = segments.shape
    inputs = context.batch((batch, width, dim), segments=segments)
    units = context.layer(dim=dim).units(inputs, context.first_step())
    distribution = context.claims.distribution_rule
    documents = [
        (b, int(s), segments[b] == s)
        for b in range(batch)
        for s in np.unique(segments[b][segments[b] > 0])
    ]
    seen = [amplitude(distribution, units[b][where]) for b, _, where in documents]
    known = 1.0 if distribution else seen[0]
    slack = 2 * context.usual_slack(inputs)
    # The same factor for all lengths is not the lengths' fault.
    alike = max(seen) <= 1.1 * min(seen)
    premises = (*(("EN08",) if alike else ()), "EN10", *DISTRIBUTION)
    for (b, s, where), found in zip(documents, seen, strict=True):
        length, count = int(where.sum()), int(where.sum()) * dim
        low, high = amplitude_window(distribution, count, RATE / (9 * len(documents)))
        ratio = found / known if known else 0.0
        promised = length if context.claims.length == "tokens" else width
        packed = f", document {s}" if inputs.packed else ""
        holds = low - slack <= ratio <= high + slack
        if likely and not holds:
            likely = other_scale(context, low - slack, high + slack, count) or likely
        context.expect(
            holds,
            f"row {b}{packed}: {length} real tokens in a row of {width} get {ratio:.4g} of the "
            f"noise that {context.claims.formula} with L = {promised} gives, expected {low:.4g} "
            f"to {high:.4g}",
            _tokens_counted(context, inputs, units)
            or likely
            or cause_of_ratio(
                ratio,
                batch=batch,
                length=promised,
                dim=dim,
                width=width,
                others=_other_lengths(segments, b, promised=promised),
            ),
            premises,
        )


def _tokens_counted(context: CheckContext, inputs: Inputs, units: Array) -> str | None:
    """The cause, if the noise is right with the real tokens for L, and the width is claimed."""
    claims, width = context.claims, inputs.shape[1]
    if claims.length != "padded" or inputs.mask.all():
        return None
    magnitudes = [claims.magnitude(1.0, length, inputs.dim) for length in range(width + 1)]
    of_tokens = np.array(magnitudes)[inputs.lengths]
    shares = np.divide(magnitudes[-1], of_tokens, out=np.zeros_like(of_tokens), where=inputs.mask)
    scaled, rule = units * shares[..., None], claims.distribution_rule
    known = 1.0 if rule else amplitude(rule, scaled[0][inputs.mask[0]])
    if not is_close(amplitude(rule, scaled[inputs.mask]), known, 0.15):  # of few draws
        return None
    return "L is the real tokens, but the row's width is claimed: claim length='tokens'"


def _other_lengths(segments: NDArray[np.int64], row: int, *, promised: int) -> dict[str, float]:
    """The ratios of other lengths that a layer may use."""
    batch = len(segments)
    real = segments > 0
    others = {
        "L is the longest row of the batch": real.sum(axis=1).max(),
        "L is the mean length of the batch": real.sum() / batch,
        "L counts all tokens of the batch": real.sum(),
    }
    if segments.max() > 1:
        others = {"L is the whole packed row, not its documents": real[row].sum()}
    return {
        text: float(np.sqrt(promised / other))
        for text, other in others.items()
        if other != promised
    }


def _needs_rms_window(claims: Claims) -> str | None:
    distribution = claims.distribution_rule
    if distribution is not None and rms_window(distribution, 1) is None:
        return f"distribution={distribution.name!r} is unbounded, so no bound on its RMS is known"
    return needs_distribution(claims)


@check("EN30", claimed=_needs_rms_window, random=True, premises=SIZE)
def rms(context: CheckContext) -> None:
    """The RMS of the noise is that of its distribution.

    The window is Hoeffding's for a bounded distribution, and the chi-square tail for a Gaussian.
    Fails for Gaussian layers of the wrong scale, and for mixtures that fill their range too rarely.
    """
    inputs = context.sample()
    units = context.layer(dim=inputs.dim).units(inputs, context.first_step())
    units = context.independent(units)
    window = rms_window(context.distribution, units.size)
    assert window is not None
    low, high = window
    slack = 2 * context.usual_slack(inputs) * max(1.0, high)
    found = float(np.sqrt(np.square(units).mean()))
    context.expect(
        low - slack <= found <= high + slack,
        f"the RMS of the noise is {found:.4g} of {context.claims.formula}, expected {low:.4g} to "
        f"{high:.4g} (a correct layer fails this less than {once_in()})",
        lambda: context.cause(units, inputs),
        lambda: names_it(context, units),
    )
