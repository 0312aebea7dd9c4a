"""How the noise is computed, by the devices that hold the embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
from jax import Array

from embnoise.backend import (
    RADEMACHER,
    UNIFORM,
    Distribution,
    perturb_blocks,
    perturb_elementwise,
)
from embnoise_jax._compat import optimization_barrier
from embnoise_jax.namespace import NAMESPACE

__all__ = ["perturbed", "shares_blocks"]


def shares_blocks(x: Array, distribution: Distribution) -> bool:
    """Whether the words of a block may be computed once for all of its channels.

    It takes an accelerator, which holds all channels of its tokens. A mesh whose axes are explicit
    or manual tells. Else XLA distributes arrays over several devices as it likes, once all has been
    traced; the devices are those of the array's mesh, if it has one, or all there are.
    """
    if jax.default_backend() == "cpu" or x.shape[-1] % 8:
        return False
    if distribution is not UNIFORM and distribution is not RADEMACHER:
        return False  # XLA does not fuse the lookup of a unit value into a concatenation
    sharding = jax.typeof(x).sharding
    mesh = sharding.mesh
    if mesh.empty:
        return jax.device_count() == 1
    if jax.sharding.AxisType.Auto in mesh.axis_types:
        return bool(mesh.size == 1)
    return sharding.spec[-1] is None


def perturbed(
    *arguments: Any, distribution: Distribution, shared: bool, channels: Any = None
) -> Array:
    """The noisy embeddings, as suits the device that the program is compiled for.

    Args:
        *arguments: Those of ``perturb_elementwise`` up to the distribution.
        distribution: The distribution of the unit values.
        shared: What ``shares_blocks`` says.
        channels: As for ``perturb_elementwise``.
    """
    form = {"distribution": distribution, "xp": NAMESPACE, "word_dtype": jax.numpy.uint32}
    elementwise = partial(perturb_elementwise, **form, channels=channels)
    if not shared:
        return cast("Array", elementwise(*arguments))
    on_gpu = partial(perturb_blocks, **form, write=None)
    on_tpu = partial(perturb_blocks, **form, write=optimization_barrier)
    noisy: Array = jax.lax.platform_dependent(
        *arguments, cuda=on_gpu, rocm=on_gpu, tpu=on_tpu, default=elementwise
    )
    return noisy
