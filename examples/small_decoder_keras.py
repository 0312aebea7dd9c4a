"""The small decoder in Keras, compiled for a training like that of the other backends."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
from keras import ops
from tokenizers import Tokenizer
from tqdm import tqdm

import small_decoder
from pairs import Pair
from small_decoder import (
    EPSILON,
    INITIAL_DEVIATION,
    LEARNING_RATE,
    SEED,
    SHAPE,
    TOKENIZER,
    WARM_UP,
    WEIGHT_DECAY,
    Shape,
)
from task import GRADIENT_NORM, IGNORED

WEIGHTS = "model.weights.h5"  # its file in the model's folder


def decoder(shape: Shape) -> Any:
    """A model from token ids, [B, L], to the logits of the tokens that follow."""
    normal = keras.initializers.RandomNormal(
        stddev=INITIAL_DEVIATION, seed=keras.random.SeedGenerator(SEED)
    )
    embed = keras.layers.ReversibleEmbedding(
        shape.vocabulary, shape.width, embeddings_initializer=normal
    )
    ids = keras.Input([None], dtype="int32")
    x = embed(ids)
    for _ in range(shape.layers):
        x = Block(shape, normal)(x)
    x = keras.layers.RMSNormalization(epsilon=EPSILON)(x)
    return keras.Model(ids, embed(x, reverse=True))


class Block(keras.layers.Layer):  # type: ignore[misc]
    """Causal self-attention with rotary positions, then a gated feed-forward layer (SwiGLU)."""

    def __init__(self, shape: Shape, initializer: Any) -> None:
        super().__init__()

        def linear(width: int) -> Any:
            return keras.layers.Dense(width, use_bias=False, kernel_initializer=initializer)

        self.shape = shape
        self.attention_norm = keras.layers.RMSNormalization(epsilon=EPSILON)
        self.feed_forward_norm = keras.layers.RMSNormalization(epsilon=EPSILON)
        self.query, self.key, self.value, self.mix = (linear(shape.width) for _ in range(4))
        self.gate, self.up = (linear(shape.hidden) for _ in range(2))
        self.down = linear(shape.width)

    def call(self, x: Any) -> Any:
        x = x + self.attend(self.attention_norm(x))
        y = self.feed_forward_norm(x)
        return x + self.down(ops.silu(self.gate(y)) * self.up(y))

    def attend(self, x: Any) -> Any:
        length = ops.shape(x)[1]
        heads = (-1, length, self.shape.heads, self.shape.width // self.shape.heads)
        query, key, value = (
            ops.reshape(linear(x), heads) for linear in (self.query, self.key, self.value)
        )
        attended = ops.dot_product_attention(
            self.rotated(query), self.rotated(key), value, is_causal=True
        )
        return self.mix(ops.reshape(attended, (-1, length, self.shape.width)))

    def rotated(self, x: Any) -> Any:
        """Queries or keys, [B, L, heads, head size], turned by their positions."""
        positions = ops.arange(ops.shape(x)[1], dtype="float32")[:, None, None]
        angles = positions * small_decoder.rotary_frequencies(self.shape)
        first, second = ops.split(x, 2, axis=-1)
        return x * ops.cos(angles) + ops.concatenate([-second, first], axis=-1) * ops.sin(angles)


def compile_for_training(model: Any, learning_rate: Any, weight_decay: float) -> None:
    """AdamW behind a limit on the norm of the gradients; the loss is the mean over the labels."""
    tensorflow = keras.backend.backend() == "tensorflow"
    model.compile(
        keras.optimizers.AdamW(
            learning_rate, weight_decay=weight_decay, epsilon=1e-8, global_clipnorm=GRADIENT_NORM
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED),
        jit_compile=False if tensorflow else "auto",  # XLA is slower than its graph on a CPU
    )


def warm_up_and_cosine(peak: float, warm_up: int, steps: int, start: float = 0.0) -> Any:
    """A learning rate that rises from ``start`` to ``peak`` and falls to 0 at the last step."""
    return keras.optimizers.schedules.CosineDecay(
        start, steps - warm_up, warmup_target=peak, warmup_steps=warm_up
    )


class EachLoss(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the loss of every training batch; Keras itself gives the mean of the epoch so far."""

    def __init__(self, tell: Any) -> None:
        super().__init__()
        self.tell = tell

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.total = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self.total = self.total, float(logs["loss"]) * (batch + 1)
        self.tell(self.total - before)


def pretrained(pairs: list[Pair], steps: int, cache: Path) -> Path:
    """The folder of a pretrained model, as ``load`` takes it."""

    def make(tokenizer: Tokenizer, folder: Path) -> None:
        model = decoder(SHAPE)
        _pretrain(model, tokenizer, steps)
        model.save_weights(folder / WEIGHTS)
        tokenizer.save(str(folder / TOKENIZER))

    architecture = {"framework": "keras", **asdict(SHAPE)}
    return small_decoder.cached(cache, architecture, pairs, steps, make)


def load(folder: Path) -> Any:
    """The pretrained model of a folder."""
    model = decoder(SHAPE)
    model.load_weights(folder / WEIGHTS)
    return model


def _pretrain(model: Any, tokenizer: Tokenizer, steps: int) -> None:
    rate = warm_up_and_cosine(LEARNING_RATE, int(WARM_UP * steps), steps, LEARNING_RATE / 25)
    compile_for_training(model, rate, WEIGHT_DECAY)
    with tqdm(desc="Pretraining", total=steps, unit="step") as bar:

        def show(loss: float) -> None:
            bar.update()
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)

        batches = small_decoder.excerpts(tokenizer, steps)
        model.fit(
            batches, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[EachLoss(show)]
        )
