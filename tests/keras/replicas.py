"""Two replicas of a ``MirroredStrategy``; run by ``test_replicas``, before TensorFlow has begun."""

import tempfile

import keras
import numpy as np
import tensorflow as tf

import embnoise
from embnoise import neftune, symnoise
from embnoise_keras import EmbeddingNoise, attach


def test_replicas():
    processors = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processors[0], two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = EmbeddingNoise(neftune())
        model = keras.Sequential([keras.layers.Embedding(9, 8), layer, keras.layers.Flatten()])
        model.compile("sgd", "mse")
        bare = keras.Sequential([keras.layers.Embedding(9, 8), keras.layers.Flatten()])
        bare.compile("sgd", "mse")
        handle = attach(bare, neftune())
    ids, targets = np.ones((8, 3), "int32"), np.ones((8, 24))
    model.fit(ids, targets, batch_size=4, verbose=0)
    bare.fit(ids, targets, batch_size=4, verbose=0)
    assert (layer.step, handle.step) == (2, 2)
    with handle.paused(), layer.paused():
        model.fit(ids, targets, batch_size=4, verbose=0)
        bare.fit(ids, targets, batch_size=4, verbose=0)
    assert (layer.step, handle.step) == (2, 2)
    # What one replica's forward leaves behind must not reach lookups outside of it.
    bare.layers[0](ids, training=True)
    assert (handle.step, handle.lookups) == (3, 3)

    @tf.function
    def noises():
        return strategy.run(lambda: layer(tf.zeros((2, 3, 8)), training=True))

    whole = embnoise.add_noise(np.zeros((4, 3, 8), np.float32), neftune(), step=2)
    for number, noise in enumerate(strategy.experimental_local_results(noises())):
        assert (noise.numpy() == whole[number::2]).all()

    # Each sample is two rows of one replica.
    pairs = embnoise.add_noise(np.zeros((8, 3, 8), np.float32), symnoise(), step=0)
    with strategy.scope():
        layer = EmbeddingNoise(symnoise())

    @tf.function
    def pair_noises():
        return strategy.run(lambda: layer(tf.zeros((4, 3, 8)), training=True))

    for number, noise in enumerate(strategy.experimental_local_results(pair_noises())):
        assert (noise.numpy() == pairs.reshape(4, 2, 3, 8)[number::2].reshape(4, 3, 8)).all()
    test_a_loop(strategy)


def test_a_loop(strategy):
    """Micro-batches in a loop of TensorFlow; of the last batch, a replica may have fewer rows."""
    with strategy.scope():
        layer = EmbeddingNoise(neftune(), calls_per_step=2)
        model = keras.Sequential([layer])

    def micro_batches(x):
        noises = tf.TensorArray(tf.float32, 2)
        for call in tf.range(2):
            noises = noises.write(call, model(x, training=True))
        return noises.stack()

    @tf.function
    def step(rows):
        return strategy.run(micro_batches, (rows,))

    def noises(*sizes):
        rows = [tf.zeros((size, 3, 8)) for size in sizes]
        given = strategy.experimental_distribute_values_from_function(
            lambda context: rows[context.replica_id_in_sync_group]
        )
        found = strategy.experimental_local_results(step(given))
        return np.concatenate([each.numpy().reshape(-1, 3, 8) for each in found])

    for now, sizes in enumerate([(2, 2), (1, 3), (3, 1)]):
        whole = embnoise.add_noise(np.zeros((12, 3, 8), np.float32), neftune(), step=now)
        expected = [whole[number::2][: 2 * size] for number, size in enumerate(sizes)]
        assert (noises(*sizes) == np.concatenate(expected)).all()
    assert (layer.step, layer.lookups) == (3, 6)

    saved = tf.train.Checkpoint(model=model).save(tempfile.mkdtemp() + "/checkpoint")
    after = noises(2, 2)
    layer.step = 3  # which all replicas see
    assert (noises(2, 2) == after).all()
    tf.train.Checkpoint(model=model).restore(saved)
    assert layer.step == 3
    assert (noises(2, 2) == after).all()


if __name__ == "__main__":
    test_replicas()
    print("replicated")
