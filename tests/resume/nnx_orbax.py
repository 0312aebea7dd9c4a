"""Flax NNX: model, optimizer and noise saved by Orbax, inside of a step's micro-batches too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from embnoise import linear, neftune
from embnoise_jax.nnx import attach
from tests.jax.nnx_model import NnxModel

CALLS = 12


def train(folder, note, kill):
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, optax.MultiSteps(optax.adam(0.01), every_k_schedule=2), wrt=nnx.Param
    )
    attach(model, neftune(alpha=linear(20.0, 1.0, CALLS // 2)), calls_per_step=2)

    @nnx.jit
    def step(model, optimizer, ids):
        def loss(model):
            x, logits = model(ids)
            picked = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
            return picked.mean(), x

        (_, x), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, gradients)
        return x

    rows = np.random.default_rng(0).integers(20, size=(CALLS, 2, 5))
    with ocp.CheckpointManager(folder.absolute() / "orbax") as manager:
        done = manager.latest_step() or 0
        if done:
            graph, state = nnx.split((model, optimizer))
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
            nnx.update((model, optimizer), state)
            del graph
        for call in range(done, CALLS):
            note(step(model, optimizer, jnp.asarray(rows[call])))
            kill()
            if (call + 1) % 3 == 0:
                manager.save(call + 1, args=ocp.args.StandardSave(nnx.state((model, optimizer))))
                manager.wait_until_finished()
    flat = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))
    return {jax.tree_util.keystr(path): np.asarray(value) for path, value in flat}
