"""Masks reach the noise by whatever route a Keras model takes them."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, fit, numpy, sequential

INTEGERS = MASK.astype(np.int32)
NOISE = neftune(50.0)


def noise_of(x, **tokens):
    return embnoise.add_noise(x, NOISE, step=0, **tokens)


def close(seen, expected):
    np.testing.assert_allclose(numpy(seen), expected, rtol=0, atol=1e-4)


def with_inputs(arrange, mask_name="padding_mask", dtype="int32"):
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    mask = keras.Input((5,), dtype=dtype, name=mask_name)
    x = keras.layers.Embedding(VOCABULARY, DIM)(ids)
    return keras.Model(arrange(ids, mask), x)


@pytest.mark.parametrize("name", ["padding_mask", "attention_mask", "mask"])
@pytest.mark.parametrize("dtype", [np.int64, bool, np.float32])
@pytest.mark.parametrize("structure", ["list", "dict", "list called with a dict"])
def test_a_functional_model_names_its_inputs(structure, name, dtype):
    names = ["token_ids", name]
    arrange = {"dict": lambda *inputs: dict(zip(names, inputs, strict=True))}.get(
        structure, lambda *inputs: list(inputs)
    )
    model = with_inputs(arrange, name)
    arrays = [IDS, MASK.astype(dtype)]
    inputs = arrays if structure == "list" else dict(zip(names, arrays, strict=True))
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_a_mask_that_is_true_at_padding_is_inverted_by_a_function(dtype):
    model = with_inputs(lambda *inputs: list(inputs), dtype=dtype)
    inputs = [IDS, (~MASK).astype(dtype)]
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        close(model(inputs, training=True), noise_of(clean, mask=~MASK))

    def tokens(padding_mask):
        return {"mask": ops.logical_not(padding_mask)}

    with attach(model, NOISE, tokens=tokens):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, inputs, training=None, mask=None):
        return self.embed(inputs["token_ids"])


class Nested(Subclassed):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs["text"])


def test_dicts_in_dicts():
    text = {"token_ids": ops.convert_to_tensor(IDS), "padding_mask": INTEGERS}
    model = Nested()
    clean = numpy(model({"text": text}))
    with attach(model, NOISE):
        close(model({"text": text}, training=True), noise_of(clean, mask=MASK))


@pytest.mark.parametrize("kind", ["functional", "subclassed", "inner"])
def test_an_input_called_mask_is_not_the_mask_argument_of_keras(kind):
    """Called with tensors, Keras fills that in: one None for each input."""
    inputs = {"token_ids": ops.convert_to_tensor(IDS), "mask": ops.convert_to_tensor(INTEGERS)}
    model = Subclassed()
    if kind != "subclassed":
        model = with_inputs(lambda ids, mask: {"token_ids": ids, "mask": mask}, "mask")
    if kind == "inner":
        outer = {name: keras.Input((5,), dtype="int32", name=name) for name in inputs}
        model = keras.Model(outer, model(outer))
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


def test_a_mask_that_may_be_additive_is_refused():
    model = with_inputs(lambda *inputs: list(inputs), dtype="float32")
    inputs = [IDS, MASK.astype(np.float32)]
    clean = numpy(model(inputs))
    with attach(model, NOISE) as handle:
        with pytest.raises(TypeError, match="found a mask of dtype float32 among the model's inp"):
            model(inputs, training=True)
        assert handle.step == 0
    tokens = {"tokens": lambda padding_mask: {"mask": padding_mask != 0}}
    with attach(model, NOISE, **tokens):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


# Keras: the embedding does not pass on the mask that it was given.
@pytest.mark.filterwarnings("ignore:(?s).*was passed an input with a mask attached:UserWarning")
def test_the_mask_argument_of_keras():
    ids = keras.Input((5,), dtype="int32")
    model = keras.Model(ids, keras.layers.Embedding(VOCABULARY, DIM)(ids))
    clean = numpy(model(IDS))
    with attach(model, NOISE):
        noisy = model(ops.convert_to_tensor(IDS), mask=ops.convert_to_tensor(MASK), training=True)
    close(noisy, noise_of(clean, mask=MASK))


class Encoder(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def build(self, _):
        self.embed.build()

    def call(self, tokens):
        return self.embed(tokens)


class Outer(keras.Model):
    """Looks up in a layer that takes no mask."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

    def call(self, batch, training=None):
        return self.encoder(batch["input_ids"])


