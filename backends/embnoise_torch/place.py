"""Where in the noise a forward stands: which step, and which samples of it.

B rows of a batch take B consecutive sample ids; with several data-parallel ranks every rank deals
itself each world-size-th one, as ``DistributedSampler`` deals the data, so no two ranks share one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Memory", "Place", "Ranks"]

# How many forwards may wait for their backward and still be recognised when recomputed.
_REMEMBERED = 64

_DISTRIBUTED = distributed.is_available()


class Place(NamedTuple):
    """What tells the noise of one forward from that of any other."""

    step: int
    first: int
    """How many samples of the step this rank has noised before."""


class Ranks:
    """This process among those that see other data.

    Args:
        mesh: the data-parallel dimensions of a device mesh. By default every rank of the default
            process group, once there is one, sees other data.
    """

    def __init__(self, mesh: DeviceMesh | None) -> None:
        self._fixed: tuple[int, int] | None = None
        if mesh is None:
            return
        coordinate = mesh.get_coordinate() if hasattr(mesh, "get_coordinate") else None
        if coordinate is None:
            raise ValueError(f"mesh must be a DeviceMesh that this rank is part of, got {mesh!r}")
        rank = 0
        for index, size in zip(coordinate, mesh.shape, strict=True):
            rank = rank * size + index
        self._fixed = rank, mesh.size()

    def sample_ids(self, first: int, batch: int) -> NDArray[np.int64]:
        """The ids of a batch's rows, [B], globally unique within the step."""
        rank, world = self._fixed or _default_group()
        start = first * world + rank
        return np.arange(start, start + batch * world, world)


def _default_group() -> tuple[int, int]:
    if _DISTRIBUTED and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class Memory:
    """The places of the latest forwards, so that a recomputed one gets the noise of the first.

    Gradient checkpointing runs a forward again in the middle of the backward pass. It is told
    from a new one by that, and from other recomputed ones by what it is fed with.
    """

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=_REMEMBERED)

    def place(self, fed: Tensor, take: Callable[[], Place]) -> Place | None:
        """The place that ``take`` gives; for a recomputed forward the place of the first one.

        ``None`` for one whose first forward was not here: it got no noise, so this gets none.
        """
        if torch._C._current_graph_task_id() == -1:
            seen = _Seen(fed, take())
            self._seen.append(seen)
            return seen.place
        same = [seen for seen in reversed(self._seen) if seen.matches(fed)]
        # Of equal ones the latest comes first: backward goes the other way than forward.
        seen_first = min(same, key=lambda seen: seen.recomputed, default=None)
        if seen_first is None:
            return None
        seen_first.recomputed += 1
        return seen_first.place

    def clear(self) -> None:
        """Forget all: a new step has begun."""
        self._seen.clear()


class _Seen:
    def __init__(self, fed: Tensor, place: Place) -> None:
        self.fed = fed
        self.place = place
        self.recomputed = 0

    def matches(self, fed: Tensor) -> bool:
        return self.fed is fed or torch.equal(self.fed, fed)
