"""Mistakes in a user's program: mypy and pyright report each line that says so, and no other."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

import embnoise_jax
import embnoise_keras
import embnoise_torch
from embnoise import Noise, add_noise, neftune
from embnoise.testing import Claims, case
from pytest_embnoise import pytest_report_header

neftune(alpha="5")  # wrong
Noise(5.0, lenght="tokens")  # wrong
add_noise(np.zeros((1, 2, 3)), neftune())  # wrong: no step
case("mine", 3, driver="torch", claims=Claims())  # wrong


def of_torch(model: torch.nn.Module, x: torch.Tensor) -> None:
    embnoise_torch.attach(model, 5.0)  # wrong
    embnoise_torch.attach(model, neftune(), at="middle")  # wrong
    embnoise_torch.add_noise(x, neftune(), step=0).loss()  # wrong


def of_jax(x: jax.Array) -> None:
    embnoise_jax.add_noise(x, neftune())  # wrong: no step


def of_keras(model: Any) -> None:
    embnoise_keras.attach(model, neftune(), optimizer=None)  # wrong


def of_pytest(config: pytest.Config) -> None:
    pytest_report_header(config).upper()  # wrong: it may be None
