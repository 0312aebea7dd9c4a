"""``EmbeddingNoise``: the noise as a module, to put after an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embnoise.backend import (
    Noise,
    Prepared,
    TokenArrays,
    check_integer,
    embedding_shape,
    format_value,
    resolve_step,
)
from embnoise_torch import custom_op
from embnoise_torch.functional import check_tensor
from embnoise_torch.kernels import add_
from embnoise_torch.place import Memory, Place, Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["EmbeddingNoise"]


class EmbeddingNoise(nn.Module):
    """Adds noise to embeddings in training mode; the identity in evaluation mode.

    Without ``step`` every training call is a step of its own, counted from 0. The count is no
    part of the state_dict; ``step`` reads and sets it.

    Args:
        noise: what noise to add.
        mesh: the data-parallel dimensions of a device mesh, where not every rank of the default
            process group sees other data.

    Raises:
        TypeError: ``noise`` is no Noise.
        ValueError: its schedule is unbound, or ``mesh`` is no mesh of this rank.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import EmbeddingNoise
        >>> embed = torch.nn.Sequential(torch.nn.Embedding(10, 8), EmbeddingNoise(neftune(5.0)))
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> bool((embed(ids) == embed[0](ids)).any())
        False
        >>> bool((embed.eval()(ids) == embed[0](ids)).all())
        True
    """

    def __init__(self, noise: Noise, *, mesh: DeviceMesh | None = None) -> None:
        super().__init__()
        if not isinstance(noise, Noise):
            raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
        noise.alpha_at(0)
        self.noise = noise
        self._calls = _Calls(noise, Ranks(mesh))

    @property
    def step(self) -> int:
        """The step that the next training call without ``step`` will take."""
        return self._calls.step

    @step.setter
    def step(self, value: int) -> None:
        self._calls.step = check_integer("step", value, minimum=0)
        self._calls.memory.clear()

    def forward(
        self,
        x: Tensor,
        *,
        step: int | Tensor | None = None,
        mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        sample_ids: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """``add_noise`` in training mode; its arguments have the same meaning here."""
        check_tensor(x)
        shape = embedding_shape(x)
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        tokens.check(shape)
        if not self.training or self.noise.alpha == 0 or x.numel() == 0:
            return x
        noisy = x.clone(memory_format=torch.contiguous_format)
        if step is not None and not isinstance(step, Tensor):
            step = torch.full((), check_integer("step", step, minimum=0))
        if torch.compiler.is_compiling():
            custom_op.apply_(noisy.detach(), [step, *tokens], self._calls.number)
        else:
            custom_op.call_opaque(self._calls.apply_, noisy, step, *tokens)
        return noisy

    def extra_repr(self) -> str:
        """The noise, for ``print(model)``."""
        return repr(self.noise)


class _Calls:
    """The training calls of one module, as a source of noise."""

    def __init__(self, noise: Noise, ranks: Ranks) -> None:
        self.noise = noise
        self.ranks = ranks
        self.step = 0
        self.memory = Memory()
        self.number = custom_op.register(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self.noise, self.ranks, self.step)

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        given, *rest = arrays
        tokens = TokenArrays(*rest)
        check_tensor(x)
        shape = embedding_shape(x)
        if given is not None:
            step = resolve_step(given)
        else:
            # A column of the embeddings tells a recomputed call well enough, and is small.
            place = self.memory.place(x.detach()[..., 0].clone(), self._next)
            if place is None:
                return
            step = place.step
        if tokens.sample_ids is None:
            tokens = tokens._replace(sample_ids=self.ranks.sample_ids(0, shape[0]))
        add_(x, self.noise, Prepared(shape, step, self.noise.alpha_at(step), tokens))

    def _next(self) -> Place:
        self.step += 1
        return Place(self.step - 1, 0)


def _revive(noise: Noise, ranks: Ranks, step: int) -> _Calls:
    calls = _Calls(noise, ranks)
    calls.step = step
    return calls
