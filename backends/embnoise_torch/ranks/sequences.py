"""Sequences that are cut: each rank of a group looks up a part of every row.

n ranks, l tokens in a part, L = n * l tokens in a row. A part is a run of tokens or, balanced for
causal attention, two: chunks r and 2n - 1 - r of 2n. The position ids tell which.

What is known about the tokens is small, [B, l]. It is gathered from the ranks, so that all of them
plan the noise of whole rows; each adds that of its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from embnoise_torch import _compat

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["SequencePart", "Sequences"]

Arrays = Sequence[Tensor | None]


class SequencePart(NamedTuple):
    """The tokens of whole rows that a rank holds."""

    length: int
    """L."""
    columns: Tensor
    """Which tokens, int64 [l]."""


class Sequences:
    """The ranks that hold the parts of this one's sequences.

    Args:
        mesh: A device mesh of one dimension.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._group = mesh.get_group()
        self._size = mesh.size()
        self._rank = mesh.get_local_rank()

    def __deepcopy__(self, memo: object) -> Sequences:
        return self

    def whole(
        self,
        arrays: Arrays,
        length: int,
        device: torch.device,
        *,
        ids: Tensor | None,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[list[Tensor | None], SequencePart]:
        """Arrays of whole rows from those of parts: a collective operation.

        Args:
            arrays: Integer and boolean arrays [..., l] become [..., L]. All others stay as they
                are, among them those of whole rows.
            length: l.
            device: That of the embeddings.
            ids: One of the arrays: what is looked up.
            positions: One of the arrays, by which the order of the tokens is known.
            mask: One of the arrays, nonzero for real tokens, whose positions count.

        Raises:
            ValueError: The order of the tokens is not known, or the rows are not cut.
        """
        balanced = _compat.context_parallel_balances()
        parts = {id(each): each for each in arrays if each is not None and _is_cut(each, length)}
        joined = self._joined(parts, length, device)
        all_ids, all_positions, all_masks = (
            joined.get(id(each)) for each in (ids, positions, mask)
        )
        if balanced is None and all_ids is not None and all_positions is not None:
            self._check_cut(all_ids, all_positions)
        order = self._order(length, all_positions, all_masks, balanced).to(device)
        back = order.argsort()
        whole = [
            joined[id(each)][..., back].to(each.dtype)
            if each is not None and id(each) in joined
            else each
            for each in arrays
        ]
        start = self._rank * length
        return whole, SequencePart(self._size * length, order[start : start + length])

    def _joined(
        self, parts: dict[int, Tensor], length: int, device: torch.device
    ) -> dict[int, Tensor]:
        """The parts of all ranks one after another, int64 [..., L] each."""
        if not parts:
            return {}
        rows = {
            key: each.to(device, torch.int64).reshape(-1, length) for key, each in parts.items()
        }
        mine = torch.cat(list(rows.values()))
        theirs = [torch.empty_like(mine) for _ in range(self._size)]
        distributed.all_gather(theirs, mine, group=self._group)
        joined = torch.cat(theirs, dim=1)
        split = torch.split(joined, [len(each) for each in rows.values()])
        return {
            key: row.reshape(*parts[key].shape[:-1], -1)
            for key, row in zip(parts, split, strict=True)
        }

    def _check_cut(self, *joined: Tensor) -> None:
        """Raise if all ranks were called with the same tokens at the same positions."""
        parts = (each.reshape(*each.shape[:-1], self._size, -1) for each in joined)
        if all(bool((each == each[..., :1, :]).all()) for each in parts):
            raise ValueError(
                f"mesh has {self._size} ranks along which sequences are cut, but all of them were "
                "called with the same tokens at the same positions. Cut the sequences first, or "
                "pass a mesh without that dimension (mesh['dp'])"
            )

    def _order(
        self, length: int, positions: Tensor | None, mask: Tensor | None, balanced: bool | None
    ) -> Tensor:
        """Which token of the whole row each gathered one is, int64 [L]."""
        one_after_another = torch.arange(self._size * length)
        candidates = [one_after_another]
        if length % 2 == 0:
            chunks = one_after_another.view(2 * self._size, -1)
            candidates.append(
                torch.stack([chunks[: self._size], chunks[self._size :].flip(0)], dim=1).reshape(-1)
            )
        if positions is not None and positions.ndim == 3:
            positions = positions[0] if len(positions) == 4 else None
        if positions is not None:
            for order in candidates:
                if _continue(*_in_order(order, positions, mask)):
                    return order
            raise ValueError(
                "position_ids must go up by 1 within a document, and a rank must hold either one "
                "run of tokens or the two chunks of context_parallel's load balancing, got others. "
                "Pass attach(..., tokens=...), a function that returns such positions"
            )
        if balanced is None:
            raise ValueError(
                "sequences are cut, and nothing tells which tokens this rank holds: pass "
                "position_ids to the model, or attach(..., tokens=...) or the layer positions"
            )
        return candidates[int(balanced)]


def _is_cut(array: Tensor, length: int) -> bool:
    return array.ndim > 0 and array.shape[-1] == length and not array.is_floating_point()


def _in_order(order: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
    back = order.argsort().to(positions.device)
    real = None if mask is None else mask[..., back] != 0
    return positions[..., back], real


def _continue(positions: Tensor, real: Tensor | None) -> bool:
    """Whether each position is the next one, or the first one of a document."""
    good = (positions[..., 1:] == positions[..., :-1] + 1) | (positions[..., 1:] == 0)
    if real is not None:
        good = good | ~(real[..., 1:] & real[..., :-1])
    return bool(good.all())