def test_an_outer_layer_takes_the_mask():
    model, batch = Outer(), {"input_ids": IDS, "attention_mask": INTEGERS}
    clean = numpy(model(batch))
    with attach(model, NOISE):
        close(model(batch, training=True), noise_of(clean, mask=MASK))


class Inner(Encoder):
    def call(self, tokens, padding_mask=None):
        return self.embed(tokens)


class Outermost(keras.Model):
    """Two inner layers share a table, and are told their masks by the outer one."""

    def __init__(self):
        super().__init__()
        self.encoder = Inner()

    def call(self, ids, kept, training=None):
        return self.encoder(ids, padding_mask=kept)


def test_an_inner_layer_is_told_the_mask():
    model = Outermost()
    clean = numpy(model(IDS, INTEGERS))
    with attach(model, NOISE):
        close(model(IDS, INTEGERS, training=True), noise_of(clean, mask=MASK))


def test_a_mask_that_the_model_takes_counts_before_mask_zero():
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    mask = keras.Input((5,), dtype="int32", name="padding_mask")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)(ids)
    model = keras.Model([ids, mask], x)
    first = (np.arange(5) < 2) & np.ones_like(MASK)
    clean = numpy(model([IDS, first.astype(np.int32)]))
    with attach(model, NOISE):
        noisy = model([IDS, first.astype(np.int32)], training=True)
    close(noisy, noise_of(clean, mask=first))


def test_a_layer_uses_the_mask_of_keras_beside_other_arguments():
    embed, layer = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True), EmbeddingNoise(NOISE)
    x = embed(IDS)
    positions = np.arange(5)[::-1] * np.ones_like(IDS)
    noisy = layer(x, positions=ops.convert_to_tensor(positions), training=True)
    close(noisy, noise_of(numpy(x), mask=MASK, positions=positions))


def test_a_masking_layer():
    inputs = numpy(keras.random.uniform((4, 5, DIM), seed=0)) * MASK[..., None]
    layer = EmbeddingNoise(NOISE)
    noisy = layer(keras.layers.Masking()(inputs), training=True)
    close(noisy, noise_of(inputs, mask=MASK))


def check_two(seen, clean, masks):
    """Each with its own mask; which lookup comes first is for Keras to say."""
    streams = []
    for noisy, x, mask in zip(seen, clean, masks, strict=True):
        for stream in ("", "/2"):
            expected = embnoise.add_noise(x, neftune(50.0, stream=stream), step=0, mask=mask)
            if np.allclose(numpy(noisy), expected, rtol=0, atol=1e-4):
                streams.append(stream)
    assert sorted(streams) == ["", "/2"]


def two_sided(names, table=None):
    """A functional encoder-decoder, whose decoder looks up ids that it has changed."""
    sides = [keras.Input((5,), dtype="int32", name=f"{name}_ids") for name in names]
    masks = [keras.Input((5,), dtype="int32", name=f"{name}_mask") for name in names]
    tables = table or [keras.layers.Embedding(VOCABULARY, DIM) for _ in names]
    first, second = sides
    outputs = [tables[0](first), tables[-1](ops.maximum(second, 1))]
    return keras.Model([*sides, *masks], outputs)


@pytest.mark.parametrize("names", [("encoder", "decoder"), ("src", "tgt")])
def test_the_graph_tells_masks_apart(names):
    model = two_sided(names, [keras.layers.Embedding(VOCABULARY, DIM)])
    inputs = [IDS, IDS, INTEGERS, np.ones_like(INTEGERS)]
    clean = [numpy(x) for x in model(inputs)]
    with attach(model, NOISE) as handle:
        seen = model(inputs, training=True)
        assert (handle.step, handle.lookups) == (1, 2)
    check_two(seen, clean, (MASK, np.ones_like(MASK)))


class Shared(keras.Model):
    """An encoder-decoder with one table, whose arguments have the names of Hugging Face."""

    def __init__(self, computes=False):
        super().__init__()
        self.embed, self.computes = keras.layers.Embedding(VOCABULARY, DIM), computes

    def call(self, inputs, training=None):
        sides = [inputs["input_ids"], inputs["decoder_input_ids"]]
        return [self.embed(ops.maximum(side, 0) if self.computes else side) for side in sides]


SHARED = {"input_ids": IDS, "attention_mask": INTEGERS, "decoder_input_ids": IDS.copy()}


def shared_graph():
    inputs = {name: keras.Input((5,), dtype="int32", name=name) for name in SHARED}
    embed = keras.layers.Embedding(VOCABULARY, DIM)
    return keras.Model(inputs, [embed(inputs["input_ids"]), embed(inputs["decoder_input_ids"])])


