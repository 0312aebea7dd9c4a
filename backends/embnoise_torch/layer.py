"""``EmbeddingNoise``: the noise as a module, to put after an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from embnoise.backend import (
    Counter,
    Noise,
    TokenArrays,
    check_integer,
    check_noise,
    embedding_shape,
    format_value,
    rows_of_a_sample,
)
from embnoise_torch import _compat
from embnoise_torch.functional import check_tensor
from embnoise_torch.ranks.dealing import Dealing
from embnoise_torch.ranks.place import Place, check_same_samples, ranks_of
from embnoise_torch.ranks.sample_ids import SampleIds
from embnoise_torch.ranks.shards import check_dtensor, is_dtensor, whole
from embnoise_torch.ranks.surroundings import check_untransformed
from embnoise_torch.source import LayerSource
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import add_ready_
from embnoise_torch.tracing.planned import add_compiled
from embnoise_torch.tracing.state import TraceableState
from embnoise_torch.tracing.transforms import (
    add_counted,
    add_pure,
    check_tokens,
    is_recorded,
    step_tensor,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["EmbeddingNoise"]

_EXTRA_STATE = "_extra_state"  # the name that PyTorch gives it in a state_dict


class EmbeddingNoise(TraceableState, nn.Module):
    """Adds noise to embeddings in training mode with gradients enabled; otherwise the identity.

    Each training call without ``step`` takes the next step, or its next micro-batch. The counter
    is saved in the ``state_dict`` as the module's extra state, so that a resumed run continues
    with the same noise; a checkpoint without it loads too, and starts at step 0.

    Args:
        noise: What noise to add. Each layer of a model needs a ``stream`` of its own, or all draw
            the same.
        calls_per_step: How many training calls one optimizer step takes: more than 1 if gradients
            are accumulated. The micro-batches of a step draw different noise.
        mesh: A device mesh, if not every rank of the default process group sees different data:
            its data-parallel dimensions, or all of them. Along those named ``tp``, ``cp``, ``sp``
            and ``pp``, ranks have the same samples; along ``cp`` and ``sp``, each has a part of
            every sequence, and ``positions`` say which.
        dealing: As for ``attach``.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many calls got noise so far.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: The noise's schedule is unbound, ``calls_per_step`` or ``dealing`` is below 1,
            ``dealing`` is a data loader that does not say how it deals, or ``mesh`` is not a mesh
            of this rank.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import EmbeddingNoise
        >>> embed = torch.nn.Sequential(torch.nn.Embedding(10, 8), EmbeddingNoise(neftune(5.0)))
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> bool((embed(ids) == embed[0](ids)).any()), embed[1].step
        (False, 1)
        >>> bool((embed.eval()(ids) == embed[0](ids)).all())
        True
    """

    def __init__(
        self,
        noise: Noise,
        *,
        calls_per_step: int = 1,
        mesh: DeviceMesh | None = None,
        dealing: Dealing | None = None,
    ) -> None:
        super().__init__()
        check_noise(noise).alpha_at(0)  # raises for a schedule that is unbound
        calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        self.noise = noise
        self._silent = noise.alpha == 0  # a compiler that reads alpha compiles again for another
        self.calls_per_step = calls_per_step
        place = None if mesh is None else Place.in_mesh(mesh)
        sample_ids = SampleIds(place, dealing, rows=rows_of_a_sample(noise))
        self._source = LayerSource(noise, sample_ids, calls_per_step)
        self.register_load_state_dict_pre_hook(_check_counter)  # type: ignore[no-untyped-call]

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
        """Add noise in training mode with gradients enabled.

        Args:
            x: As for ``add_noise``. Which ranks hold parts of a DTensor, ``mesh`` must say.
            step: As for ``add_noise``; by default the next step of the module's counter.
            mask: As for ``add_noise``.
            segment_ids: As for ``add_noise``.
            positions: As for ``add_noise``.
            sample_ids: As for ``add_noise``; by default numbered over the step's micro-batches
                and over all ranks.
            where: As for ``add_noise``.
        """
        check_tensor(x)
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        compiling = torch.compiler.is_compiling()
        if is_dtensor(x):
            check_dtensor(x)
            check_same_samples(self._source.sample_ids.place, ranks_of(cast("Any", x).device_mesh))
            tokens = tokens.map(whole)
        elif is_recorded() if compiling else _compat.is_transformed(x):
            return self._forward_transformed(x, step, tokens)
        tokens.check(embedding_shape(x))
        if not (self.training and torch.is_grad_enabled()):
            return x
        if self._silent or x.numel() == 0 or (compiling and self._source.traced_pauses):
            return x
        if step is not None:
            step = step_tensor(x, step)
        if compiling:
            source, arrays = self._source, [step, *tokens]
            numbers = source.number, source.number_tensor
            return add_compiled(x, None, arrays, self.noise, *numbers, fresh=False)
        noisy = x.clone(memory_format=torch.contiguous_format)
        custom_op.call_opaque(self._add_, noisy, step, tokens)
        return noisy

    def _add_(self, x: Tensor, step: Tensor | None, tokens: TokenArrays) -> None:
        add_ready_(x, self.noise, self._source.ready(x, None, step, *tokens))

    def _forward_transformed(
        self, x: Tensor, step: int | Tensor | None, tokens: TokenArrays
    ) -> Tensor:
        check_untransformed(self._source.sample_ids.place)
        some = check_tokens(x, tokens)
        if not (self.training and torch.is_grad_enabled() and some):
            return x
        if self._silent or self._source.paused:
            return x
        if step is None:
            return add_counted(x, self._source, None, tokens)
        if tokens.sample_ids is None and not self._source.sample_ids.alone:
            rows = torch.arange(embedding_shape(x)[0], device=x.device)
            tokens = tokens._replace(sample_ids=self._source.sample_ids.of_rows(0, rows))
        return add_pure(x, self.noise, step, tokens)

    def get_extra_state(self) -> Tensor:
        """The counter, for the ``state_dict``: int64 [4], on the CPU."""
        return torch.tensor(self._source.counter, dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from the counter of a ``state_dict``."""
        self._source.start(Counter(*state.tolist()))

    def extra_repr(self) -> str:
        """The noise and the step, for ``print(model)``."""
        ranks = "" if self._source.sample_ids.alone else f", {self._source.sample_ids}"
        return f"{self.noise}, step={self.step}{ranks}"

    def _counters(self) -> dict[str, Counter]:
        return {"": self._source.counter}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        self._source.start(counters[""])

    def _pausable(self) -> list[LayerSource]:
        return [self._source]


def _check_counter(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a checkpoint without the counter load strictly: the counter then starts anew.

    Raises:
        TypeError: There is something else in its place; or it has been averaged or cast: 4.5 is no
            step, and bfloat16 has no 1001.
    """
    key = prefix + _EXTRA_STATE
    counter = state_dict.setdefault(key, torch.tensor(Counter(), dtype=torch.int64, device="cpu"))
    integers = isinstance(counter, Tensor) and not counter.is_floating_point()
    if not integers or counter.shape != (len(Counter()),):
        raise TypeError(
            f"state_dict[{key!r}] must be four integers, the counter of an EmbeddingNoise, got "
            f"{format_value(counter)}: leave it out when you average or cast a state_dict, and "
            "take it from one checkpoint, or delete the key to start at step 0"
        )
