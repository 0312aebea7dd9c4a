"""``inspect``, in ``embnoise_jax.inspection.nnx``, ``.linen`` and ``.equinox``."""
