"""The noise as it is computed for an accelerator, on the CPU."""

import functools
from contextlib import contextmanager
from unittest import mock

import jax

from embnoise_jax import functional

__all__ = ["as_on"]


@functools.cache
def _compiled_as_on(platform):
    """Compiled functions of its own, since the arguments do not tell one platform from another."""
    of_all = functional._add_planned.__wrapped__
    names = ("dim", "shared", "settings")
    return jax.jit(functools.partial(of_all), static_argnames=names)


@contextmanager
def as_on(platform):
    """A context in which JAX seems to have one accelerator: "cuda", "rocm" or "tpu"."""

    def choose(*arguments, **forms):
        return forms[platform](*arguments)

    with (
        mock.patch("jax.default_backend", return_value="tpu" if platform == "tpu" else "gpu"),
        mock.patch("jax.lax.platform_dependent", choose),
        mock.patch.object(functional, "_add_planned", _compiled_as_on(platform)),
    ):
        yield
