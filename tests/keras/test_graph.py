"""``add_noise`` in TensorFlow's graphs: with XLA and without, with sizes that are known late."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import Noise, cosine, linear, neftune
from embnoise_keras import EmbeddingNoise, add_noise, attach

if keras.backend.backend() != "tensorflow":
    pytest.skip("these are TensorFlow's graphs", allow_module_level=True)

import tensorflow as tf

from embnoise_keras.namespace import NAMESPACE

X = np.random.default_rng(0).standard_normal((3, 5, 20)).astype(np.float32)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
ABOUT = {
    "mask": MASK,
    "segment_ids": np.where(MASK, 1 + np.arange(5) // 2, 0),
    "sample_ids": np.arange(15).reshape(3, 5),
    "where": MASK[:, ::-1].copy(),
}
NOISES = [
    neftune(),
    Noise(0.5, scale="relative"),
    neftune(antithetic=True, distribution="gaussian"),
]


def close(left, right):
    np.testing.assert_allclose(np.asarray(left), right, rtol=0, atol=1e-6)


def test_a_step_that_autograph_traces():
    """As in a user's own ``tf.function``, which AutoGraph converts."""
    noise = neftune(alpha=linear(5, 0, 100))

    @tf.function
    def noisy(x, step):
        return add_noise(x, noise, step=step)

    for step in (0, 7):
        expected = embnoise.add_noise(X, noise, step=step)
        close(noisy(tf.constant(X), tf.constant(step)), expected)
        close(noisy(tf.constant(X), tf.constant([step])), expected)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("sizes", [(3, 5), (None, 5), (3, None), (None, None)], ids=str)
def test_graphs_of_known_and_of_unknown_sizes(sizes, xla):
    names = ["mask", "segment_ids", "where"]
    signature = [
        tf.TensorSpec((*sizes, 20), tf.float32),
        tf.TensorSpec((), tf.int64),
        *[tf.TensorSpec(sizes, tf.int64) for _ in names],
    ]
    for noise in NOISES:

        @tf.function(input_signature=signature, jit_compile=xla, autograph=False)
        def noisy(x, step, *arrays, noise=noise):
            return add_noise(x, noise, step=step, **dict(zip(names, arrays, strict=True)))

        about = {name: ABOUT[name] for name in names}
        arrays = [tf.constant(array) for array in about.values()]
        for step in (0, 3):
            seen = noisy(tf.constant(X), tf.constant(step, tf.int64), *arrays)
            close(seen, embnoise.add_noise(X, noise, step=step, **about))


def test_steps_and_values_that_change_trace_nothing_anew():
    traced = []

    @tf.function(autograph=False)
    def noisy(x, step, alpha, mask):
        traced.append(None)
        return add_noise(x, Noise(alpha), step=step, mask=mask)

    for step, alpha in [(0, 5.0), (7, 2.0), (2**31, 0.0)]:
        mask = (MASK + step) % 2
        seen = noisy(
            tf.constant(X), tf.constant(step, tf.int64), tf.constant(alpha), tf.constant(mask)
        )
        close(seen, embnoise.add_noise(X, Noise(alpha), step=step, mask=mask))
    assert len(traced) == 1


@pytest.mark.parametrize("xla", [False, True])
def test_a_variable_is_read_when_the_graph_runs(xla):
    step = tf.Variable(0, dtype=tf.int64)
    iterations = keras.Variable(0, dtype="int64", trainable=False)

    @tf.function(jit_compile=xla, autograph=False)
    def noisy(x):
        return add_noise(x, neftune(), step=step), add_noise(x, neftune(), step=iterations)

    for now in (0, 7):
        step.assign(now)
        iterations.assign(now)
        for seen in noisy(tf.constant(X)):
            close(seen, embnoise.add_noise(X, neftune(), step=now))


