"""Argument checks whose errors name the argument, the value seen and what is accepted."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

_UINT32 = 2**32


def shown(value: Any, limit: int = 120) -> str:
    """``repr`` of a value, cut to ``limit`` characters; an array as its dtype and shape."""
    if getattr(value, "shape", None) and hasattr(value, "dtype"):
        return f"an array of dtype {dtype_name(value)} and shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def choice(name: str, value: object, accepted: Sequence[str]) -> None:
    """Raise unless ``value`` is one of the ``accepted`` strings."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {list(accepted)}, got {shown(value)}")
    if value not in accepted:
        raise ValueError(f"{name} must be one of {list(accepted)}, got {value!r}")


def amplitude(name: str, value: Any) -> Any:
    """``value`` as a float, if it is a number that float32 holds and is not negative.

    A 0-d array counts as a number; one that a compiler traces comes back as it is.
    """
    scalar = getattr(value, "shape", None) is not None and tuple(value.shape) == ()
    if scalar and _kind(value) in ("float", "bfloat", "int", "uint"):
        try:
            value = float(value)
        except TypeError:  # its value is not known before the program runs
            return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or number > 3.4028234663852886e38:
        raise ValueError(f"{name} must be finite in float32 and at least 0, got {value!r}")
    return number


def integer(name: str, value: object, *, least: int | None = None) -> int:
    """``value`` as an int of at least ``least``; booleans and floats are refused."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return int(value)


def seed(name: str, value: Any) -> Any:
    """``value`` as an int, or as it is if it is a key of ``jax.random.key``."""
    if hasattr(value, "dtype") and dtype_name(value).startswith("key<"):
        if tuple(value.shape) != ():
            raise ValueError(f"{name} must be one key, got {shown(value)}")
        return value
    return integer(name, value)


def flag(name: str, value: object) -> bool:
    """``value``, if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def dtype_name(array: Any) -> str:
    """The bare name of an array's dtype in any framework, such as ``float32``."""
    return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]


def _kind(array: Any) -> str:
    return dtype_name(array).rstrip("0123456789_")


def embeddings(x: Any) -> tuple[int, int, int]:
    """The sizes (B, L, d) of embeddings ``x``; [L, d] counts as B = 1."""
    shape = tuple(x.shape)
    if _kind(x) not in ("float", "bfloat"):
        raise TypeError(f"x must be of a floating-point dtype, got {dtype_name(x)}")
    if len(shape) not in (2, 3):
        raise ValueError(f"x must be of shape [B, L, d] or [L, d], got shape {shape}")
    if shape[-1] == 0:
        raise ValueError(f"x must have at least one channel (d >= 1), got shape {shape}")
    batch, length, dim = shape if len(shape) == 3 else (1, *shape)
    return batch, length, dim


def token_array(
    name: str, array: Any, batch: int, length: int, *, integers: bool, rows: bool = False
) -> None:
    """Raise unless ``array`` holds a value per token, [B, L] ([L] if B is 1).

    ``integers`` asks for an integer dtype; ``rows`` lets a value per row, [B], pass as well.
    """
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(f"{name} must be an array, got {shown(array)}")
    shape = tuple(array.shape)
    accepted_shapes: list[tuple[int, ...]] = [(batch, length)]
    if rows:
        accepted_shapes.append((batch,))
    if batch == 1:
        accepted_shapes.append((length,))
    if not any(_fits(shape, accepted) for accepted in accepted_shapes):
        accepted = f"{(batch, length)}" + (f" or {(batch,)}" if rows else "")
        raise ValueError(f"{name} must be of shape {accepted}, got shape {shape}")
    kinds = ("int", "uint") if integers else ("bool", "int", "uint", "float", "bfloat")
    if _kind(array) not in kinds:
        wanted = "an integer" if integers else "a boolean, integer or floating-point"
        raise TypeError(f"{name} must be of {wanted} dtype, got {dtype_name(array)}")


def _fits(shape: tuple[int | None, ...], accepted: tuple[int | None, ...]) -> bool:
    """Whether the shapes may be equal; a size is None where a graph does not know it yet."""
    return len(shape) == len(accepted) and all(
        left == right or left is None or right is None
        for left, right in zip(shape, accepted, strict=True)
    )


def step_word(step: object) -> int:
    """A step as the 32-bit word that the counter takes."""
    return integer("step", step, least=0) % _UINT32


def keys(
    owner: str, given: Mapping[str, object], known: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Raise if ``given`` has a key that is not ``known``, or lacks a ``required`` one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{owner} has an unknown key {key!r}{hint}; known: {list(known)}")
    for key in required:
        if key not in given:
            raise ValueError(f"{owner} lacks the key {key!r}; given: {list(given)}")
