"""The embedding tables of NNX checkpoints, for ``embnoise inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from embnoise.testing.safetensors_file import table_name
from embnoise.testing.saved_model import SavedTable

__all__ = ["KIND", "load", "owns"]

KIND = "the folder of an Orbax checkpoint (for `embnoise inspect`)"


def owns(path: Path) -> bool:
    """Whether a path is a checkpoint: Orbax describes its arrays in ``_METADATA``."""
    return (path / "_METADATA").is_file()


def load(path: Path, layer: str | None) -> SavedTable:
    """The embedding table of a checkpoint, without its other arrays.

    Raises:
        ImportError: Orbax is not installed.
        ValueError: It cannot be read, or has no array that looks like an embedding, or several.
    """
    try:
        import orbax.checkpoint as ocp  # noqa: PLC0415, the adapter works without it
    except ModuleNotFoundError:
        raise ImportError(
            f"{str(path)!r} is a checkpoint of Orbax, which is not installed: "
            "pip install orbax-checkpoint"
        ) from None
    with ocp.PyTreeCheckpointer() as checkpointer:
        try:
            arrays = _leaves(checkpointer.metadata(path.absolute()).item_metadata.tree)
        except (OSError, ValueError, AttributeError, KeyError) as error:
            text = str(error).strip().split("\n")[0]
            raise ValueError(f"{str(path)!r} cannot be loaded: {text}") from None
        shapes = {name: tuple(each.shape) for name, (_, each) in arrays.items()}
        name = table_name(shapes, layer)
        keys, found = arrays[name]
        item: Any = jax.eval_shape(lambda: jax.numpy.zeros(found.shape, found.dtype))
        arguments: Any = ocp.RestoreArgs(restore_type=np.ndarray)  # on no device
        for key in reversed(keys):
            item, arguments = {key: item}, {key: arguments}
        restored = checkpointer.restore(
            path.absolute(),
            args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True),
        )
    for key in keys:
        restored = restored[key]
    table = np.asarray(restored)
    return SavedTable(
        name, table.astype(np.float32) if table.dtype == jax.numpy.bfloat16 else table
    )


def _leaves(tree: Any) -> dict[str, tuple[list[Any], Any]]:
    """The arrays of a checkpoint by name, each with its keys."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda each: hasattr(each, "shape")
    ):
        if hasattr(leaf, "shape") and leaf.shape is not None:
            keys = [each.key for each in path]
            found[".".join(map(str, keys))] = keys, leaf
    return found