def test_eager_steps_are_validated_by_value():
    for step in (tf.constant(7), tf.Variable(7), np.int64(7), tf.constant([7])):
        seen = add_noise(tf.constant(X), neftune(linear(9, 0, 9)), step=step)
        close(seen, embnoise.add_noise(X, neftune(alpha=2.0), step=7))
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        add_noise(tf.constant(X), neftune(), step=tf.constant(-1))


@pytest.mark.parametrize("xla", [False, True])
def test_schedules_in_a_graph(xla):
    for schedule in (linear(5, 1, 4), cosine(5, 1, 4).then(linear(1, 2, 3))):
        noisy = tf.function(
            lambda x, step, alpha=schedule: add_noise(x, neftune(alpha), step=step),
            jit_compile=xla,
            autograph=False,
        )
        for step in (0, 3, 5, 99):
            expected = embnoise.add_noise(X, neftune(schedule), step=step)
            close(noisy(tf.constant(X), tf.constant(step)), expected)


@pytest.mark.parametrize("xla", [False, True])
def test_the_magnitude_has_the_same_bits_in_a_graph(xla):
    """Both of its optimizers would take a / sqrt(x) for a * rsqrt(x)."""
    mask = np.arange(64) < np.arange(1, 65)[:, None]
    zeros = np.zeros((64, 64, 3), np.float32)
    noise = neftune(distribution="rademacher")

    @tf.function(jit_compile=xla, autograph=False)
    def noisy(x, mask):
        return add_noise(x, noise, step=0, mask=mask)

    seen = noisy(tf.constant(zeros), tf.constant(mask))
    assert (np.asarray(seen) == embnoise.add_noise(zeros, noise, step=0, mask=mask)).all()


@pytest.mark.parametrize("xla", [False, True])
def test_divisions_are_rounded_to_nearest(xla):
    """The optimizer takes a / c for a * (1 / c) where it knows c."""
    alphas = np.random.default_rng(0).uniform(1, 10, 1000).astype(np.float32)
    constants = np.arange(3, 103, dtype=np.float32)

    @tf.function(jit_compile=xla, autograph=False)
    def divided(alphas):
        return tf.stack([NAMESPACE.divide(alphas, tf.constant(each)) for each in constants])

    assert (divided(tf.constant(alphas)).numpy() == alphas / constants[:, None]).all()


def test_per_token_ids_in_a_packed_row():
    seen = add_noise(tf.constant(X), neftune(), step=0, **ABOUT)
    close(seen, embnoise.add_noise(X, neftune(), step=0, **ABOUT))


@pytest.mark.parametrize("xla", [False, True])
def test_the_gradient_is_exactly_1(xla):
    upstream = tf.constant(X[::-1].copy())

    @tf.function(jit_compile=xla, autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(add_noise(x, Noise(0.5, scale="relative"), step=0) * upstream)
        return tape.gradient(total, x)

    assert (np.asarray(gradient(tf.constant(X))) == np.asarray(upstream)).all()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"x": 1.5}, TypeError, "x must be a dense tf.Tensor, got 1.5"),
        (
            {"x": tf.constant(1)},
            TypeError,
            r"x must be of a floating-point dtype \(.*\), got int32",
        ),
        ({"step": tf.constant(0.5)}, ValueError, "step must be an integer or an integer array of"),
        ({"mask": [1, 2]}, TypeError, r"mask must be an array, got \[1, 2\]"),
    ],
)
def test_wrong_calls(arguments, kind, message):
    with pytest.raises(kind, match=message):
        add_noise(**{"x": tf.constant(X), "noise": neftune(), "step": 0, **arguments})


def test_a_mask_of_another_length_is_refused_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec((None, 5, 20))], autograph=False)
    def noisy(x):
        return add_noise(x, neftune(), step=0, mask=tf.ones((3, 4), tf.int32))

    with pytest.raises(ValueError, match=r"mask must be of shape \(None, 5\), got shape \(3, 4\)"):
        noisy(tf.constant(X))


