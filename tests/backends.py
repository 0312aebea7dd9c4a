"""Every implementation of ``add_noise`` behind one face, NumPy in and NumPy out.

A property is written once, over ``BACKENDS``, and gets one test id per implementation. Keras has
one backend per process, TensorFlow unless ``KERAS_BACKEND`` says otherwise: see
``test_keras_backends``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, reject, settings

import embnoise
from embnoise.backend import dtype_name
from embnoise.testing import driver_of
from tests.frameworks import KERAS_BACKEND, installed, is_tested

KERAS = KERAS_BACKEND if is_tested("keras") else None
if is_tested("jax") or KERAS == "jax":
    import jax
    import jax.numpy as jnp
if KERAS == "tensorflow":
    import tensorflow as tf
if is_tested("torch") or KERAS == "torch":
    import torch

DTYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
if installed("ml_dtypes"):
    import ml_dtypes

    DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Backend:
    name: str
    native: Callable[[np.ndarray], Any]
    """An array as the framework's own."""
    numpy: Callable[[Any], np.ndarray]
    """The framework's array as NumPy's."""
    verb: Callable[..., Any]
    """The adapter's ``add_noise``."""
    using: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A context that forces the implementation that the name says."""
    fused: bool = True
    """Whether product and sum are rounded once; a compiler may decide otherwise."""
    dtypes: tuple[str, ...] = tuple(DTYPES)
    """The dtypes of embeddings that the adapter declares; others are not tested."""
    examples: int = 40
    """How many examples of a property Hypothesis draws: fewer where each takes a compilation."""

    def add_noise(self, x: np.ndarray, noise: embnoise.Noise, **arguments: Any) -> np.ndarray:
        return self.numpy(self.add_noise_native(self.native(x), noise, **arguments))

    def add_noise_native(self, x: Any, noise: embnoise.Noise, **arguments: Any) -> Any:
        if hasattr(x, "dtype") and dtype_name(x) in set(DTYPES) - set(self.dtypes):
            reject()
        native = {
            name: self.native(value) if isinstance(value, np.ndarray) else value
            for name, value in arguments.items()
        }
        with self.using():
            return self.verb(x, noise, **native)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()


def with_kernel(kernel: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which tensors on any device get their noise from this kernel."""
    return lambda: mock.patch("embnoise_torch.kernels.registry.kernel_for", return_value=kernel)


def to_jax(array: np.ndarray) -> jax.Array:
    """Without JAX's 64-bit mode, except for float64."""
    if array.dtype == np.float64:
        with jax.enable_x64(True):
            return jnp.asarray(array)
    if array.dtype == np.int64:
        array = array.astype(np.uint32 if (array % 2**32 >= 2**31).any() else np.int32)
    return jnp.asarray(array)


def jax_verb(verb: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def call(x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        with jax.enable_x64(getattr(x, "dtype", None) == np.float64):
            return verb(x, *args, **kwargs)

    return call


BACKENDS = [Backend("numpy", lambda x: x, lambda x: x, embnoise.add_noise)]
if is_tested("torch"):
    from embnoise_torch import add_noise
    from embnoise_torch.kernels.any_torch import TorchKernel
    from embnoise_torch.kernels.cpu_numpy import add_with_numpy

    if installed("numba"):
        BACKENDS.append(Backend("torch-numba", to_torch, from_torch, add_noise))
    BACKENDS += [
        Backend("torch-numpy", to_torch, from_torch, add_noise, with_kernel(add_with_numpy)),
        Backend("torch-ops", to_torch, from_torch, add_noise, with_kernel(TorchKernel())),
    ]
    if installed("triton"):
        from tests.torch.triton_code import interpreted_kernel, rounding_as_gpus_do

        _INTERPRETED = interpreted_kernel()

        @contextmanager
        def with_triton() -> Iterator[None]:
            with rounding_as_gpus_do(), with_kernel(_INTERPRETED)():
                yield

        BACKENDS.append(
            Backend("torch-triton", to_torch, from_torch, add_noise, with_triton, examples=2)
        )
if is_tested("jax"):
    from embnoise_jax import add_noise
    from tests.jax.accelerators import as_on

    _OF_JAX = to_jax, np.asarray, jax_verb(add_noise)
    BACKENDS += [
        Backend("jax", *_OF_JAX, fused=False, examples=3),
        *(
            Backend(f"jax-{name}", *_OF_JAX, partial(as_on, name), fused=False, examples=2)
            for name in ("cuda", "tpu")
        ),
    ]
if KERAS:
    from embnoise_keras import add_noise

    BACKENDS.append(
        Backend(
            f"keras-{KERAS}",
            *{
                "tensorflow": lambda: (tf.constant, lambda tensor: tensor.numpy()),
                "jax": lambda: (to_jax, np.asarray),
                "torch": lambda: (to_torch, from_torch),
            }[KERAS](),
            jax_verb(add_noise) if KERAS == "jax" else add_noise,
            fused=KERAS == "torch",
            # JAX and PyTorch are tested by themselves too.
            examples={"tensorflow": 4, "jax": 3, "torch": 8}[KERAS],
        )
    )

OURS = {"torch", "jax", "keras"}


def third_parties() -> Iterator[Backend]:
    """The adapters of others, found as a user's would be."""
    for entry in entry_points(group="embnoise.backends"):
        if entry.name not in OURS:
            driver = driver_of(entry.name)
            verb = entry.load().add_noise
            yield Backend(
                entry.name,
                driver.from_numpy,
                driver.to_numpy,
                verb,
                fused=driver.fused,
                dtypes=driver.dtypes,
            )


BACKENDS.extend(third_parties())


def property_of_backends(*strategies: Any, **named: Any) -> Callable[[Any], Any]:
    """``hypothesis.given`` for a test of a backend, with as many examples as that says."""

    def decorated(test: Any) -> Any:
        drawn = given(*strategies, **named)
        tests = {
            number: settings(max_examples=number)(drawn(test))
            for number in {backend.examples for backend in BACKENDS}
        }

        @over_backends
        @functools.wraps(test, assigned=("__name__", "__doc__", "__module__"), updated=())
        def run(backend: Backend) -> None:
            tests[backend.examples](backend=backend)

        del run.__wrapped__  # pytest would look for the arguments that Hypothesis draws
        return run

    return decorated


over_backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
