"""Where a rank stands: which ranks have other samples, and which have other parts of its own.

Ranks are told apart by a device mesh. Along its data-parallel dimensions, ranks have different
samples; along all others the same ones: whole, or cut along the sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import distributed

from embnoise_torch.ranks.sequences import Sequences

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Place", "check_same_samples", "ranks_along", "ranks_of", "world"]

_AVAILABLE = distributed.is_available()  # every lookup asks how many ranks there are

_CUT = frozenset(("cp", "sp"))
"""Dimensions of a mesh along which sequences are cut, under their usual names."""

_SAME_SAMPLES = _CUT | {"tp", "pp"}
"""Dimensions of a mesh along which ranks have the same samples, under their usual names."""


class Place(NamedTuple):
    """The place of this process among the ranks."""

    members: tuple[int, ...]
    """The ranks that have different samples, this one included, in the order of their samples."""
    rank: int
    """The number of this one among them."""
    sequences: Sequences | None = None
    """The ranks that hold the other parts of this one's sequences; ``None`` if they are whole."""

    @classmethod
    def in_mesh(cls, mesh: DeviceMesh) -> Place:
        """The place in a device mesh.

        Raises:
            ValueError: It is not a device mesh that this rank is part of, or sequences are cut
                along two dimensions.
        """
        coordinate = mesh.get_coordinate() if hasattr(mesh, "get_coordinate") else None
        if coordinate is None:
            raise ValueError(f"mesh must be a DeviceMesh that this rank is part of, got {mesh!r}")
        names = mesh.mesh_dim_names or ("",) * mesh.ndim
        members = ranks_along(
            mesh, [dim for dim, name in enumerate(names) if name not in _SAME_SAMPLES]
        )
        cut = [name for dim, name in enumerate(names) if name in _CUT and mesh.size(dim) > 1]
        if len(cut) > 1:
            raise ValueError(f"mesh must cut sequences along one dimension, got {cut} of {mesh!r}")
        rank = members.index(distributed.get_rank())
        if not cut:
            return cls(members, rank)
        return cls(members, rank, Sequences(mesh if mesh.ndim == 1 else mesh[cut[0]]))


def world() -> int:
    """How many ranks there are; 1 outside of a distributed run."""
    return distributed.get_world_size() if _AVAILABLE and distributed.is_initialized() else 1


def ranks_of(mesh: Any) -> tuple[int, ...]:
    """The ranks of a device mesh."""
    return tuple(mesh.mesh.flatten().tolist())


def ranks_along(mesh: Any, dims: list[int]) -> tuple[int, ...]:
    """The ranks of a device mesh that differ from this one along some of its dimensions only."""
    here = tuple(
        slice(None) if dim in dims else index for dim, index in enumerate(mesh.get_coordinate())
    )
    return tuple(mesh.mesh[here].flatten().tolist())


def check_same_samples(place: Place | None, ranks: tuple[int, ...]) -> None:
    """Raise if ranks that hold parts of the same embeddings are said to have different samples.

    Args:
        place: The place of this process; ``None`` if every rank has different samples.
        ranks: The ranks that hold the parts, this one included.

    Raises:
        ValueError: Two of these have different samples.
    """
    members = set(range(world())) if place is None else set(place.members)
    both = sorted(members & set(ranks))
    if len(both) > 1:
        said = "no mesh was given" if place is None else "mesh says that their samples differ"
        hint = "; or call attach() after parallelize_module()" if place is None else ""
        raise ValueError(
            f"ranks {both} hold parts of the same embeddings, so they have the same samples, but "
            f"{said}. Pass mesh=, the data-parallel dimensions of the device mesh (mesh['dp']), or "
            f"all of it with the others named 'tp', 'cp', 'sp' or 'pp'{hint}"
        )
