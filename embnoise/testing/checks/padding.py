"""Which tokens get noise: all real ones, and no padding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.checks.gradients import output_with_gradient
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import (
    NO_NOISE,
    RIGHT_ALONE,
    mask_of_another_name,
    mode_of_another_name,
)
from embnoise.testing.guessed import GUESSED, guesses_padding
from embnoise.testing.inputs import RAGGED, Array, Inputs
from embnoise.testing.registry import check
from embnoise.testing.statistics import RATE
from embnoise.testing.tables import zero_share


def _clean_padding(claims: Claims) -> str | None:
    return None if claims.length == "tokens" else f"length={claims.length!r}"


@check("EN09", dtypes="all", claimed=_clean_padding, premises=("EN03",))
def padding_untouched(context: CheckContext) -> None:
    """Padding gets no noise, on either side, nor does a row that is all padding.

    Fails for layers that ignore the mask, or divide by a length of 0.
    """

    def body(batch: Batch) -> None:
        inputs = batch.inputs(context, "normal")
        layer = context.layer(dim=batch.dim, alpha=batch.scaled(context))
        noise = layer.noise(inputs, context.first_step())
        padding = noise[~inputs.mask]
        context.expect(
            not padding.any(),
            f"padding gets noise: {int((padding != 0).sum())} of its {padding.size} elements, up "
            f"to {float(abs(padding).max(initial=0)):.3g} (real lengths {list(batch.lengths)} in "
            f"rows of {batch.width}, padded on the {'left' if batch.left else 'right'})",
            lambda: _cause_on_padding(context, batch, noise, inputs.mask),
            ("EN24",) if context.case.inputs == "ids" else (),  # which sees padding of another id
        )

    over_batches(context, body)


def _cause_on_padding(
    context: CheckContext, batch: Batch, noise: Array, mask: NDArray[np.bool_]
) -> str:
    if not mask.any():
        return "a batch that is all padding is taken for one without a mask"
    if not noise[mask].any():
        return "the mask is read as one that is true for padding, as key_padding_mask is: invert it"
    if guesses_padding(context, batch):
        return GUESSED
    if batch.left:  # after batches that are padded on the right
        return (
            "padding on the left is taken for tokens: the mask is made again from the lengths, as "
            f"if padding were on the right; {RIGHT_ALONE}"
        )
    layer = context.layer()
    if not layer.gets("mask") and (other := mask_of_another_name(layer.parameters)):
        return other
    takes = ", ".join(layer.parameters)
    blind = "" if layer.gets("mask") else f" (none of its parameters, {takes}, is named mask)"
    if context.case.inputs == "ids":
        blind += f", or padding has another id than {context.case.padding_id} (pass padding_id=)"
    return (
        f"the noise is not multiplied with the mask{blind}. If that is intended, claim "
        "length='padded' or None"
    )


@check("EN24", dtypes="all", premises=("EN03",))
def every_token_noised(context: CheckContext) -> None:
    """Every real token gets noise.

    Fails for layers that leave out the first or the last token, a row, or some channels.
    """
    for masked in (False, True):
        context.transcript.clear()
        inputs = context.batch(mask=RAGGED if masked else None)
        noised = np.zeros(inputs.shape, bool)
        for draw in range(_draws(context.claims)):
            layer = context.layer(seed=context.seed + draw, world=context.world + draw)
            noised |= layer.units(inputs, context.first_step()) != 0
        told = "mask" in layer.arrays(inputs)  # without padding too, if the layer requires it
        _covers(context, noised, inputs, premises=("EN09",) if told else ())


def _draws(claims: Claims) -> int:
    """How many draws a token needs to get noise, where the distribution has zeros."""
    distribution = claims.distribution_rule
    zeros = 0.0 if distribution is None else zero_share(distribution)
    if not zeros:
        return 1
    # A channel has the fewest elements, 14. The factor leaves no chance to count.
    return math.ceil(math.log(RATE * 2.0**-20) / (14 * math.log(zeros)))


def _at_an_end(missed: list[tuple[int, int]], real: NDArray[np.bool_]) -> bool:
    """Whether tokens are among the first or the last ones of their rows, as many in each row."""
    if len({sum(1 for row, _ in missed if row == b) for b in range(len(real))}) > 1:
        return False
    places = [np.flatnonzero(row).tolist() for row in real]
    count = len(missed) // len(real)
    return all(place in (places[b][:count] + places[b][-count:]) for b, place in missed)


def _covers(
    context: CheckContext,
    noised: NDArray[np.bool_],
    inputs: Inputs,
    premises: tuple[str, ...],
) -> None:
    real = inputs.mask
    others = ("EN12",) if context.claims.schedule is None else ("EN12", "EN21")
    context.expect(
        bool(noised[real].any()),
        "no token gets noise in training mode",
        lambda: _cause_of_silence(context),
        (*premises, *others),
    )
    silent = real & ~noised.any(axis=-1)
    if context.case.inputs == "ids":
        _covers_all_ids(context, inputs.values, silent, real)
    missed = [(int(b), int(i)) for b, i in np.argwhere(silent)]
    last = [(b, int(np.flatnonzero(real[b])[-1])) for b in range(len(real))]
    ends = missed == last
    which = "the last token of every row" if ends else f"tokens (row, place) {missed[:5]}"
    context.expect(
        not missed,
        f"{which} {'gets' if ends else 'get'} no noise ({len(missed)} of {int(real.sum())} real "
        "tokens)",
        "a slice that ends too early ([:-1]), or a mask that is shifted by one"
        if _at_an_end(missed, real)
        else "noise goes to some of the tokens only, such as a random share of them",
    )
    channels = np.flatnonzero(~noised[real].any(axis=0))
    context.expect(
        not channels.size,
        f"channels {channels[:5].tolist()} get no noise in any token ({channels.size} of "
        f"{noised.shape[-1]})",
        "the noise is drawn for fewer channels than the embedding has",
    )


def _cause_of_silence(context: CheckContext) -> str:
    """Why there is no noise at all."""
    if other := mode_of_another_name(context.layer().parameters, context.driver.modes):
        return other
    if context.case.inputs == "ids":
        return NO_NOISE
    with context.transcript.paused():
        if context.claims.scale_rule.uses_rms and _noisy_if_varied(context):
            return (
                "the noise follows the standard deviation of the embeddings, which is 0 if they "
                "are all equal, and not their RMS"
            )
        if _noisy_with_gradient(context):
            return (
                "noise is added only where a gradient is tracked, as in `if x.requires_grad`, and "
                "embeddings need none if they are frozen: look at the mode alone"
            )
    return NO_NOISE


def _noisy_if_varied(context: CheckContext) -> bool:
    """Whether embeddings that are not all equal get noise."""
    noise = context.layer().noise(context.batch(fill="normal"), context.first_step())
    return bool(noise.any())


def _noisy_with_gradient(context: CheckContext) -> bool:
    """Whether an input that needs a gradient gets noise."""
    inputs, layer = context.batch(), context.layer()
    found = output_with_gradient(context, layer, inputs, context.first_step())
    return found is not None and bool((found[0] != layer.clean(inputs)).any())


def _covers_all_ids(
    context: CheckContext,
    ids: NDArray[np.int64],
    silent: NDArray[np.bool_],
    real: NDArray[np.bool_],
) -> None:
    """All tokens with one id, and no others, get no noise if the layer takes it for padding."""
    without = np.unique(ids[silent])
    told_apart = without.size < np.unique(ids[real]).size
    if without.size == 1 and told_apart:
        taken = f"if the layer takes {without[0]} for padding, tell the kit: case(..., "
        likely = f"{taken}padding_id={without[0]}); if not, the noise must not depend on the id"
    else:
        likely = "the noise depends on the id"
    context.expect(
        not (told_apart and without.size and bool((silent == np.isin(ids, without) & real).all())),
        f"real tokens of the ids {without.tolist()} get no noise, all others do",
        likely,
    )
