"""Right in plain batches of usual sizes, and wrong in padded, packed, large or single rows."""

import numpy as np

from tests.testing.faults.counters import one
from tests.testing.faults.later import LINEAR, decay, from_step
from tests.testing.faults.layer import fault
from tests.testing.faults.state import drawn


def is_padded(call):
    return call.segments is None and not bool((call.mask != 0).all())


def is_packed(call):
    return call.segments is not None


def is_large(call):
    return call.shape[0] * call.shape[1] * call.shape[2] > 4096


def is_one_row(call):
    return call.shape[0] == 1


def where(which, wrong):
    """The wrong value on a path."""
    return lambda value, call: wrong(value, call) if which(call) else value


def grown(noise, call):
    return noise * (1 + abs(call.values.astype(np.float64)).mean())


def lost(seed, call):
    return 0


def fixed(alpha, call):
    return 5.0


def from_numpy(units, call):
    return np.random.uniform(-1, 1, units.shape)  # noqa: NPY002, the fault


def sum_in(which):
    """Seed and step added on a path."""
    right = one(lambda seed, step: [seed, step])
    wrong = one(lambda seed, step: seed + step)
    return lambda call, seed, step: (wrong if which(call) else right)(call, seed, step)


def drawn_in_evaluation(call):
    if is_padded(call):
        drawn(call, 0, 0)


def zeroed(value, call):
    """Padding set to 0 in packed rows."""
    return -call.values * (call.segments == 0)[..., None] if is_packed(call) else None


def kept(key):
    """The first lengths for a key are kept."""
    return lambda length, call: call.memory.setdefault((call.shape, key(call)), length)


def row(length, call):
    """The tokens of the row."""
    return np.broadcast_to((call.mask != 0).sum(axis=1, keepdims=True), length.shape)


def alike(call):
    """Whether all documents of a packed batch have one length."""
    if not is_packed(call):
        return False
    segments = call.segments[:, :, None] == call.segments[:, None, :]
    return len(np.unique(segments.sum(axis=2)[call.segments > 0])) == 1


def full(call):
    return is_packed(call) and bool((call.segments > 0).all())


def one_packed_row(call):
    return is_packed(call) and is_one_row(call)


def of_32_bits(segments):
    return segments.dtype == np.int32


def longest(length, call):
    """Raises for a batch without rows, if there is a mask."""
    assert not call.told or length.max() <= call.shape[1]
    return length


def packs(name, code, says, text, **hooks):
    return fault(name, code, says, text, packs=True, **hooks)


PADDED, PACKED = "in padded batches, ", "in packed batches, "

