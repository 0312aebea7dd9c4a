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


@check("EN62", inputs=("embeddings",), claimed=_needs_rms, random=True, premises=ALPHA)
def rms_of_each_sequence(context: CheckContext) -> None:
    """With a scale that uses the embeddings' RMS, that of each sequence's own real tokens counts.

    The rows have RMS of 1 to 16, and padding has larger ones. Embeddings of the opposite signs in
    another order get the same noise. Fails for layers that use the RMS of the batch, of the padding
    too, or another norm, or none, or whose noise follows single values.
    """
    batch, width, dim = context.profile.shape("float32")
    lengths = ([width, 3 * width // 4, width // 2] * batch)[:batch]
    factors = ([1.0, 4.0, 16.0, 2.0] * batch)[:batch]
    mask = right_mask(lengths, width)
    inputs = context.batch((batch, width, dim), "normal", mask=mask).with_sizes(factors, 64.0)
    layer = context.layer(dim=dim)
    units = layer.units(inputs, context.first_step())
    distribution = context.distribution
    seen = [amplitude(distribution, units[b][mask[b]]) for b in range(batch)]
    slack = 2 * context.usual_slack(inputs)
    for b, found in enumerate(seen):
        low, high = amplitude_window(distribution, lengths[b] * dim, RATE / batch)
        context.expect(
            low - slack <= found <= high + slack,
            f"row {b}, of RMS {factors[b]:.3g}, gets {found:.4g} of the noise that the RMS of its "
            f"real tokens gives, expected {low:.4g} to {high:.4g} (RMS of the rows: {factors[:4]}, "
            "of padding: 64)",
            lambda: _norm_of(inputs, layer.clean(inputs), np.array(seen)),
        )
    if context.claims.repeatable:
        context.transcript.clear()
        _follows_no_single_values(context, inputs)


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
    }
    for text, size in sizes.items():
        if np.allclose(seen, size / own, rtol=0.05):
            return text
    return "another size of the embeddings than the RMS of a sequence's real tokens"


@check("EN66", inputs=("embeddings",), claimed=_needs_rms, random=True, premises=("EN20", "EN62"))
def rms_of_each_document(context: CheckContext) -> None:
    """In packed rows, a scale that uses the embeddings' RMS takes that of each document's tokens.

    The documents of a row have RMS of 1/64 to 64, and one is 0. Fails for layers that use the RMS
    of the row, or sum over a document by a difference of float32 sums over the row.
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
