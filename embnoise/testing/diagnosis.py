"""From a number that is wrong to the likely cause.

B rows, L real tokens of the sequence, width of the row with its padding, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import DISTRIBUTIONS, GAUSSIAN, Distribution
from embnoise.testing.inputs import Array
from embnoise.testing.statistics import amplitude, amplitude_window, extreme_window
from embnoise.testing.tables import has_few_values

__all__ = [
    "ELSE",
    "NO_NOISE",
    "RIGHT_ALONE",
    "cause_of_change",
    "cause_of_clipping",
    "cause_of_equal_sizes",
    "cause_of_infinity",
    "cause_of_noise",
    "cause_of_ratio",
    "is_close",
    "key_of_another_name",
    "mask_of_another_name",
    "mode_of_another_name",
    "other_count",
    "other_distribution",
]


NO_NOISE = (
    "no noise at all: the layer is not in training mode, its noise is on a module that forward "
    "never calls, the magnitude became 0 (L*d overflows in float16), or the noise is multiplied "
    "with the embeddings, which are zeros here (if it should scale with them, claim "
    "scale='relative')"
)

RIGHT_ALONE = "if padding is always on the right, claim padding='right'"

_ABOVE = 1.005
"""What rounding to 16 bits may make of the largest value."""


def is_close(seen: float, expected: float, tolerance: float = 0.02) -> bool:
    """Whether two amplitudes agree within a few percent."""
    return abs(seen - expected) <= tolerance * abs(expected)


def mode_of_another_name(parameters: Iterable[str], known: Iterable[str]) -> str | None:
    """The cause, if a layer has a parameter for its mode that is not among the known ones."""
    for name in parameters:
        if name in _MODES and name not in known:
            value = "not training" if _MODES[name] else "training"
            return (
                f"the mode is passed as `training`, and the layer has `{name}`: pass call=lambda "
                f"layer, x, *, training: layer(x, {name}={value}), with the layer's other arguments"
            )
    return None


_MODES = {"is_training": False, "train": False, "deterministic": True, "inference": True,
          "eval": True, "is_eval": True, "evaluate": True}  # fmt: skip
"""Other names for the mode, and whether they are true in evaluation."""


def mask_of_another_name(parameters: Iterable[str]) -> str | None:
    """The cause, if a layer has a parameter for the mask or the lengths of another name."""
    for name in parameters:
        if name in ("lengths", "length", "seq_lens", "seq_lengths", "seqlens"):
            return (
                f"the mask is passed as `mask`, true for real tokens, and the layer has `{name}`: "
                f"pass call=lambda layer, x, *, mask: layer(x, {name}=mask.sum(1)), with the "
                "layer's other arguments, and claim padding='right'"
            )
        if name in ("attention_mask", "attn_mask", "token_mask", "input_mask", "padding_mask"):
            value = "~mask" if name == "padding_mask" else "mask"
            return (
                f"the mask is passed as `mask`, true for real tokens, and the layer has `{name}`: "
                f"pass call=lambda layer, x, *, mask: layer(x, {name}={value}), with the "
                "layer's other arguments"
            )
    return None


def key_of_another_name(parameters: Iterable[str]) -> str | None:
    """The cause, if a layer has a parameter for JAX's key that the kit does not know."""
    for name in parameters:
        if name in ("rng", "rng_key", "prng_key", "prng", "random_key"):
            return (
                f"the key is passed as `key`, and the layer has `{name}`: pass call=lambda layer, "
                f"x, *, key: layer(x, {name}=key), with the layer's other arguments"
            )
    return None


def cause_of_equal_sizes(embeddings: Array) -> str | None:
    """Normalization, if all tokens have the same RMS, as it gives it to them."""
    sizes = np.sqrt(np.square(embeddings).mean(axis=-1))
    if sizes.size < 2 or not 0 < sizes.max() <= 1.02 * sizes.min():
        return None
    return (
        "the layer normalizes the embeddings, with the noise in them: all tokens have the RMS "
        f"{sizes.mean():.4g}. Keep the normalization out of the layer, or test the part that adds "
        "the noise"
    )


