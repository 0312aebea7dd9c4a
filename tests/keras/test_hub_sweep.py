"""Every backbone of keras-hub that a tiny configuration builds: its lookups, and they alone."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.hub_models import BACKBONES, build
from tests.keras.models import IDS, MASK, numpy

NOISE = neftune(50.0)
DECODER_MASK = np.arange(5) < np.array([[5], [2], [3], [4]])
SAMPLE = (
    "EdRecBackbone",
    "PaliGemmaBackbone",
    "RoformerV2Backbone",
    "WhisperBackbone",
    "XLNetBackbone",
)
UNTOLD = ("FNetBackbone",)  # no mask: nothing tells it, or us, what is padding; segments may
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'rwkv_ops' package is not installed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*was passed an input with a mask attached:UserWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*non-tuple sequence for multidim:UserWarning"),
]


def inputs_of(model):
    given = {}
    for name, symbolic in model.input.items():
        if name.endswith("token_ids"):
            given[name] = IDS
        elif name.endswith("padding_mask") and name.replace("padding_mask", "token_ids") in (
            model.input
        ):
            given[name] = (DECODER_MASK if name.startswith("decoder") else MASK).astype(np.int32)
        else:  # pictures and sound
            sizes = [size or 5 for size in symbolic.shape[1:]]
            if name == "encoder_input_values":
                sizes[0] = 2000
            given[name] = np.zeros((len(IDS), *sizes), symbolic.dtype)
    return given


def lookups_seen(model, embeddings, call):
    """What the embeddings put out in a call of the model, apart from the reverse."""
    seen, undo = [], []
    for embedding in embeddings:
        before = vars(embedding).get("call")
        original = embedding.call

        def noted(ids, *args, original=original, **kwargs):
            out = original(ids, *args, **kwargs)
            if not args and not kwargs.get("reverse"):
                seen.append((numpy(ids), numpy(out)))
            return out

        embedding.call = noted
        undo.append((embedding, before))
    call()
    for embedding, before in undo:
        if before is None:
            del embedding.call
        else:
            embedding.call = before
    return seen


def check(name):
    model = build(name)
    inputs = inputs_of(model)
    sides = [each for each in ("encoder_token_ids", "decoder_token_ids") if each in inputs]
    masks = [DECODER_MASK if each.startswith("decoder") else MASK for each in sides] or [MASK]
    warned = nullcontext()
    if name in UNTOLD:
        masks = [np.ones_like(MASK)]
        warned = pytest.warns(RuntimeWarning, match="segment_ids of shape .* is not known")
    with attach(model, NOISE) as handle:
        embeddings = handle._attached.layers
        evaluated = lookups_seen(model, embeddings, lambda: model(inputs, training=False))
        assert (handle.step, handle.lookups) == (0, 0)
        with warned:
            noisy = lookups_seen(model, embeddings, lambda: model(inputs, training=True))
        assert (handle.step, handle.lookups) == (1, len(masks))
    clean = lookups_seen(model, embeddings, lambda: model(inputs, training=True))
    assert len(noisy) == len(clean) == len(evaluated) == len(masks)
    left = list(masks)
    for number, ((ids, x), (_, before), (_, after)) in enumerate(
        zip(noisy, evaluated, clean, strict=True)
    ):
        assert (ids == IDS).all()
        np.testing.assert_array_equal(before, after)
        noise = neftune(50.0, stream=f"/{number + 1}" if number else "")
        fitting = [
            index
            for index, mask in enumerate(left)
            if np.allclose(x, embnoise.add_noise(after, noise, step=0, mask=mask), atol=1e-4)
        ]
        assert fitting, f"{name}: lookup {number} is not noised at the length of its mask"
        del left[fitting[0]]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_backbone(name):
    check(name)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name):
    check(name)


def test_the_sweep_is_of_most_backbones():
    assert set(SAMPLE) <= set(BACKBONES)
    assert len(BACKBONES) >= 40
    assert isinstance(build("BertBackbone"), keras.Model)