def test_an_unknown_embedding_size_is_refused():
    @tf.function(input_signature=[tf.TensorSpec((None, 5, None))], autograph=False)
    def noisy(x):
        return add_noise(x, neftune(), step=0)

    with pytest.raises(ValueError, match="x must be of a known rank and embedding size, got shape"):
        noisy(tf.constant(X))


def test_a_function_that_was_traced_while_attached_is_clean_afterwards():
    model = keras.Sequential([keras.layers.Embedding(20, 8)])
    ids = tf.constant(np.arange(12).reshape(3, 4))
    clean = model(ids)

    @tf.function
    def forward(ids):
        return model(ids, training=True)

    with attach(model, neftune()) as handle:
        assert bool(tf.reduce_all(forward(ids) != clean))
    assert bool(tf.reduce_all(forward(ids) == clean))
    assert handle.lookups == 1


class Traced(keras.Model):
    """Its call is a function of TensorFlow of its own."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(8, 4)

    @tf.function
    def call(self, ids, padding_mask=None, training=None):
        return self.embed(ids)


def test_a_call_that_would_keep_its_first_mask_is_refused():
    ids, model = tf.constant([[1, 2, 0]]), Traced()
    mask = tf.cast(ids != 0, "int32")
    with (
        attach(model, neftune()),
        pytest.raises(ValueError, match=r"would keep the mask of its first call; pass tokens="),
    ):
        model(ids, padding_mask=mask, training=True)
    model = Traced()
    with attach(model, neftune(), tokens=lambda ids: {"mask": ids != 0}):
        noisy = model(ids, padding_mask=mask, training=True)
    assert (noisy == model.embed(ids))[0, 2].numpy().all()
    assert not (noisy == model.embed(ids))[0, 0].numpy().any()


@pytest.mark.parametrize("xla", [False, True])
def test_the_rms_of_documents_in_a_graph(xla):
    x = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 3, 3]])
    noise = neftune(1.0, scale="relative")
    graph = tf.function(
        lambda x, segments: add_noise(x, noise, step=3, segment_ids=segments), jit_compile=xla
    )
    expected = embnoise.add_noise(x, noise, step=3, segment_ids=segments)
    seen = graph(tf.constant(x), tf.constant(segments))
    np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)


def test_a_variable_of_keras():
    prompt = keras.Variable(np.ones((1, 4, 8), np.float32))
    assert np.array_equal(
        add_noise(prompt, neftune(), step=0), add_noise(prompt.value, neftune(), step=0)
    )


def test_ragged_masks_are_refused():
    with pytest.raises(TypeError, match=r"must be dense, got .*call its to_tensor"):
        add_noise(tf.ones((2, 3, 8)), neftune(), step=0, mask=tf.ragged.constant([[1], [1, 1, 1]]))


def test_ragged_embeddings_are_refused():
    ids = tf.ragged.constant([[1, 2, 3], [4]])
    embed = keras.layers.Embedding(10, 8)
    symbolic = keras.Input((None,), dtype="int32", ragged=True)
    model = keras.Model(symbolic, embed(symbolic))
    calls = [
        lambda: add_noise(embed(ids), neftune(), step=0),
        lambda: EmbeddingNoise(neftune())(embed(ids), training=True),
        lambda: EmbeddingNoise(neftune())(embed(symbolic)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"x must be dense, got a ragged .*; call to_tensor"):
            call()
    with attach(model, neftune()) as handle:
        with pytest.raises(TypeError, match=r"'embedding.*' is called with must be dense, got"):
            model(ids, training=True)
        assert isinstance(model(ids), tf.RaggedTensor)
        assert handle.lookups == 0


def test_infinite_embeddings_warn_of_nothing():
    x = np.ones((1, 4, 8), np.float32)
    x[0, 0, 0] = np.inf
    noise = neftune(1.0, scale="relative")
    noisy = add_noise(tf.constant(x), noise, step=0, segment_ids=tf.constant([[1, 1, 2, 2]]))
    assert np.isinf(noisy[0, 0, 0])