def cause_of_infinity(mask: NDArray[np.bool_], dim: int) -> str:
    """Why the output of a batch has NaN or infinite values.

    Args:
        mask: Which tokens are real, [B, L].
        dim: d.
    """
    lengths = mask.sum(axis=1)
    if not lengths.all():
        return "a division by a length of 0 (a row that is all padding), or an overflow"
    product = int(lengths.max()) * dim
    bits = [bits for bits in (8, 16) if product >= 2 ** (bits - 1)]
    if not bits:
        return "an overflow, or a division by 0"
    return (
        f"an overflow, as that of L*d = {product} where integers have {bits[-1]} bits: compute the "
        "magnitude in float32"
    )


def cause_of_clipping(outputs: Array) -> str | None:
    """A bound on the outputs, if many have the size of the largest."""
    largest = float(abs(outputs).max(initial=0.0))
    if not largest or int((abs(outputs) == largest).sum()) < _CLIPPED:
        return None
    return (
        f"what the layer returns is clipped to +-{largest:.4g}, the noise and the embeddings "
        "together"
    )


_CLIPPED = 8
"""How many outputs of one size are no accident."""


def cause_of_change(before: Array, after: Array, mask: NDArray[np.bool_]) -> str | None:
    """What a layer does to embeddings besides adding noise, if that is known.

    Args:
        before: The embeddings, [B, L, d].
        after: What the layer makes of them while it should leave them as they are.
        mask: Which tokens are real, [B, L].
    """
    what = _change_of_elements(before, after, mask)
    if what is not None:
        return f"{what}: keep that out of the layer"
    return None if cause_of_equal_sizes(before) else cause_of_equal_sizes(after)


def _change_of_elements(before: Array, after: Array, mask: NDArray[np.bool_]) -> str | None:
    factors = np.divide(after, before, out=np.ones_like(after), where=before != 0)
    dropped = abs(factors) < 1e-6
    kept = factors[~dropped]
    if not kept.size or kept.min() <= 0 or kept.max() > 1.05 * kept.min():
        return None
    factor, spread = float(np.median(kept)), float(kept.max() - kept.min())
    if dropped[mask].any():
        return "dropout acts on the embeddings, not on the noise alone"
    if abs(factor - 1) > max(spread, 1e-4):
        return f"the embeddings are multiplied by {factor:.4g}"
    if dropped.any():
        return "the embeddings of padding are set to 0"
    if spread:
        return "the embeddings are rounded, as by a cast to a lower precision and back"
    return None


ELSE = (
    "the layer changes the embeddings also without noise, by positions, a bias, a projection or "
    "the like: keep that out of the layer, or test the part that adds the noise"
)
"""The cause of a change that is the same whatever alpha, the seed and the step are."""


