"""embnoise for JAX: ``add_noise``, and ``step_of`` for Optax optimizers.

``EmbeddingNoise`` and ``attach`` are in ``embnoise_jax.nnx`` and ``embnoise_jax.linen`` for Flax,
and in ``embnoise_jax.equinox`` for Equinox.
"""

from embnoise_jax.functional import add_noise
from embnoise_jax.optimizer import step_of

__all__ = ["add_noise", "step_of"]
