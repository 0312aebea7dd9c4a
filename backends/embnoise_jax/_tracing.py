"""What is known of JAX's tracing while Python runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["compiled_apart", "is_staged", "is_traced"]

compiled_apart = jax.make_user_context(default_value=None)  # type: ignore[no-untyped-call]
"""A context manager: functions compiled under one value of it are not used under another."""


def is_traced(value: object) -> bool:
    """Whether a value stands for one that is known when a transformed function runs."""
    return isinstance(value, jax.core.Tracer)


def is_staged() -> bool:
    """Whether operations are being recorded, to run later and perhaps repeatedly.

    That is so in ``jax.jit``, ``lax.scan`` and ``jax.checkpoint``, and not in ``jax.grad`` and
    ``jax.vmap`` by themselves, which run every operation as they come to it.
    """
    return is_traced(jnp.zeros(()))
