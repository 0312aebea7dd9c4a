"""What Hypothesis draws: noises, and batches with masks, segments and sample ids."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import embnoise
from tests.backends import DTYPES

seeds = st.integers(0, 2**64 - 1)
distributions = st.sampled_from(["uniform", "rademacher", "gaussian"])
alphas = st.floats(2**-10, 2**10, width=32)
steps = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(sorted(DTYPES))


@st.composite
def schedules(draw):
    pair = (draw(alphas), draw(alphas))
    length = draw(st.integers(1, 1000))
    kind = draw(st.sampled_from(["linear", "cosine", "exponential", "polynomial", "sigmoid"]))
    first = getattr(embnoise, kind)(*pair, length)
    if draw(st.booleans()):
        return first.then(embnoise.linear(draw(alphas), draw(alphas), draw(st.integers(1, 50))))
    return first


@st.composite
def noises(draw, **fixed):
    options = {
        "distribution": draw(distributions),
        "scale": draw(st.sampled_from(["neftune", "per_token", "absolute"])),
        "length": draw(st.sampled_from(["tokens", "padded", 7])),
        "match": draw(st.sampled_from(["support", "rms"])),
        "antithetic": draw(st.booleans()),
        "seed": draw(seeds),
        "stream": draw(st.sampled_from(["", "image"])),
    }
    return embnoise.Noise(fixed.pop("alpha", None) or draw(alphas), **{**options, **fixed})


@st.composite
def shapes(draw):
    return draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 33))


def embeddings(shape, dtype="float32", seed=0):
    x = np.random.default_rng(seed).standard_normal(shape)
    return x.astype(DTYPES[dtype])


@st.composite
def masks(draw, batch, length):
    bits = draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length))
    kind = draw(st.sampled_from([np.bool_, np.int64, np.uint8]))
    return np.array(bits).reshape(batch, length).astype(kind)


@st.composite
def segment_ids(draw, batch, length):
    ids = draw(st.lists(st.integers(0, 3), min_size=batch * length, max_size=batch * length))
    return np.array(ids).reshape(batch, length)


def lengths_of(batch, length, mask, segments):
    """How many real tokens the sequence of each token has, counted the slow way."""
    real = np.ones((batch, length), bool) if mask is None else mask != 0
    owner = np.ones((batch, length), int) if segments is None else segments
    real = real & (owner != 0)
    counts = [
        [
            sum(real[b, j] and owner[b, j] == owner[b, i] for j in range(length))
            for i in range(length)
        ]
        for b in range(batch)
    ]
    return real, np.array(counts)
