"""The small decoder in Flax NNX, and a step of its training with Optax."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, serialization
from jax import Array
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

PARAMETERS = "parameters.msgpack"  # its file in the model's folder
NORMAL = nnx.initializers.normal(INITIAL_DEVIATION)


class Decoder(nnx.Module):
    """From token ids, [B, L], to the logits of the tokens that follow, [B, L, vocabulary]."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(shape.vocabulary, shape.width, embedding_init=NORMAL, rngs=rngs)
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.layers)])
        self.norm = nnx.RMSNorm(shape.width, epsilon=EPSILON, rngs=rngs)

    def __call__(self, ids: Any) -> Array:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


class Block(nnx.Module):
    """Causal self-attention with rotary positions, then a gated feed-forward layer (SwiGLU)."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        norm = partial(nnx.RMSNorm, shape.width, epsilon=EPSILON, rngs=rngs)
        linear = partial(nnx.Linear, use_bias=False, kernel_init=NORMAL, rngs=rngs)
        self.shape = shape
        self.attention_norm, self.feed_forward_norm = norm(), norm()
        self.query, self.key, self.value, self.mix = (
            linear(shape.width, shape.width) for _ in range(4)
        )
        self.gate, self.up = (linear(shape.width, shape.hidden) for _ in range(2))
        self.down = linear(shape.hidden, shape.width)

    def __call__(self, x: Array) -> Array:
        x = x + self.attend(self.attention_norm(x))
        y = self.feed_forward_norm(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))

    def attend(self, x: Array) -> Array:
        heads = (*x.shape[:2], self.shape.heads, -1)
        query, key, value = (
            linear(x).reshape(heads) for linear in (self.query, self.key, self.value)
        )
        attended = jax.nn.dot_product_attention(
            self.rotated(query), self.rotated(key), value, is_causal=True
        )
        return self.mix(attended.reshape(x.shape))

    def rotated(self, x: Array) -> Array:
        """Queries or keys, [B, L, heads, head size], turned by their positions."""
        positions = jnp.arange(x.shape[1])[:, None, None]
        angles = positions * small_decoder.rotary_frequencies(self.shape)
        first, second = jnp.split(x, 2, axis=-1)
        return x * jnp.cos(angles) + jnp.concatenate([-second, first], axis=-1) * jnp.sin(angles)


@nnx.jit
def total_loss(model: Decoder, ids: Any, labels: Any) -> tuple[Array, Array]:
    """The summed cross-entropy of the labeled tokens, and their number."""
    labeled = labels != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(
        model(ids), jnp.where(labeled, labels, 0)
    )
    return jnp.where(labeled, losses, 0).sum(), labeled.sum()


@nnx.jit
def train_step(model: Decoder, optimizer: nnx.Optimizer[Decoder], ids: Any, labels: Any) -> Array:
    """One step of the optimizer; returns the mean loss of the batch."""

    def mean_loss(model: Decoder) -> Array:
        total, tokens = total_loss(model, ids, labels)
        return total / tokens

    loss: Array
    loss, gradients = nnx.value_and_grad(mean_loss)(model)
    optimizer.update(model, gradients)
    return loss


def adamw(
    model: Decoder, learning_rate: optax.Schedule, weight_decay: float
) -> nnx.Optimizer[Decoder]:
    """AdamW behind a limit on the norm of the gradients."""
    steps = optax.chain(
        optax.clip_by_global_norm(GRADIENT_NORM),
        optax.adamw(learning_rate, weight_decay=weight_decay),
    )
    return nnx.Optimizer(model, steps, wrt=nnx.Param)


def pretrained(pairs: list[Pair], steps: int, cache: Path) -> Path:
    """The folder of a pretrained model, as ``load`` takes it."""

    def make(tokenizer: Tokenizer, folder: Path) -> None:
        model = Decoder(SHAPE, nnx.Rngs(SEED))
        _pretrain(model, tokenizer, steps)
        parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        (folder / PARAMETERS).write_bytes(serialization.to_bytes(parameters))
        tokenizer.save(str(folder / TOKENIZER))

    architecture = {"framework": "flax.nnx", **asdict(SHAPE)}
    return small_decoder.cached(cache, architecture, pairs, steps, make)


def load(folder: Path) -> Decoder:
    """The pretrained model of a folder."""
    model = Decoder(SHAPE, nnx.Rngs(SEED))
    parameters = serialization.msgpack_restore((folder / PARAMETERS).read_bytes())
    nnx.update(model, nnx.restore_int_paths(jax.tree.map(jnp.asarray, parameters)))
    return model


def _pretrain(model: Decoder, tokenizer: Tokenizer, steps: int) -> None:
    schedule = optax.cosine_onecycle_schedule(steps, LEARNING_RATE, WARM_UP)
    optimizer = adamw(model, schedule, WEIGHT_DECAY)
    bar = tqdm(small_decoder.excerpts(tokenizer, steps), "Pretraining", steps, unit="step")
    for ids, labels in bar:
        loss = train_step(model, optimizer, ids, labels)
        bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
