"""Which replica of a data-parallel run this is: no two may draw the same noise for other data."""

from __future__ import annotations

import sys
from typing import Any

import keras

__all__ = ["replica"]


def replica() -> tuple[Any, int]:
    """This replica's number, and how many there are, each with rows of its own.

    With JAX there is one: a batch that is sharded over devices is one array, whose rows count on.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        context = sys.modules["tensorflow"].distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.replica_id_in_sync_group, context.num_replicas_in_sync
    if backend == "torch":
        distributed = sys.modules["torch"].distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
