"""Lookups in loops inside the model's call: a loop that is traced once would repeat one noise."""

import keras
import numpy as np
import pytest
from keras import ops

from embnoise import neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import DIM, VOCABULARY, Probe, numpy, probed

if keras.backend.backend() == "jax":
    import jax

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="others count in their loops"
)
TRACES = keras.backend.backend() != "torch"
ONES = np.ones((4, 5), np.int32)  # so that only the noise tells embeddings apart


class Cell(keras.layers.Layer):
    state_size = output_size = DIM

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, name="embed")

    def build(self, _):
        self.embed.build()

    def call(self, ids, states, training=None):
        return self.embed(ids)[:, 0], states


class Recurrent(keras.Model):
    def __init__(self, unroll=False):
        super().__init__()
        self.rnn = keras.layers.RNN(Cell(), return_sequences=True, unroll=unroll)
        self.probe = Probe()

    def call(self, ids, training=None):
        return self.probe(self.rnn(ids[..., None], training=training), training=training)


class Mapped(keras.Model):
    def __init__(self, over_rows=ops.map):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, name="embed")
        self.probe = Probe()
        self._over_rows = over_rows

    def build(self, _):
        self.embed.build()

    def call(self, ids, training=None):
        rows = self._over_rows(lambda row: self.embed(row[None])[0], ids)
        return self.probe(rows, training=training)


def are_different(parts):
    parts = [part.tobytes() for part in parts]
    return len(set(parts)) == len(parts)


@pytest.mark.parametrize("build", [Recurrent, Mapped])
def test_a_loop_that_is_traced_once_is_refused(build):
    model = build()
    model(ONES)
    clean = numpy(model(ONES))
    with attach(model, neftune(50.0, length=5)):
        if not TRACES:
            assert are_different((probed(model, ONES) - clean).reshape(-1, DIM)[:5])
            return
        np.testing.assert_array_equal(model.predict(ONES, verbose=0), clean)
        with pytest.raises(ValueError, match=r"'embed' is called in a loop .* before the loop"):
            probed(model, ONES)


def test_a_loop_that_is_unrolled_has_different_noise_in_every_turn():
    model = Recurrent(unroll=True)
    model(ONES)
    with attach(model, neftune(50.0, length=5)) as handle:
        seen = probed(model, ONES)
        assert handle.step == 1
    assert are_different(seen.reshape(-1, DIM))


@pytest.mark.skipif(not TRACES, reason="a branch is Python's own")
def test_a_branch():
    """TensorFlow knows in its graph what a branch did; JAX does not."""

    def branch(lookup, ids):
        return ops.cond(ops.any(ids > 0), lambda: lookup(ids), lambda: ops.zeros((4, 5, DIM)))

    model = Mapped()
    model(ONES)
    model.call = lambda ids, training=None: model.probe(branch(model.embed, ids), training=training)
    with attach(model, neftune(50.0)) as handle:
        if keras.backend.backend() == "jax":
            with pytest.raises(ValueError, match="'embed' is called in a loop or another traced"):
                probed(model, ONES)
        else:
            probed(model, ONES)
            assert handle.step == 1


@needs_jax
def test_a_layer_that_jax_traces_by_itself_is_refused():
    x, layer = ops.ones((4, 5, DIM)), EmbeddingNoise(neftune(50.0))

    def noisy(row):
        return layer(row, training=True)

    calls = [
        lambda: ops.map(noisy, x),
        lambda: ops.scan(lambda carry, row: (carry, noisy(row)), ops.zeros(()), x),
        lambda: ops.cond(ops.any(x > 0), lambda: noisy(x), lambda: x),
        lambda: jax.jit(noisy)(x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"cannot count its calls in a loop, .*pass step= and"):
            call()
    noisy(x)
    assert layer.step == 1


@needs_jax
def test_a_layer_in_a_loop_of_fit_is_refused():
    model = Mapped()
    model.noise = EmbeddingNoise(neftune(50.0))

    def call(ids, training=None):
        rows = ops.map(lambda row: model.noise(row, training=training), model.embed(ids))
        return model.probe(rows, training=training)

    model.call = call
    model(ONES)
    with pytest.raises(ValueError, match=r"cannot count its calls in a loop, .*pass step= and"):
        probed(model, ONES)


@needs_jax
def test_a_stateless_call_in_what_jax_traces():
    x, layer = ops.ones((4, 5, DIM)), EmbeddingNoise(neftune(50.0))
    state = [variable.value for variable in layer.non_trainable_variables]

    def call(state, x=x):
        return layer.stateless_call([], state, x, training=True)

    expected = call(state)[0]
    calls = [
        lambda: jax.jit(call)(state),
        lambda: jax.jit(lambda x: call(state, x))(x),
        lambda: jax.jit(jax.checkpoint(call))(state),
    ]
    for each in calls:
        np.testing.assert_allclose(each()[0], expected, rtol=0, atol=1e-6)

    @jax.jit
    def recomputed_with_all_of_the_state_from_outside(state):
        return jax.checkpoint(lambda x: call(state, x))(x)

    with pytest.raises(ValueError, match="use stateless_call with the variables"):
        recomputed_with_all_of_the_state_from_outside(state)
    after, parts = jax.lax.scan(lambda state, row: call(state, row[None])[::-1], state, x)
    assert int(after[0][0]) == 4
    assert are_different(numpy(parts))


def test_rows_of_vectorized_map_are_refused():
    model = Mapped(over_rows=ops.vectorized_map)
    if TRACES:  # PyTorch's lookups cannot be mapped while noise is attached
        model(ONES)
        with (
            attach(model, neftune(50.0)),
            pytest.raises(
                ValueError, match=r"rows of ops\.vectorized_map would all have the noise"
            ),
        ):
            probed(model, ONES)
    x, layer = ops.ones((4, 5, DIM)), EmbeddingNoise(neftune(50.0))
    with pytest.raises(
        ValueError, match=r"rows of ops\.vectorized_map .* pass sample_ids= to an Emb"
    ):
        ops.vectorized_map(lambda row: layer(row, training=True), x)
    assert layer.step == 0


def test_rows_of_vectorized_map_may_have_ids():
    x, layer = ops.ones((4, 5, DIM)), EmbeddingNoise(neftune(50.0))
    ids = ops.arange(4)

    def noisy(row):
        return layer(row[0], sample_ids=row[1][None], step=0, training=True)

    seen = numpy(ops.vectorized_map(noisy, (x, ids)))
    np.testing.assert_allclose(seen, numpy(layer(x, step=0, training=True)), rtol=0, atol=1e-5)
