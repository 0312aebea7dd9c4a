"""Which ranks have the same samples, as far as a model tells.

Ranks that hold parts of one embedding table (tensor parallelism) have the same samples. Ranks over
which DDP or ``fully_shard`` averages gradients have different ones. Other sharded parameters tell
nothing: experts may be split over ranks of either kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from embnoise_torch import _compat
from embnoise_torch.ranks.place import Place, check_same_samples, ranks_along, ranks_of, world
from embnoise_torch.ranks.shards import is_dtensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["find_place"]


def find_place(
    model: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh | None
) -> Place | None:
    """Where this rank stands, from ``mesh`` or, without it, from the model.

    Args:
        model: The outermost module, with what it is wrapped in.
        layers: The modules that get noise.
        mesh: The argument of ``attach``.

    Returns:
        ``None`` if every rank has different samples.

    Raises:
        ValueError: ``mesh`` does not fit the model; or it is needed, since the model is sharded and
            does not tell which ranks have the same samples.
    """
    place = None if mesh is None else Place.in_mesh(mesh)
    ranks = world()
    if ranks == 1:
        return place
    averaged = _averaging_mesh_dims(model)
    same = _ranks_of_tables(model, layers, averaged)
    if place is not None:
        check_same_samples(place, same)
        return place
    members = _members(model, layers)
    others = _ranks_of_parameters(model.modules(), averaged)
    if len(same) == 1 and not others and (members is None or len(members) == ranks):
        return None
    me = distributed.get_rank()
    different = members or (me,)
    if len(different) * len(same) == ranks and set(different) & set(same) == {me}:
        return Place(different, different.index(me))
    told = {
        "its embeddings are split": same if len(same) > 1 else (),
        "its parameters are split": () if set(others) <= set(same) else others,
        "its gradients are averaged": members or (),
    }
    found = [f"{what} over ranks {[*group]}" for what, group in told.items() if group]
    raise ValueError(
        f"mesh must be given for this model, of which {' and '.join(found)} of {ranks}: that does "
        "not tell which ranks have the same samples. Pass the whole device mesh, with the "
        "dimensions along which samples are the same named 'tp', 'cp', 'sp' or 'pp', or its "
        "data-parallel dimensions (mesh['dp'], which may be of size 1)"
    )


def _members(model: nn.Module, layers: Iterable[nn.Module]) -> tuple[int, ...] | None:
    """The ranks over which the gradients of the layers are averaged, if any."""
    wanted, found = set(layers), None
    for module in model.modules():  # the outer ones come first
        mesh = _compat.fsdp_mesh(module)
        if isinstance(module, DistributedDataParallel):
            found = tuple(distributed.get_process_group_ranks(module.process_group))
        elif mesh is not None and wanted & set(module.modules()):
            found = ranks_of(mesh)
    return None if found is None else tuple(sorted(found))


def _averaging_mesh_dims(model: nn.Module) -> set[tuple[int, ...]]:
    """The ranks along each dimension of every mesh over which ``fully_shard`` shards."""
    meshes = {id(mesh): mesh for module in model.modules() if (mesh := _compat.fsdp_mesh(module))}
    return {ranks_along(mesh, [dim]) for mesh in meshes.values() for dim in range(mesh.ndim)}


def _ranks_of_tables(
    model: Any, layers: Iterable[nn.Module], averaged: set[tuple[int, ...]]
) -> tuple[int, ...]:
    """The ranks that have the same samples, this one included."""
    tables = [module for module in layers if _is_table(module)]
    ranks = set(_ranks_of_parameters(tables, averaged)) | {distributed.get_rank()}
    # A model of transformers says that it is tensor parallel, and all of that is.
    for module in model.modules():
        degree = getattr(module, "tp_size", None)
        if isinstance(degree, int) and degree > 1:
            ranks.update(_ranks_of_parameters(module.modules(), averaged))
    return tuple(sorted(ranks))


def _is_table(module: Any) -> bool:
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2


def _ranks_of_parameters(
    modules: Iterable[nn.Module], averaged: set[tuple[int, ...]]
) -> tuple[int, ...]:
    """The ranks over which parameters are split otherwise than by ``fully_shard``."""
    meshes = {}
    for parameter in _sharded_parameters(modules):
        meshes[id(parameter.device_mesh)] = parameter.device_mesh
    ranks: set[int] = set()
    for mesh in meshes.values():
        dims = [
            dim
            for dim in range(mesh.ndim)
            if mesh.size(dim) > 1 and ranks_along(mesh, [dim]) not in averaged
        ]
        if dims:
            ranks.update(ranks_along(mesh, dims))
    return tuple(sorted(ranks))


def _sharded_parameters(modules: Iterable[nn.Module]) -> Iterator[Any]:
    for module in modules:
        for parameter in module.parameters(recurse=False):
            if is_dtensor(parameter):
                yield parameter