@pytest.mark.parametrize("build", [Shared, shared_graph])
def test_a_mask_of_other_ids_is_not_that_of_the_decoder(build):
    model = build()
    clean = [numpy(x) for x in model(SHARED)]
    with attach(model, NOISE):
        check_two(model(SHARED, training=True), clean, (MASK, np.ones_like(MASK)))


def test_a_mask_of_other_ids_or_of_computed_ones_is_asked_for():
    model = Shared(computes=True)
    model(SHARED)
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match="cannot tell which mask belongs to a lookup; pass tokens"),
    ):
        model(SHARED, training=True)


class Both(Shared):
    def call(self, inputs, training=None):
        return self.embed(inputs["encoder_ids"]), self.embed(inputs["decoder_ids"])


def test_one_mask_without_ids_of_its_own_is_that_of_both_sides():
    model, inputs = Both(), {"encoder_ids": IDS, "decoder_ids": IDS.copy(), "mask": INTEGERS}
    clean = [numpy(x) for x in model(inputs)]
    with attach(model, NOISE):
        check_two(model(inputs, training=True), clean, (MASK, MASK))


def untied(prefixes, direct=True):
    sides = [keras.Input((5,), dtype="int32", name=f"{each}_input_ids") for each in prefixes]
    masks = [keras.Input((5,), dtype="int32", name=f"{each}_attention_mask") for each in prefixes]
    tables = [keras.layers.Embedding(VOCABULARY, DIM, name=f"{each}_table") for each in prefixes]
    ids = [each if direct else ops.maximum(each, 0) for each in sides]
    outputs = [table(each) for table, each in zip(tables, ids, strict=True)]
    return keras.Model([*sides, *masks], outputs)


@pytest.mark.parametrize("layer", [None, ["encoder_table", "decoder_table"]])
def test_an_encoder_decoder_with_two_tables_gets_noise_on_both_sides(layer):
    model = untied(("encoder", "decoder"), direct=layer is None)
    inputs = [IDS, IDS, INTEGERS, np.ones_like(INTEGERS)]
    clean = [numpy(x) for x in model(inputs)]
    with attach(model, NOISE, layer=layer) as handle:
        seen = model(inputs, training=True)
        assert (handle.step, handle.lookups) == (1, 2)
        assert list(handle.state_dict()) == ["encoder_table+decoder_table"]
        close(model(inputs)[1], clean[1])
        handle.load_state_dict(handle.state_dict())
    check_two(seen, clean, (MASK, np.ones_like(MASK)))
    assert all(not {"call", "quantized_call"} & set(vars(each)) for each in model.layers)


class TwoTables(keras.Model):
    def __init__(self):
        super().__init__()
        self.source = keras.layers.Embedding(VOCABULARY, DIM, name="source")
        self.target = keras.layers.Embedding(VOCABULARY, DIM, name="target")

    def call(self, ids, decoder_ids, attention_mask, decoder_attention_mask, training=None):
        return self.source(ids), self.target(ops.maximum(decoder_ids, 1))


def test_two_tables_that_nothing_tells_apart_are_asked_for():
    with pytest.raises(ValueError, match=r"pass layer=, .* or a list of them.*'source'.*'target'"):
        attach(TwoTables(), NOISE)


def test_masks_that_nothing_tells_apart_are_asked_for_in_training_alone():
    model, arguments = TwoTables(), (IDS, IDS.copy(), INTEGERS, np.ones_like(INTEGERS))
    clean = model(*arguments)
    with attach(model, NOISE, layer=["source", "target"]):
        close(model(*arguments, training=False)[1], numpy(clean[1]))
        with pytest.raises(ValueError, match="cannot tell which mask belongs to a lookup; pass to"):
            model(*arguments, training=True)
    with attach(model, NOISE, layer=model.source, tokens=lambda ids: {"mask": ids != 0}):
        close(model(*arguments, training=True)[0], noise_of(numpy(clean[0]), mask=MASK))


