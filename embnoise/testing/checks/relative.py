"""A scale that follows the embeddings: their RMS, of each sequence, and nothing else of them."""

from __future__ import annotations

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import is_close
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import Array, Inputs, right_mask
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.registry import ALPHA, check, needs_distribution
from embnoise.testing.statistics import RATE, amplitude, amplitude_window


def _needs_rms(claims: Claims) -> str | None:
    if not claims.scale_rule.uses_rms:
        return f"scale={claims.scale_rule.name!r} does not depend on the embeddings"
    return needs_distribution(claims)


SIZES, OF_TOKENS = (0.01, 4.0, 16.0, 0.25), (0.1, 1.0, 3.0)
"""Factors of rows, the smallest below the RMS of real tables, and of the tokens of each row."""


@check("EN62", inputs=("embeddings",), claimed=_needs_rms, random=True, premises=ALPHA)
def rms_of_each_sequence(context: CheckContext) -> None:
    """With a scale that uses the embeddings' RMS, that of each sequence's own real tokens counts.

    The rows have an RMS of 0.02 to 20, which changes from step to step and from token to token, and
    padding has a larger one. An eps of up to 1e-5 may be added under the root. Embeddings of
    opposite signs in another order get the same noise. Fails for layers that use the RMS of the
    batch, of an earlier one or of the padding too, or another norm, or none, or that have a least
    RMS; and for those whose noise follows single values.
    """
    batch, width, dim = context.profile.shape("float32")
    lengths = ([width, 3 * width // 4, width // 2] * batch)[:batch]
    mask = right_mask(lengths, width)
    layer = context.layer(dim=dim)
    even = context.batch((batch, width, dim), "normal", mask=mask)
    for number, step in enumerate(
        context.loud(range(context.first_step(), context.first_step() + 20))[:2]
    ):
        sizes = ([*SIZES[2 * number :], *SIZES] * batch)[:batch]
        inputs = even.with_sizes(sizes, 64.0, tokens=OF_TOKENS)
        units, clean = layer.units(inputs, step), layer.clean(inputs)
        seen = [amplitude(context.distribution, units[b][mask[b]]) for b in range(batch)]
        _rows_follow_their_rms(context, inputs, clean, np.array(seen), number)
    if context.claims.repeatable:
        context.transcript.clear()
        _follows_no_single_values(context, inputs)


def _rows_follow_their_rms(
    context: CheckContext, inputs: Inputs, clean: Array, seen: Array, number: int
) -> None:
    """Expect the noise of each row, of which ``seen`` is the size in units, to be of its RMS."""
    real = [clean[row][mask] for row, mask in enumerate(inputs.mask)]
    own = [float(np.sqrt(np.square(each).mean())) for each in real]
    slack = 2 * context.usual_slack(inputs)
    for row, found in enumerate(seen):
        low, high = amplitude_window(context.distribution, real[row].size, RATE / (2 * len(seen)))
        high *= float(np.sqrt(1 + EPS / own[row] ** 2))
        context.expect(
            low - slack <= found <= high + slack,
            f"in call {number + 1} row {row}, of RMS {own[row]:.3g}, gets {found:.4g} of the noise "
            f"that the RMS of its real tokens gives, expected {low:.4g} to {high:.4g} (RMS of the "
            f"rows: {', '.join(f'{each:.3g}' for each in own[:4])}, of padding: 64)",
            lambda: (
                _norm_of(inputs, clean, seen)
                if number == 0
                else "the RMS is that of an earlier batch, or a mean over batches"
            ),
        )


EPS = 1e-5
"""What a layer may add to the mean square, so that the root has a gradient at 0."""


def _follows_no_single_values(context: CheckContext, inputs: Inputs) -> None:
    """Expect embeddings with the same RMS of every token to get the same noise."""
    step, other = context.first_step(), inputs.negated_and_rolled()
    (noise, clean), (found, _) = (
        (layer.noise(each, step), layer.clean(each))
        for layer, each in ((context.layer(dim=inputs.dim), each) for each in (inputs, other))
    )
    moved = float(abs(found - noise).max())
    reach = float(abs(noise).max())
    context.expect(
        moved <= 2.0**-18 * (reach + float(abs(clean).max())),
        f"embeddings of the opposite signs in another order, which have the same RMS, get noise "
        f"that differs by up to {moved:.3g} (its largest value is {reach:.3g})",
        "the noise follows the single values or their signs, and not the RMS alone",
        ("EN05",),
    )


def _norm_of(inputs: Inputs, clean: Array, seen: Array) -> str:
    """What a layer takes for the RMS of a sequence."""
    mask = inputs.mask[..., None]
    count = inputs.mask.sum(axis=1) * inputs.dim
    squares = np.square(clean)
    own = np.sqrt((squares * mask).sum(axis=(1, 2)) / count)
    whole = np.ones_like(own)
    sizes = {
        "the scale does not depend on the embeddings": whole,
        "the RMS is that of the whole batch": whole * np.sqrt((squares * mask).sum() / count.sum()),
        "the RMS is that of the whole batch, padding included": whole * np.sqrt(squares.mean()),
        "the RMS of a row counts its padding": np.sqrt(squares.mean(axis=(1, 2))),
        "the largest value of a row is used, not its RMS": abs(clean * mask).max(axis=(1, 2)),
        "the norm of a row is used, not its RMS": own * np.sqrt(count),
        "the mean of the tokens' RMS is used, not the RMS of the row": (
            (np.sqrt(squares.mean(axis=2)) * inputs.mask).sum(axis=1) / inputs.mask.sum(axis=1)
        ),
    }
    for text, size in sizes.items():
        if np.allclose(seen, size / own, rtol=0.05):
            return text
    small = own < 1
    if (seen[small] > 1).all() and np.allclose(seen[~small], 1, rtol=0.05):
        return (
            "the RMS has a floor (a clamp, an eps): small embeddings, as those of real tables, get "
            "too much noise"
        )
    return "another size of the embeddings than the RMS of a sequence's real tokens"


@check("EN66", inputs=("embeddings",), claimed=_needs_rms, random=True, premises=("EN20", "EN62"))
def rms_of_each_document(context: CheckContext) -> None:
    """In packed rows, a scale that uses the embeddings' RMS takes that of each document's tokens.

    The documents of a row have an RMS of 1/64 to 64, and that of one is 0. Fails for layers that
    use the RMS of the row, or sum over a document by a difference of float32 sums over the row.
    """
    if context.claims.length != "tokens":
        raise NotClaimedError(f"length={context.claims.length!r}")
    batch, width, dim = context.profile.shape("float32")
    layer = context.layer(dim=dim)
    if not layer.takes("segment_ids"):
        raise NotClaimedError("the layer takes no segment_ids")
    sizes = [64.0, 1.0, 0.0, 1 / 64, 4.0]
    segments = np.zeros((batch, width), np.int64)
    long = width // (len(sizes) + 1)
    segments[:, : len(sizes) * long] = np.repeat(range(1, len(sizes) + 1), long)
    inputs = context.batch((batch, width, dim), "normal", segments=segments)
    inputs = inputs.with_sizes_of_documents([64.0, *sizes])
    step = context.first_step()
    noise, clean = layer.noise(inputs, step), layer.clean(inputs)
    alpha = layer.alpha * context.claims.share(step)
    magnitudes = claimed_magnitudes(context.claims, inputs, clean, alpha)[..., None]
    row = float(np.sqrt(np.square(clean[segments > 0]).mean()))
    for document, size in enumerate(sizes, start=1):
        tokens = segments == document
        if size == 0:
            largest = float(abs(noise[tokens]).max())
            context.expect(
                largest == 0, f"a document of zeros gets noise of up to {largest:.3g}", _ROW
            )
            continue
        units = noise[tokens] / magnitudes[tokens]
        found = amplitude(context.distribution, units)
        low, high = amplitude_window(context.distribution, units.size, RATE / len(sizes))
        slack = 2 * context.usual_slack(inputs)
        of_row = is_close(found * float(np.sqrt(np.square(clean[tokens]).mean())), row, 0.1)
        context.expect(
            low - slack <= found <= high + slack,
            f"a document of RMS {size:.3g} gets {found:.4g} of the noise that its RMS gives, "
            f"expected {low:.4g} to {high:.4g} (RMS of the documents of a row: {sizes})",
            "the RMS is that of the whole row" if of_row else _ROW,
        )


_ROW = "the sum over a document is lost in those over its row: float32 is too short for them"
