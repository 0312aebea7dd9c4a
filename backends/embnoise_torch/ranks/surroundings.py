"""What runs around a lookup and was not said to ``attach``: sequences that are cut, pipelines."""

from __future__ import annotations

from embnoise.backend import Noise, TokenArrays, uses_length, uses_rms
from embnoise_torch import _compat
from embnoise_torch.ranks.place import Place, world

__all__ = ["check_part", "check_surroundings", "check_untransformed"]


def check_surroundings(place: Place | None) -> None:
    """Raise if ranks hold parts of one sequence, or stages of one model, and the place is wrong.

    Args:
        place: The place of this process; ``None`` if every rank is said to have other samples.

    Raises:
        ValueError: It does not say along which dimension sequences are cut, or that the stages of a
            pipeline have the same samples.
    """
    if world() == 1:
        return
    if place is None or place.sequences is None:
        if _compat.context_parallel_balances() is not None:
            raise ValueError(
                "mesh must have a dimension named 'cp' inside of context_parallel, along which "
                "each rank holds a part of every sequence: pass the whole device mesh, or "
                "mesh[('dp', 'cp')]"
            )
        if _compat.deepspeed_cuts_sequences():
            raise ValueError(
                "mesh must have a dimension named 'sp' with DeepSpeed's sequence parallelism, "
                "along which each rank holds a part of every sequence: pass "
                "init_device_mesh(device, (dp, sp), mesh_dim_names=('dp', 'sp'))"
            )
    if place is None and _compat.pipeline_stage() is not None:
        raise ValueError(
            "mesh must be given for a stage of a pipeline, since the ranks of its other stages "
            "have the same samples: pass the device mesh, with that dimension named 'pp', or its "
            "data-parallel dimensions (mesh['dp'])"
        )


def check_untransformed(place: Place | None) -> None:
    """Raise under a transformation if ranks hold parts of one sequence.

    Raises:
        RuntimeError: They do: what the others know cannot be gathered there.
    """
    if place is not None and place.sequences is not None:
        raise RuntimeError(
            "sequences that are cut over ranks (mesh with a dimension 'cp' or 'sp') are not "
            "supported under transformations (torch.func, make_fx, torch.export); use eager calls "
            "or torch.compile"
        )


def check_part(noise: Noise, tokens: TokenArrays) -> None:
    """Raise if embeddings are part of a sequence, and nothing tells which or how long that is.

    Args:
        noise: What noise to add.
        tokens: What is known about the tokens.

    Raises:
        ValueError: The positions are not given, or the noise needs whole sequences.
    """
    if _compat.context_parallel_balances() is None:
        return
    if tokens.positions is None:
        raise ValueError(
            "positions must be given inside of context_parallel, where each rank holds a part of "
            "every sequence, got None"
        )
    if uses_rms(noise) or (uses_length(noise) and not isinstance(noise.length, int)):
        raise ValueError(
            "noise must not depend on the length of whole sequences inside of context_parallel, "
            f"where each rank holds a part of them, got {noise}; pass neftune(length=L)"
        )
