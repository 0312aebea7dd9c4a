"""Which frameworks the tests are about: all that are installed, or those that an option names.

The option is ``--frameworks torch,jax``; the environment variable ``EMBNOISE_FRAMEWORKS`` says the
same, also to the processes that tests start. NumPy is always among them: the core needs it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest

VARIABLE = "EMBNOISE_FRAMEWORKS"

# A process has one; a keras.json in somebody's home folder has no say.
KERAS_BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")

FRAMEWORKS = {
    "numpy": ["numpy"],
    "torch": ["torch"],
    "jax": ["jax"],
    "keras": ["keras", KERAS_BACKEND],
}
"""What has to be installed for each."""

LIBRARIES = {
    "accelerate", "axolotl", "composer", "equinox", "flax", "hatchling", "ipykernel", "jax",
    "keras", "keras_hub", "lightning", "matplotlib", "mkdocs", "ml_dtypes", "mpmath", "nbclient",
    "numba", "optax", "orbax", "peft", "pydantic", "ruff", "scipy", "selenium", "swift",
    "tensorflow", "tokenizers",
    "torch", "torchtitan", "transformers", "triton", "trl", "tunix",
}  # fmt: skip
"""What a test may need and do without: where it is not installed, the test is skipped."""


EAGER_OR_COMPILED = [
    pytest.param(False, id="eager"),
    pytest.param(True, id="compiled", marks=pytest.mark.sweep),
]
"""Whether PyTorch compiles a model, for tests beside which one of compiled code always runs."""


def share_compiled_jax(folder: str) -> None:
    """Let all processes that start from here on keep what XLA compiles for JAX, in a folder.

    Tests and kit seeds compile the same small functions again and again.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@contextlib.contextmanager
def hasty_jax() -> Iterator[None]:
    """JAX with hardly any optimizations, which is 1.5 times as fast for functions that run once.

    For tests of the kit: those of the noise's bits are compiled as users compile.
    """
    if not is_tested("jax"):
        yield
        return
    jax = import_module("jax")
    kept = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", kept)


def kept_kernels() -> contextlib.AbstractContextManager[Any]:
    """Without this, TensorFlow makes its kernels anew whenever it is seeded: half of the time.

    It does so for the kernels that hold random state. Use it for layers that have none.
    """
    if KERAS_BACKEND != "tensorflow":
        return contextlib.nullcontext()
    return mock.patch("tensorflow.python.pywrap_tfe.TFE_ContextClearCaches")


def installed(package: str) -> bool:
    return find_spec(package) is not None


def selection() -> list[str]:
    """The frameworks that the option names."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def check_selection() -> None:
    """Refuse a framework that cannot be tested here."""
    for name in selection():
        if name not in FRAMEWORKS:
            raise ValueError(f"--frameworks takes {', '.join(FRAMEWORKS)}, got {name!r}")
    for name in selection():
        if reason := why_not(name):
            raise ValueError(f"--frameworks names {name}, but {reason}")


def why_not(framework: str) -> str | None:
    """Why a framework is not tested; ``None`` where it is."""
    for package in FRAMEWORKS[framework]:
        if not installed(package):
            return f"{package} is not installed"
    if selection() and framework not in {"numpy", *selection()}:
        return f"{framework} is not selected by --frameworks"
    return None


def is_tested(framework: str) -> bool:
    return why_not(framework) is None


def named_in(text: str) -> list[str]:
    """The frameworks whose names are words of a path, or of a module's name."""
    words = re.findall("[a-z]+", text)
    return [name for name in FRAMEWORKS if name in words]


def needs(*frameworks: str) -> pytest.MarkDecorator:
    """The mark of a test that needs these frameworks."""
    reasons = [reason for reason in map(why_not, frameworks) if reason]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons))


def params(*names: str) -> list[Any]:
    """Names of frameworks or of modules, as parameters that need the frameworks they name."""
    return [pytest.param(name, marks=needs(*named_in(name))) for name in names]
