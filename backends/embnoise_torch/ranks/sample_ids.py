"""Sample ids: no two data-parallel ranks may draw the same noise for different data.

The rows of a batch take consecutive sample ids. With W ranks, rank r gives its n-th sample of a
step the id n * W + r, as ``DistributedSampler`` deals the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["SampleIds"]

_DISTRIBUTED = distributed.is_available()


class SampleIds:
    """The sample ids of this process.

    Args:
        mesh: The data-parallel dimensions of a device mesh. By default every rank of the default
            process group, once there is one, sees different data.

    Raises:
        ValueError: ``mesh`` is not a device mesh that this rank is part of.
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

    @property
    def alone(self) -> bool:
        """Whether this rank is the only one, so that sample ids are the numbers of its samples."""
        return (self._fixed or _default_group())[1] == 1

    def of_batch(self, first: int, batch: int) -> NDArray[np.int64]:
        """The ids of a batch's rows, int64 [B], unique over all ranks within the step.

        Args:
            first: How many samples of the step this rank has had before.
            batch: B.
        """
        rank, world = self._fixed or _default_group()
        start = first * world + rank
        return np.arange(start, start + batch * world, world)

    def of_rows(self, first: int, rows: Tensor) -> Tensor:
        """The same for rows of which several may be one sample.

        Args:
            first: How many samples of the step this rank has had before.
            rows: Which sample each row is, integers [B]: 0 for the first one.
        """
        rank, world = self._fixed or _default_group()
        return (first + rows) * world + rank


def _default_group() -> tuple[int, int]:
    if _DISTRIBUTED and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
