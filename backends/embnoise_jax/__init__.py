"""embnoise for JAX: ``add_noise``, and the step of an Optax optimizer.

The modules ``embnoise_jax.nnx``, ``embnoise_jax.linen`` and ``embnoise_jax.equinox`` have
``EmbeddingNoise`` and ``attach`` for Flax and Equinox.
"""

from embnoise_jax.functional import add_noise
from embnoise_jax.optimizer import step_of

__all__ = ["add_noise", "step_of"]
