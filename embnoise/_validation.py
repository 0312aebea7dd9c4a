"""Argument validation: every error names the argument, the value, and what is accepted."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

from embnoise._arrays import Array

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that embeddings may have."""

_SYNONYMS = {"normal": "gaussian"}
"""Names that look like another one than the one that means the same."""

_FLOAT32_MAX = 3.4028234663852886e38
_ZERO_IN_FLOAT32 = 2.0**-150
"""The largest number that rounds to 0."""


def format_value(value: Any, limit: int = 120) -> str:
    """``repr(value)`` cut to ``limit`` characters; for an array, its dtype and shape."""
    if getattr(value, "shape", None) and hasattr(value, "dtype"):
        return f"an array of dtype {dtype_name(value)} and shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or an empty string."""
    meant = _SYNONYMS.get(str(name).lower(), str(name))
    close = difflib.get_close_matches(meant, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_choice(name: str, value: object, accepted: Sequence[str]) -> None:
    """Raise unless ``value`` is one of the ``accepted`` strings.

    Raises:
        TypeError: ``value`` is not a string.
        ValueError: It is another one; the error suggests the nearest.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {list(accepted)}, got {format_value(value)}")
    if value not in accepted:
        hint = did_you_mean(value, accepted)
        raise ValueError(f"{name} must be one of {list(accepted)}, got {value!r}{hint}")


def check_amplitude(
    name: str, value: Any, *, positive: bool = False, accepted: str = "a number"
) -> Any:
    """``value`` as a float; raise unless it is a non-negative number that float32 can hold.

    A 0-d array counts as a number. One whose value is not known until a compiled program runs is
    returned as it is.

    Args:
        name: The argument's name.
        value: What was passed.
        positive: Whether 0 is refused too.
        accepted: What the argument may be, for errors.
    """
    if is_scalar_array(value) and dtype_kind(value) in ("float", "bfloat", "int", "uint"):
        try:
            value = float(value)
        except TypeError:  # a traced value
            return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {accepted}, got {format_value(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int above all floats
        number = math.inf
    if not 0 <= number <= _FLOAT32_MAX or (positive and number <= _ZERO_IN_FLOAT32):
        range_ = "above 0" if positive else "at least 0"
        raise ValueError(
            f"{name} must be finite in float32 and {range_}, got {format_value(value)}"
        )
    return number


def check_integer(name: str, value: object, *, minimum: int | None = None) -> int:
    """``value`` as an int of at least ``minimum``.

    Raises:
        TypeError: ``value`` is not an integer; a boolean is none.
        ValueError: It is below ``minimum``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {format_value(value)}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return int(value)


def check_bool(name: str, value: object) -> bool:
    """``value`` if it is a bool.

    Raises:
        TypeError: It is none; nor is a number, or an array of one element.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {format_value(value)}")
    return value


def check_callable(name: str, value: object) -> None:
    """Raise unless ``value`` can be called.

    Raises:
        TypeError: It cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a callable, got {format_value(value)}")


def can_take(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a function takes some arguments; true where its signature cannot be read."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have no signature
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def check_keys(
    owner: str, given: Mapping[str, object], known: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Raise if ``given`` has a key that is not ``known``, or lacks a ``required`` one.

    Raises:
        TypeError: ``given`` is not a mapping.
        ValueError: It has such a key, or lacks one. The error calls it ``owner``.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{owner} must be a mapping with {list(known)}, got {format_value(given)}")
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"{owner} has an unknown key {key!r}{hint}; known: {list(known)}")
    for key in required:
        if key not in given:
            raise ValueError(f"{owner} is missing the key {key!r}; given: {list(given)}")


def is_array(value: object) -> TypeGuard[Array]:
    """Whether ``value`` is an array of any framework."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_scalar_array(value: object) -> bool:
    """Whether ``value`` is an array of shape [], traced or not."""
    return getattr(value, "shape", None) is not None and tuple(value.shape) == ()  # type: ignore[attr-defined]


def dtype_name(array: Array) -> str:
    """The bare name of an array's dtype in any framework, such as ``"float32"``."""
    return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]


def dtype_kind(array: Array) -> str:
    """The dtype's name without its width: ``"float"``, ``"bfloat"``, ``"int"``, ``"bool"`` ..."""
    return dtype_name(array).rstrip("0123456789_")


def embedding_shape(x: Array) -> tuple[int, int, int]:
    """The sizes (B, L, d) of embeddings ``x`` of shape [B, L, d], or [L, d] taken as B = 1.

    Args:
        x: An array of any framework.

    Returns:
        B, L and d. In a graph, B and L may be ``None`` where they are not known yet.

    Raises:
        TypeError: ``x`` is not of dtype float16, bfloat16, float32 or float64.
        ValueError: ``x`` has another number of dimensions, or no channels.
    """
    shape = tuple(x.shape)
    if dtype_name(x) not in FLOAT_DTYPES:
        narrow = "float" in dtype_name(x)  # such as float8_e4m3fn
        hint = ": add the noise in one of these, then cast" if narrow else ""
        raise TypeError(
            f"x must be of a floating-point dtype ({', '.join(FLOAT_DTYPES)}), got {dtype_name(x)}"
            f"{hint}"
        )
    if len(shape) not in (2, 3):
        hint = "; flatten ids [B, K, L] to [B * K, L] before the lookup" if len(shape) == 4 else ""
        raise ValueError(f"x must be of shape [B, L, d] or [L, d], got shape {shape}{hint}")
    if shape[-1] == 0:
        raise ValueError(f"x must have at least one channel (d >= 1), got shape {shape}")
    batch, length, dim = shape if len(shape) == 3 else (1, *shape)
    return batch, length, dim


def check_token_array(
    name: str,
    array: object,
    batch: int,
    length: int,
    *,
    accepts_bool: bool,
    accepts_rows: bool = False,
) -> None:
    """Raise unless ``array`` holds one integer per token, [B, L] ([L] if B is 1).

    Args:
        name: The argument's name.
        array: What was passed.
        batch: B.
        length: L.
        accepts_bool: Whether booleans are accepted too: for masks.
        accepts_rows: Whether one value per row, [B], is accepted too.
    """
    if not is_array(array):
        raise TypeError(f"{name} must be an array, got {format_value(array)}")
    shape = tuple(array.shape)
    if shape != (batch, length):  # comparing with each of the accepted shapes takes longer
        _check_token_shape(name, shape, batch, length, accepts_rows=accepts_rows)
    kind = dtype_kind(array)
    if kind in ("int", "uint") or (accepts_bool and kind == "bool"):
        return
    if not accepts_bool:
        raise TypeError(f"{name} must be of an integer dtype, got {dtype_name(array)}")
    hint = ""
    if kind in ("float", "bfloat"):
        # Read as "nonzero is real", an additive mask would mean the opposite of what it says.
        hint = f". A float mask may be additive (0 and -inf): pass {name} == 0 or {name} != 0"
    raise TypeError(
        f"{name} must be of a boolean or integer dtype (nonzero marks a token), "
        f"got {dtype_name(array)}{hint}"
    )


def _check_token_shape(
    name: str, shape: tuple[int, ...], batch: int, length: int, *, accepts_rows: bool
) -> None:
    accepted_shapes: list[tuple[int, ...]] = [(batch, length)]
    if accepts_rows:
        accepted_shapes.append((batch,))
    if batch == 1:
        accepted_shapes.append((length,))
    if not any(_may_equal(shape, accepted) for accepted in accepted_shapes):
        accepted = f"{(batch, length)}" + (f" or {(batch,)}" if accepts_rows else "")
        raise ValueError(f"{name} must be of shape {accepted}, got shape {shape}")


def _may_equal(shape: tuple[int | None, ...], accepted: tuple[int | None, ...]) -> bool:
    """Whether the shapes may be equal; a size is ``None`` where a graph does not know it yet."""
    return len(shape) == len(accepted) and all(
        left == right or left is None or right is None
        for left, right in zip(shape, accepted, strict=True)
    )


def check_seed(name: str, value: object) -> Any:
    """``value`` if it is ``None``, an int (returned as such), or one ``jax.random.key``."""
    if value is None:
        return None
    if is_array(value) and dtype_name(value).startswith("key<"):
        if tuple(value.shape) != ():
            raise ValueError(f"{name} must be one key, got {format_value(value)}")
        return value
    if is_array(value) and dtype_name(value) == "uint32" and len(value.shape) == 1:
        raise TypeError(
            f"{name} must be an integer or a jax.random.key, got {format_value(value)}: if it is a "
            "jax.random.PRNGKey, pass jax.random.wrap_key_data of it"
        )
    return check_integer(name, value)


def resolve_step(step: Any) -> Any:
    """A step as an int, or as a 0-d array where its value is not known until the program runs.

    Args:
        step: An int of at least 0, or an integer array of one element, traced or not.

    Raises:
        TypeError: ``step`` is neither.
        ValueError: ``step`` is negative, or an array of another size or dtype.
    """
    if not is_array(step):
        return check_integer("step", step, minimum=0)
    size = math.prod(size for size in step.shape if size is not None)
    if size != 1 or dtype_kind(step) not in ("int", "uint"):
        raise ValueError(
            "step must be an integer or an integer array of one element, got " + format_value(step)
        )
    if len(step.shape) > 0:
        step = step[(0,) * len(step.shape)]
    try:
        known = int(step)
    except TypeError:  # a traced value
        return step
    return check_integer("step", known, minimum=0)