def cause_of_ratio(
    ratio: float,
    *,
    batch: int,
    length: int,
    dim: int,
    width: int | None = None,
    others: dict[str, float] | None = None,
    vocabulary: int | None = None,
) -> str:
    """Why the noise is ``ratio`` times as large as it should be.

    Args:
        ratio: The seen amplitude over the claimed one.
        batch: B.
        length: L.
        dim: d.
        width: The row's width, if it is not L.
        others: More causes and their ratios, tried first.
        vocabulary: The number of ids, if the layer embeds them.
    """
    if ratio < 1e-6:
        return NO_NOISE
    causes = {
        **(others or {}),
        "L is the row's width, padding included, instead of its real tokens": math.sqrt(
            length / (width or length)
        ),
        "half the amplitude: a draw on [-1/2, 1/2], as rand() - 0.5 gives": 0.5,
        "scaled by the standard deviation instead of the range: divided by sqrt(3)": 3**-0.5,
        "the magnitude is used as the standard deviation of the uniform draw: times sqrt(3)": (
            3**0.5
        ),
        "twice the amplitude: a range of 4 magnitudes instead of 2, or noise added twice": 2.0,
        "sqrt(d) instead of sqrt(L*d): the length is missing": math.sqrt(length),
        "sqrt(L) instead of sqrt(L*d): the embedding size is missing; or the embeddings are "
        "multiplied by sqrt(d) after the noise": math.sqrt(dim),
        "sqrt(B*L*d) instead of sqrt(L*d): the batch is counted": batch**-0.5,
        "sqrt(B*L) instead of sqrt(L*d): the first two sizes of the shape are used": math.sqrt(
            dim / batch
        ),
        "sqrt(B*d) instead of sqrt(L*d): the batch is used as the length": math.sqrt(
            length / batch
        ),
        "sqrt(V*d) instead of sqrt(L*d): the size of the embedding table is used, not the length "
        f"of the row (V = {vocabulary} ids)": math.sqrt(length / (vocabulary or length)),
        "alpha itself, not divided by sqrt(L*d)": math.sqrt(length * dim),
        "alpha/(L*d): the square root is missing": 1 / math.sqrt(length * dim),
    }
    fitting = {
        text: abs(math.log(ratio / known))
        for text, known in causes.items()
        if known != 1 and is_close(ratio, known, 0.03)
    }
    if fitting:
        return min(fitting, key=lambda text: fitting[text])
    side = "large" if ratio > 1 else "small"
    return f"another scale than claimed: the noise is too {side}, by a factor of {ratio:.4g}"


def cause_of_noise(
    units: Array,
    distribution: Distribution,
    *,
    batch: int,
    length: int,
    dim: int,
    vocabulary: int | None = None,
) -> str:
    """Why the units are wrong: their distribution first, then their scale."""
    square = float((units**2).mean()) if units.size else 0.0
    if not square:
        return NO_NOISE
    size, root = amplitude(distribution, units), square**0.5
    kurtosis = float((units**4).mean()) / square**2
    in_range = distribution.bounded and is_close(size, 1) and size < _ABOVE
    guess = _overflow(size, length) if distribution.bounded else None
    guess = guess or _off_center(units, distribution)
    # A wrong guess costs a clear message, not the verdict.
    if guess is None and units.size > _MANY and abs(float(units.mean())) < 0.1 * root:
        if distribution.bounded and is_close(kurtosis, distribution.kurtosis):
            guess = other_count(size, length, 0.002)
        guess = guess or _nearest(
            kurtosis, distribution, root, within=0.02 if in_range else math.inf
        )
    if guess is None and in_range and _is_coarse(units, distribution):
        guess = (
            "the draw is rounded to a coarse grid, whose last values are not the ends of the "
            "range: it has a low precision, perhaps that of bfloat16"
        )
    elif guess is None and in_range:
        guess = (
            f"the scale is too small, by a factor of {size:.4g}, or what is larger is clipped"
            if is_close(kurtosis, distribution.kurtosis)
            else "another distribution on the same range: clipped or squared, or some of the draws "
            "are smaller than the others"
        )
    guess = guess or _tails(units, size, distribution)
    return guess or cause_of_ratio(size, batch=batch, length=length, dim=dim, vocabulary=vocabulary)


_MANY = 4000
"""How many units show the shape of their distribution."""


def _is_coarse(units: Array, distribution: Distribution) -> bool:
    """Whether units have few values, and the distribution has many."""
    few = _MANY < units.size > 16 * np.unique(units).size
    return few and not has_few_values(distribution)


def _off_center(units: Array, distribution: Distribution) -> str | None:
    """The cause, if bounded units have the right range, but not around 0."""
    if not distribution.bounded or units.size <= _MANY:
        return None
    gap = _ABOVE - amplitude_window(distribution, units.size)[0]  # what the largest may lack
    low, high = (float(end) / distribution.bound for end in (units.min(), units.max()))
    if abs(high + low) <= 2 * gap or abs((high - low) / 2 - 1) > gap:
        return None
    return (
        f"the noise is off center: it is on {low:.4g} to {high:.4g} of its range, as if "
        f"{(high + low) / 2:.3g} were added"
    )