class TimeMajor(keras.Model):
    """Looks up [L, B]."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, ids, padding_mask=None, training=None):
        return self.embed(ops.transpose(ids))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": lambda ids: {"mask": ids != 0}},
        {"tokens": lambda padding_mask: {"mask": padding_mask}},
    ],
)
def test_a_lookup_of_time_by_batch_is_noised_by_rows(options):
    model = TimeMajor()
    clean = numpy(model(IDS, INTEGERS))
    with attach(model, NOISE, **options):
        noisy = model(IDS, INTEGERS, training=True)
    expected = noise_of(clean.swapaxes(0, 1), mask=MASK).swapaxes(0, 1)
    close(noisy, expected)


def test_a_square_lookup_that_the_model_computed_is_warned_of_once_in_doubt():
    ids, mask = IDS[:, :4], INTEGERS[:, :4]
    model = TimeMajor()
    model(ids, mask)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=r"taken as \[B, L\], since noth"):
        model(ids, mask, training=True)
    with attach(model, NOISE) as handle:
        model(IDS, INTEGERS, training=True)  # which tells how the model computes
        handle.step = 0
        clean = numpy(model(ids, mask))
        noisy = model(ids, mask, training=True)
        expected = noise_of(clean.swapaxes(0, 1), mask=mask).swapaxes(0, 1)
        close(noisy, expected)


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # of Keras, on what comes after
def test_a_square_lookup_in_a_sequential_model_is_in_no_doubt():
    ids, mask = IDS[:, :4], ops.convert_to_tensor(INTEGERS[:, :4])
    model = keras.Sequential([keras.layers.Embedding(VOCABULARY, DIM)])
    clean = numpy(model(ids))
    with attach(model, NOISE):
        noisy = model(ids, training=True, mask=mask)
    close(noisy, noise_of(clean, mask=INTEGERS[:, :4]))


def test_packed_rows_are_described_by_a_function():
    documents = np.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 2], [1, 1, 1, 1, 0], [1, 2, 3, 4, 5]])
    model = with_inputs(lambda *inputs: list(inputs), "documents")
    inputs = [IDS, documents.astype(np.int32)]
    clean = numpy(model(inputs))
    with attach(model, NOISE, tokens=lambda documents: {"segment_ids": documents}):
        close(model(inputs, training=True), noise_of(clean, segment_ids=documents))


class Attending(keras.Model):
    """Takes an attention mask of either kind."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)

    def call(self, ids, attention_mask=None, training=None):
        return self.embed(ids)


CAUSAL = np.tril(np.ones((5, 5), np.int32))


def test_a_square_attention_mask_is_warned_of_in_doubt():
    model = Attending()
    ids = np.ones((5, 5), np.int32)
    clean = numpy(model(ids))
    with attach(model, NOISE):
        with pytest.warns(RuntimeWarning, match=r"\(5, 5\) is taken as \[B, L\].*Pass tokens="):
            seen = model(ids, attention_mask=CAUSAL, training=True)
        close(seen, noise_of(clean, mask=CAUSAL))
        model(ids[:2], attention_mask=ids[:2], training=True)
        model(ids, attention_mask=CAUSAL, training=True)  # by now it is in no doubt
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}):
        close(model(ids, attention_mask=CAUSAL, training=True), noise_of(clean))


def test_a_mask_that_does_not_fit_is_refused_in_training_alone():
    model = Attending()
    clean = numpy(model(IDS))
    with attach(model, NOISE):
        close(model(IDS, attention_mask=CAUSAL), clean)
        with pytest.raises(ValueError, match=r"shape \(5, 5\).* not that of the \(4, 5\).*tokens="):
            model(IDS, attention_mask=CAUSAL, training=True)


