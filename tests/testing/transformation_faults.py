"""Layers with one fault each, which shows under one transformation."""

from __future__ import annotations

from embnoise import neftune
from embnoise.testing import Claims
from tests.testing.zoo import Faulty

# PyTorch.


def clean_under_vmap(*, dim, alpha, seed):
    import torch  # noqa: PLC0415

    def layer(x, *, training, step, mask=None):
        if not training or torch._C._are_functorch_transforms_active():
            return x
        return x + noise_of_rows(x, alpha, seed, step, mask)

    return layer


def fresh_in_every_forward(*, dim, alpha, seed):
    calls = []

    def layer(x, *, training, mask=None):
        if not training:
            return x
        calls.append(None)
        return x + noise_of_rows(x, alpha, seed, len(calls), mask)

    return layer


def differentiable_once(*, dim, alpha, seed):
    import torch  # noqa: PLC0415
    from torch.autograd.function import once_differentiable  # noqa: PLC0415

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(context, x, noise):
            return x + noise

        @staticmethod
        @once_differentiable
        def backward(context, gradient):
            return gradient, None

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        return Identity.apply(x, noise_of_rows(x, alpha, seed, step, mask))

    return layer


def another_dtype(*, dim, alpha, seed):
    import torch  # noqa: PLC0415

    operator = _operator(torch)

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        return operator(x, noise_of_rows(x, alpha, seed, step, mask))

    return layer


def _operator(torch):
    """An operator whose fake version says another dtype."""
    name = "embnoise_tests::add"
    if hasattr(torch.ops.embnoise_tests, "add"):
        return torch.ops.embnoise_tests.add
    made = torch.library.custom_op(name, lambda x, noise: x + noise, mutates_args=(),
                                   schema="(Tensor x, Tensor noise) -> Tensor")  # fmt: skip
    made.register_fake(lambda x, noise: x.double())
    made.register_autograd(lambda context, gradient: (gradient, None))
    return torch.ops.embnoise_tests.add


def noise_of_rows(x, alpha, seed, step, mask):
    from embnoise_torch import add_noise  # noqa: PLC0415

    zeros = x.detach() * 0
    return add_noise(zeros, neftune(alpha, seed=seed), step=step, mask=mask)


# JAX.


def with_a_gradient_of_its_own(*, dim, alpha, seed):
    import jax  # noqa: PLC0415

    from embnoise_jax import add_noise  # noqa: PLC0415

    @jax.custom_vjp
    def noisy(x, noise):
        return x + noise

    # Right once: the second derivative gets no term from what is stopped.
    noisy.defvjp(
        lambda x, noise: (x + noise, None),
        lambda _, gradient: (jax.lax.stop_gradient(gradient), None),
    )

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        noise = add_noise(0 * x, neftune(alpha, seed=seed), step=step, mask=mask)
        return noisy(x, jax.lax.stop_gradient(noise))

    return layer


def on_each_shard(change):
    """A layer that draws on every device of a mesh by itself, and without a mesh as it should."""

    def make(*, dim, alpha, seed):
        import jax  # noqa: PLC0415

        rows = jax.sharding.PartitionSpec("rows")

        def layer(x, *, training, step, mask=None):
            if not training:
                return x
            key = jax.random.fold_in(jax.random.key(seed), step)

            def units(x):
                return jax.random.uniform(key, x.shape, minval=-1, maxval=1)

            def of_a_shard(x):
                return change(units(x), jax.lax.axis_index("rows"))

            here = jax.numpy.ones(x.shape[:2]) if mask is None else mask
            lengths = here.sum(axis=1, keepdims=True).clip(1)
            magnitude = alpha / (lengths * x.shape[2]) ** 0.5 * here
            draw = units
            if not jax.sharding.get_abstract_mesh().empty:
                draw = jax.shard_map(of_a_shard, in_specs=rows, out_specs=rows)
            return x + (draw(x) * magnitude[..., None]).astype(x.dtype)

        return layer

    make.__name__ = change.__name__
    return make


def the_same_on_each_shard(units, number):
    return units + 0 * number


def turned_by_the_shards_number(units, number):
    import jax  # noqa: PLC0415

    return jax.numpy.roll(units, number, axis=1)


def on_the_first_shard(units, number):
    return units * (number == 0)


def bad(make, driver, transformation, says, fault):
    claims = Claims(transformations=(transformation,))
    name = make.__name__
    return Faulty(name, make, driver, "embeddings", None, claims, "EN60", says, fault)


TORCH = [
    bad(clean_under_vmap, "torch", "vmap", "under vmap the output differs by up to",
        "no noise under vmap"),
    bad(fresh_in_every_forward, "torch", "remat", "recomputed in the backward pass draws other",
        "other noise in a forward pass that is recomputed"),
    bad(differentiable_once, "torch", "grad_of_grad", "a gradient of its own, which has no",
        "no second derivative"),
    bad(another_dtype, "torch", "opcheck", "(?s)under opcheck .*operator does not do what its",
        "an operator whose fake version has another dtype"),
]  # fmt: skip
SHARDED = [
    bad(on_each_shard(draw), "jax", "sharded", "under sharded the output differs by up to", fault)
    for draw, fault in (
        (the_same_on_each_shard, "the same noise on every device"),
        (turned_by_the_shards_number, "noise that depends on the number of the device"),
        (on_the_first_shard, "noise on the first device alone"),
    )
]
"""They take several devices: see ``several_devices.py``."""
JAX = [
    bad(with_a_gradient_of_its_own, "jax", "grad_of_grad", "a gradient of its own",
        "no second derivative"),
]  # fmt: skip