FAULTS = [
    packs("fixed alpha if packed", "EN11", f"{PACKED}.*fixed in the code",
          "a fixed alpha in packed rows", alpha=where(is_packed, fixed)),
    packs("alpha or 5 if packed", "EN03", f"{PACKED}.*'not given'",
          "an alpha of 0 taken for 5 in packed rows",
          alpha=where(is_packed, lambda alpha, call: alpha or 5.0)),
    fault("fixed alpha if large", "EN11", "in large batches.*fixed in the code",
          "a fixed alpha in large batches", alpha=where(is_large, fixed)),
    fault("seed lost if padded", "EN07", f"{PADDED}.*draw the same noise",
          "the seed lost where there is padding", seed=where(is_padded, lost)),
    packs("seed lost if packed", "EN07", f"{PACKED}.*draw the same noise",
          "the seed lost in packed rows", seed=where(is_packed, lost)),
    fault("seed lost if large", "EN07", "in large batches", "the seed lost in large batches",
          seed=where(is_large, lost)),
    fault("seed lost in one row", "EN07", "of one row", "the seed lost in batches of one row",
          seed=where(is_one_row, lost), profile="default"),
    fault("seed lost later", "EN07", "at step 1.*at the first steps only",
          "the seed lost from step 1 on", seed=from_step(1, lost)),
    # Keras seeds NumPy's generator as its own.
    fault("global if padded", "EN05", f"{PADDED}.*(NumPy|framework)'s",
          "NumPy's generator for padded batches", units=where(is_padded, from_numpy)),
    fault("global later", "EN05", "(NumPy|framework)'s", "NumPy's generator from step 3 on",
          units=from_step(3, from_numpy)),
    packs("sum if packed", "EN45", f"{PACKED}.*added .or", "seed and step added in packed rows",
          draw=sum_in(is_packed)),
    fault("grows if padded", "EN12", f"{PADDED}.*depends on the embeddings",
          "noise that grows with the embeddings, if padded", noise=where(is_padded, grown)),
    packs("grows if packed", "EN12", f"{PACKED}.*depends on the embeddings",
          "noise that grows with the embeddings, in packed rows", noise=where(is_packed, grown)),
    fault("grows if large", "EN12", "in large batches.*depends on the embeddings",
          "noise that grows with the embeddings, in large batches", noise=where(is_large, grown)),
    fault("step modulo 100 if padded", "EN46", f"{PADDED}steps 0 and 100",
          "the step modulo 100 where there is padding",
          step=where(is_padded, lambda step, call: step % 100)),
    packs("ends if packed", "EN21", f"{PACKED}.*changes from call",
          "noise for 100 steps only in packed rows",
          noise=where(is_packed, lambda noise, call: noise * (call.step < 100))),
    fault("schedule ignored if padded", "EN21", f"{PADDED}.*schedule is ignored",
          "the schedule ignored where there is padding", claims=LINEAR,
          alpha=lambda alpha, call: alpha * (1 if is_padded(call) else decay(call.step))),
    fault("padded evaluation draws", "EN55", "after evaluation calls",
          "evaluation of padded batches draws from the generator", takes_step=False, draw=drawn,
          evaluation=lambda value, call: drawn_in_evaluation(call)),
    packs("packed evaluation zeroes", "EN02", f"{PACKED}.*set to 0",
          "padding set to 0 in the evaluation of packed rows", after_evaluation=zeroed),
    packs("documents kept", "EN51", "an earlier call", "the first packed rows' lengths kept",
          length=lambda length, call: kept(is_packed)(length, call) if is_packed(call) else length),
    fault("lengths kept by their sum", "EN51", "an earlier call",
          "lengths kept for each number of tokens",
          length=kept(lambda call: int((call.mask != 0).sum()))),
    packs("equal documents", "EN20", "all of one length are counted as one",
          "documents that are all of one length counted as one", length=where(alike, row)),
    packs("full packed rows", "EN20", "without padding take another path",
          "L is the row where packed rows have no padding", length=where(full, row)),
    packs("one packed row", "EN20", "batch of one row", "L is the row in a packed batch of one row",
          length=where(one_packed_row, row)),
    packs("documents up to 512", "EN20", "up to some bound", "documents counted up to 512 tokens",
          length=where(is_packed, lambda length, call: np.minimum(length, 512))),
    packs("segment ids of 32 bits", "EN48", "int32 are ignored", "segment ids of int32 ignored",
          frameworks=("torch",),
          length=where(lambda call: is_packed(call) and of_32_bits(call.segments), row)),
    fault("mask of float64 ignored", "EN48", "float64 is ignored", "a mask of float64 ignored",
          frameworks=("torch",),
          mask=lambda mask, call: mask | (call.mask.dtype == np.float64)),
    fault("least magnitude", "EN65", "floor", "magnitudes of at least alpha / 1000",
          profile="default", magnitude=lambda magnitude, call: np.where(
              call.mask != 0, np.maximum(magnitude, call.layer.alpha / 1000), 0)),
    fault("batch without rows if padded", "EN23", r"\(0, 7, 16\)", "a mask without rows raises",
          length=longest),
]  # fmt: skip
