"""Arrays that are sharded: what tells the noise of one device from another's, and whole rows."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from embnoise.backend import (
    Noise,
    TokenArrays,
    check_integer,
    format_value,
    uses_length,
    uses_rms,
)
from embnoise_jax._compat import varying_axes
from embnoise_jax._tracing import is_traced

__all__ = ["Channels", "check_shard", "resolve_channels", "whole_rows"]

Channels: TypeAlias = tuple[int | Array, int]
"""Which of the embeddings' channels x begins with, and how many the embeddings have."""


def resolve_channels(channels: Any, dim: int, noise: Noise) -> tuple[Any, int]:
    """The argument ``channels`` of an x with ``dim`` channels, its offset a uint32 array [].

    Raises:
        TypeError: It is not a pair of integers.
        ValueError: A value is out of range, or the noise's scale needs all channels.
    """
    if not isinstance(channels, tuple | list) or len(channels) != 2:
        raise TypeError(
            "channels must be (offset, total), the number of channels before those of x and that "
            f"of all, got {format_value(channels)}"
        )
    offset, total = channels
    total = check_integer("the total of channels", total, minimum=dim)
    if not is_traced(offset):
        offset = check_integer("the offset of channels", offset, minimum=0)
        if offset + dim > total:
            raise ValueError(
                f"channels must be (offset, total) with offset + {dim} <= total, since x has {dim} "
                f"channels, got {channels}"
            )
    elif jnp.shape(offset) != () or not jnp.issubdtype(offset.dtype, jnp.integer):
        raise TypeError(f"the offset of channels must be an integer, got {format_value(offset)}")
    if uses_rms(noise):
        raise ValueError(
            f"channels must be None with scale={noise.scale!r}, which uses the RMS of whole "
            f"embeddings, got {channels}"
        )
    return jnp.asarray(offset).astype(jnp.uint32), total


def check_shard(x: Array, noise: Noise, step: Any, tokens: TokenArrays, offset: Any) -> None:
    """Raise if two devices in ``shard_map`` would add the same noise to different embeddings.

    Over every axis of the mesh that x varies over, so must the coordinates of its tokens. Without
    ``check_vma``, ``shard_map`` does not say what varies, and nothing is checked.

    Raises:
        ValueError: The coordinates do not vary over an axis; or the noise needs whole sequences,
            and the tokens of one are split over an axis.
    """
    axes = varying_axes(x)
    if not axes:
        return
    anyhow = varying_axes(step) | varying_axes(noise.seed)
    rows = anyhow | varying_axes(tokens.sample_ids) | varying_axes(offset)
    alike = axes - rows - varying_axes(tokens.positions)
    if alike:
        raise ValueError(
            f"x varies over {_names(alike)} of shard_map, and nothing tells its parts apart: every "
            "device would add the same noise. Pass the global sample_ids= if rows are split over "
            "it, positions= if tokens are, channels=(offset, total) if channels are; add the noise "
            "after the sum if x is a partial sum"
        )
    split = axes - rows
    if split and uses_rms(noise):
        raise ValueError(
            f"scale={noise.scale!r} needs whole sequences, and positions vary over {_names(split)} "
            "of shard_map while sample_ids do not: each device has a part of every sequence"
        )
    if split and uses_length(noise):
        raise ValueError(
            f"length must be a number, got {noise.length!r}: positions vary over {_names(split)} "
            "of shard_map while sample_ids do not, so each device counts the tokens of its part of "
            "every sequence. Pass neftune(length=L)"
        )


def whole_rows(array: Array, ndim: int) -> Array:
    """What describes the tokens of embeddings with ``ndim`` axes, not sharded along the sequence.

    On a mesh with explicit axes, sharding is part of an array's type, and an operation along an
    axis that is sharded is an error.
    """
    spec = jax.typeof(array).sharding.spec
    axis = ndim - 2  # of the sequence; sample ids [B] have none
    if axis >= array.ndim or spec[axis] is None:
        return array
    kept = (None if i == axis else each for i, each in enumerate(spec))
    rows = jax.sharding.PartitionSpec(*kept)  # type: ignore[no-untyped-call]
    # With its mesh, since there need be no mesh in the context.
    sharding = jax.sharding.NamedSharding(jax.typeof(array).sharding.mesh, rows)
    whole: Array = jax.sharding.reshard(array, sharding)  # type: ignore[no-untyped-call]
    return whole


def _names(axes: frozenset[Any]) -> str:
    names = sorted(map(repr, axes))
    return f"the mesh {'axis' if len(names) == 1 else 'axes'} {', '.join(names)}"