class Shortened(keras.Model):
    """Teacher forcing: looks up all tokens but the last."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, inputs, training=None):
        return self.embed(inputs["token_ids"][:, :-1])


def test_a_mask_of_another_width_is_refused_in_fit():
    """Where TensorFlow does not know B, the mask might be that of [L, B]."""
    model, inputs = Shortened(), {"token_ids": IDS, "padding_mask": MASK}
    model.compile("sgd", "mse")
    targets = np.zeros((4, 4, DIM))
    model.train_on_batch(inputs, targets)
    with attach(model, NOISE), pytest.raises(ValueError, match=r"\(\w+, 5\) among.*pass tokens="):
        model.fit(inputs, targets, batch_size=3, verbose=0)


class Dictionary(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, inputs, training=None):
        return self.embed(inputs["ids"])


@pytest.mark.parametrize("mask", [MASK[:, None, None, :], MASK[:, None] & MASK[..., None]])
def test_a_mask_of_attention_scores_is_warned_of(mask):
    model, inputs = Dictionary(), {"ids": IDS, "attention_mask": mask}
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        with pytest.warns(RuntimeWarning, match=r"is not \[B, L\], so it does not tell"):
            close(model(inputs, training=True), noise_of(clean))
        model(inputs, training=True)  # once is enough
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


def compares(*tokens, pools=None):
    """A functional model that compares its ids with tokens, and pools where they are not one."""
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, DIM)(ids)
    outputs = [x, *[ops.not_equal(ids, token) for token in tokens]]
    if pools is not None:
        outputs.append(keras.layers.GlobalAveragePooling1D()(x, mask=ops.not_equal(ids, pools)))
    return keras.Model(ids, outputs)


@pytest.mark.parametrize(
    ("tokens", "pools", "padding"), [([0], None, 0), ([0, 9], None, 0), ([], 9, 9), ([1], 9, 9)]
)
def test_a_graph_that_compares_ids_with_padding_tells_it(tokens, pools, padding):
    model = compares(*tokens, pools=pools)
    clean = numpy(model(IDS)[0])
    with attach(model, NOISE):
        close(model(IDS, training=True)[0], noise_of(clean, mask=padding != IDS))


@pytest.mark.parametrize(("tokens", "pools"), [([9], None), ([1, 9], None), ([0], 9)])
def test_a_graph_that_compares_ids_with_another_token_is_warned_of(tokens, pools):
    model = compares(*tokens, pools=pools)
    clean = numpy(model(IDS)[0])
    with attach(model, NOISE):
        with pytest.warns(
            RuntimeWarning, match=r"comparison of ids with .*9.* does not tell the pa"
        ):
            close(model(IDS, training=True)[0], noise_of(clean))
        model(IDS, training=True)  # once is enough
    with attach(model, NOISE, tokens=lambda ids: {}):
        close(model(IDS, training=True)[0], noise_of(clean))


NAMES = ["pad_mask", "key_padding_mask", "src_mask", "attn_mask", "input_masks", "ValidMask"]


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_with_another_name_is_warned_of(name):
    model, inputs = Dictionary(), {"ids": IDS, name: INTEGERS}
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        with pytest.warns(
            RuntimeWarning, match=rf"{name} of shape \(4, 5\) is not known, so it do"
        ):
            close(model(inputs, training=True), noise_of(clean))
        model(inputs, training=True)  # once is enough
    with attach(model, NOISE, tokens=lambda **all_of_it: {"mask": all_of_it[name]}):
        close(model(inputs, training=True), noise_of(clean, mask=MASK))


@pytest.mark.parametrize(
    ("others", "options"),
    [
        ({"padding_mask": INTEGERS}, {}),
        ({}, {"tokens": lambda ids: {}}),
        ({}, {"where": lambda prompt_mask: prompt_mask}),
        ({"prompt_mask": INTEGERS[:, :4]}, {}),
        ({"prompt_mask": INTEGERS, "prompt_ids": INTEGERS}, {}),
    ],
)
def test_a_mask_with_another_name_is_not_warned_of_without_need(others, options):
    model, inputs = Dictionary(), {"ids": IDS, "prompt_mask": INTEGERS, **others}
    with attach(model, NOISE, **options) as handle:
        model(inputs, training=True)  # a warning would be an error
        assert handle.step == 1


def test_single_ids_are_refused_in_training_alone():
    model = Attending()
    clean = numpy(model(IDS[:, 1]))
    with attach(model, NOISE):
        close(model(IDS[:, 1]), clean)
        close(model.predict(IDS[:, 1], verbose=0), clean)
        with pytest.raises(ValueError, match=r"looked up ids \[B\].*ids\[:, None\]"):
            model(IDS[:, 1], training=True)


class Untold(keras.Model):
    """Does not hand `training` on."""

    def __init__(self, *noise):
        super().__init__()
        self.inner = sequential(*noise)

    def call(self, ids, training=None):
        return self.inner(ids)


@pytest.mark.parametrize("eager", [False, True])
def test_a_model_that_does_not_hand_training_on_is_warned_of_with_jax(eager):
    layer = EmbeddingNoise(NOISE)
    model = Untold(layer)
    model.compile("sgd", "mse", run_eagerly=eager)
    model.predict(IDS, verbose=0)
    model.evaluate(IDS, np.ones((4, 1)), verbose=0)
    if keras.backend.backend() == "jax":
        with pytest.warns(RuntimeWarning, match="does not hand `training` on: with JAX"):
            fit(model)
        assert layer.step == 0
    else:
        fit(model)
        assert layer.step == 2


def test_an_attached_model_inside_one_that_does_not_hand_training_on():
    model = Untold()
    model.compile("sgd", "mse")
    model.predict(IDS, verbose=0)
    handle = attach(model.inner, NOISE)
    if keras.backend.backend() == "jax":
        with pytest.warns(RuntimeWarning, match="does not hand `training` on: with JAX"):
            fit(model)
    handle.remove()
    with attach(model, NOISE) as handle:
        fit(model)
        assert handle.step == 2