def _tails(units: Array, size: float, distribution: Distribution) -> str | None:
    """The cause, if the size of unbounded units is right, so that their scale is."""
    low, high = amplitude_window(distribution, units.size)
    if distribution.bounded or units.size <= _MANY or not low <= size <= high:
        return None
    least, most = extreme_window(distribution, units.size)
    largest = float(abs(units).max())
    if largest > most:
        return "the scale is right, but the tails are too heavy: a few values are far too large"
    if largest < least:
        return (
            "the scale is right, but the tails are too light: the draw is truncated or clipped, "
            "or the sum of a few uniform ones"
        )
    return "another distribution of the same size"


def other_count(size: float, length: int, tolerance: float) -> str | None:
    """What is counted in L, if noise of this size shows that it is one token more or less.

    Args:
        size: The size of the noise, over the claimed one.
        length: L.
        tolerance: How much the size may differ from that of such a count, relative to it.
    """
    for count, which in ((length + 1, "one more (L + 1)"), (length - 1, "one less (L - 1)")):
        if count > 0 and is_close(size, math.sqrt(length / count), tolerance):
            return f"L is {which} than the number of tokens: the count is off by one"
    return None


def _overflow(size: float, length: int) -> str | None:
    """The type of L, if the largest noise shows that it is kept in 8 bits."""
    kept = length % 256
    if kept == length or not kept or not is_close(size, math.sqrt(length / kept), 0.002):
        return None
    return f"L is {length} modulo 256, {kept}: lengths are kept in 8 bits (uint8), and overflow"


def other_distribution(units: Array, claimed: Distribution) -> str | None:
    """The registered distribution that units have rather than the claimed one, if that is clear."""
    kurtosis = float((units**4).mean()) / float(np.square(units).mean()) ** 2
    nearest = min(DISTRIBUTIONS, key=lambda rule: abs(rule.kurtosis - kurtosis))
    if not is_close(kurtosis, nearest.kurtosis, 0.1) or is_close(kurtosis, claimed.kurtosis, 0.2):
        return None
    return f"the noise is {nearest.name} rather than {claimed.name}"


def _nearest(kurtosis: float, claimed: Distribution, root: float, within: float) -> str | None:
    """What has that kurtosis, which shows a distribution whatever its scale is.

    Args:
        kurtosis: The kurtosis of the units.
        claimed: The claimed distribution, for which there is nothing to say.
        root: The RMS of the units.
        within: How far the kurtosis may be from the nearest known one, relative to that.
    """
    twice = (
        f"the noise is the sum of two {claimed.name} draws: it is added twice (by two hooks, say)"
        if root > claimed.rms
        else f"the noise is the mean of two {claimed.name} draws"
    )
    tails = (
        "the noise has heavier tails than a Gaussian, as Laplace or Student's t draws have (its "
        f"RMS is {root:.4g} of the magnitude)"
    )
    known: dict[str | None, float] = {None: claimed.kurtosis}
    if claimed.kurtosis < 4:
        known[tails] = 6.0
    if abs(claimed.kurtosis - 3) > 0.1:  # of Gaussian draws, the sum is one too
        known[twice] = (3 + claimed.kurtosis) / 2
    for other in DISTRIBUTIONS:
        if other.name != claimed.name:
            known[
                f"the noise is {other.name} rather than {claimed.name} (its RMS is {root:.4g} of "
                "the magnitude)"
            ] = other.kurtosis
    nearest = min(known, key=lambda guess: abs(known[guess] - kurtosis))
    if claimed is GAUSSIAN and kurtosis < 2.7 and not is_close(kurtosis, known[nearest], 0.1):
        return (
            "the noise has lighter tails than a Gaussian, as a truncated draw has (its RMS is "
            f"{root:.4g} of the magnitude)"
        )
    return nearest if abs(known[nearest] - kurtosis) <= within * known[nearest] else None
