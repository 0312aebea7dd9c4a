"""What a user's program sees of the types. mypy and pyright, both strict, accept it as it is."""

from typing import Any, assert_type

import jax
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import embnoise_jax
import embnoise_keras
import embnoise_torch
from embnoise import Noise, Schedule, add_noise, linear, neftune
from embnoise.backend import format_value
from embnoise.testing import Case, Claims, Report, case, check_layer
from embnoise_jax import nnx as noise_nnx
from embnoise_torch.kernels import Kernel, kernel_for
from embnoise_torch.transformers import NoiseCallback
from pytest_embnoise import pytest_report_header

noise = neftune(alpha=linear(0, 5, 100).then(linear(5, 0)), seed=3)
assert_type(noise, Noise)
assert_type(linear(0, 5, 100).bind(200), Schedule)
assert_type(add_noise(np.zeros((1, 2, 3), np.float32), noise, step=0), NDArray[Any])
assert_type(format_value(noise), str)


def make_layer(*, dim: int, alpha: float, seed: int) -> torch.nn.Module:
    return embnoise_torch.EmbeddingNoise(Noise(alpha, seed=seed))


mine = case("mine", make_layer, driver="torch", claims=Claims(length="padded"))
assert_type(mine, Case)
assert_type(check_layer(mine, profile="quick", raises=False), Report)


def of_torch(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    with embnoise_torch.attach(model, noise, optimizer=optimizer, where="prompt") as handle:
        assert_type(handle, embnoise_torch.Handle)
        assert_type(handle.lookups, int)
    assert_type(embnoise_torch.add_noise(x, noise, step=1), torch.Tensor)
    assert_type(NoiseCallback(noise), NoiseCallback)
    assert_type(kernel_for("cpu"), Kernel)


def of_jax(x: jax.Array) -> None:
    assert_type(embnoise_jax.add_noise(x, noise, step=1), jax.Array)
    assert_type(noise_nnx.EmbeddingNoise(noise).step, int)


def of_keras(model: Any) -> None:
    assert_type(embnoise_keras.attach(model, noise), embnoise_keras.Handle)


def of_pytest(config: pytest.Config) -> None:
    assert_type(pytest_report_header(config), str | None)
