"""``attach``: noise on the token embedding of an existing model, in one line."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from embnoise.backend import Noise, check_choice, check_integer, check_keys, format_value
from embnoise_torch import custom_op
from embnoise_torch.call import WHERE, Call, described
from embnoise_torch.find import callers_of, embeddings_of, unwrapped
from embnoise_torch.lookup import Lookup, Run
from embnoise_torch.place import Ranks
from embnoise_torch.specialise import Forward, Specialised

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Handle", "attach"]

Where = str | Callable[[Call], Tensor]
Around = Callable[[Forward], Forward]


def attach(
    model: nn.Module,
    noise: Noise,
    *,
    layer: str | nn.Module | None = None,
    optimizer: Optimizer | Literal["manual"] | None = None,
    mesh: DeviceMesh | None = None,
    where: Where = "all",
) -> Handle:
    """Add noise to a model's token embeddings, in training only.

    The noise comes right after the lookup, where the embedding is in training mode and gradients
    are enabled; it is added in place, so it takes no memory of the output's size. Lengths come
    from the ``attention_mask``, ``position_ids`` and ``cu_seq_lens_q`` of the model's own call.
    Nothing enters the model's state_dict; a copy or a pickle of the model has no noise.

    Args:
        model: a model, wrapped by torch.compile, DDP, FSDP or PEFT or not.
        noise: what noise to add.
        layer: the embedding or its name. By default ``model.get_input_embeddings()``, or the only
            ``nn.Embedding`` of the model; every module that shares its table is noised too, the
            output head never.
        optimizer: its steps are the noise's steps. ``"manual"`` says that you set ``handle.step``
            yourself. With a constant alpha neither is needed: every call gets fresh noise.
        mesh: the data-parallel dimensions of a device mesh, where not every rank of the default
            process group sees other data.
        where: ``"all"`` real tokens; ``"prompt"``, those whose label is -100; ``"completion"``,
            the others; or a callable from the arguments of the model's call, by name, to a tensor
            [B, L] that is nonzero for the tokens to noise.

    Returns:
        A handle: ``remove()`` ends the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no embedding or several to choose from; noise is attached already; a schedule
            that is unbound, or that nothing would advance.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import attach
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 10))
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> clean = model(ids)
        >>> with attach(model, neftune(alpha=5.0)):
        ...     noisy = model(ids)
        >>> bool((noisy == clean).any()), bool((model(ids) == clean).all())
        (False, True)
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {format_value(model)}")
    if optimizer is None and callable(noise.alpha):
        raise ValueError(
            "optimizer must be given with a schedule, so that its steps advance the schedule "
            f"alpha={noise.alpha}; got None. Or say optimizer='manual' and set handle.step "
            "yourself, or let embnoise_torch.transformers.NoiseCallback do it."
        )
    return Handle(model, noise, layer, optimizer, Ranks(mesh), where)


class Handle:
    """Noise that is attached to a model; made by ``attach``.

    Attributes:
        noise: what noise is added.
        step: the step; setting it starts a new one, unless it is the same.
        alpha: the amplitude now.
        fired: how many lookups got noise so far.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Noise,
        layer: str | nn.Module | None,
        optimizer: Optimizer | str | None,
        ranks: Ranks,
        where: Where,
    ) -> None:
        noise.alpha_at(0)  # raises for a schedule that is unbound
        if isinstance(where, str):
            check_choice("where", where, ["all", *WHERE])
        elif not callable(where):
            raise TypeError(f"where must be a string or a callable, got {format_value(where)}")
        inner = unwrapped(model)
        embeddings = embeddings_of(inner, layer)
        for name, module in embeddings.items():
            _refuse_noised(name, module)
        self.noise = noise
        self._run = Run(noise)
        self._where = where
        self._call: Call = {}
        self._batch: Call = {}
        self._fired_by_call = 0
        self._fired_by_step = 0
        self._warned = False
        self._lookups: dict[str, Lookup] = {}
        self._specialised: list[Specialised] = []
        self._unhook = _after_each_step(optimizer, self._advance)
        for name, module in embeddings.items():
            # Two modules that look up at the same place must not get the same noise.
            stream = noise.stream if not self._lookups else f"{noise.stream}/{name}"
            lookup = Lookup(replace(noise, stream=stream), self._run, ranks)
            self._lookups[name] = lookup
            self._specialised.append(Specialised(module, self._around_lookup(lookup, module), self))
        for module in callers_of(inner, embeddings.values()):
            self._specialised.append(Specialised(module, self._around_caller(module), None))
        if where != "all":
            self._specialised.append(Specialised(inner, self._around_model(inner), None))

    @property
    def step(self) -> int:
        """The step that the noise is at."""
        return self._run.step

    @step.setter
    def step(self, value: int) -> None:
        value = check_integer("step", value, minimum=0)
        if value == self._run.step:
            return
        self._run.step = value
        for lookup in self._lookups.values():
            lookup.begin_step()

    @property
    def alpha(self) -> float:
        """The amplitude at the current step."""
        return self._run.alpha

    @property
    def fired(self) -> int:
        """How many lookups got noise so far."""
        return self._run.fired

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No noise inside ``with handle.paused():``."""
        before, self._run.paused = self._run.paused, True
        try:
            yield
        finally:
            self._run.paused = before

    def remove(self) -> None:
        """End the noise and leave the model as it was; a second time it does nothing."""
        self._run.paused = True
        self._unhook()
        self._unhook = _nothing
        while self._specialised:
            self._specialised.pop().undo()

    def state_dict(self) -> dict[str, Any]:
        """Where the noise stands, for a checkpoint: a run that loads it goes on with the same."""
        samples = {name: lookup.samples for name, lookup in self._lookups.items()}
        return {"step": self.step, "samples": samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            TypeError: a value is no integer.
            ValueError: a key is missing or unknown, also the name of a noised module.
        """
        check_keys("state", state, ["step", "samples"], ["step", "samples"])
        names = list(self._lookups)
        check_keys("state['samples']", state["samples"], names, names)
        step = check_integer("step", state["step"], minimum=0)
        samples = {
            name: check_integer(f"samples[{name!r}]", state["samples"][name], minimum=0)
            for name in names
        }
        self._run.step = step
        for name, lookup in self._lookups.items():
            lookup.begin_step(samples[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Handle belongs to one model and cannot be copied or pickled; save state_dict()"
        )

    def __repr__(self) -> str:
        return f"Handle({self.noise}, on {list(self._lookups)}, step={self.step})"

    def _advance(self, *_: object) -> None:
        """The optimizer has made a step."""
        if self.fired == self._fired_by_step:
            self._warn_of_no_noise()
        self._fired_by_step = self.fired
        self.step += 1

    def _around_lookup(self, lookup: Lookup, module: nn.Module) -> Around:
        # A plain lookup has just made its output, and nobody else holds it.
        fresh = type(module).forward is nn.Embedding.forward and "forward" not in vars(module)

        def around(forward: Forward) -> Forward:
            def noisy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                x = forward(module, *args, **kwargs)
                if not (module.training and torch.is_grad_enabled()):
                    return x
                if not fresh:
                    x = x.clone(memory_format=torch.contiguous_format)
                ids = args[0] if args else None
                where = None if self._where == "all" else self._chosen()
                arrays = [ids, *described(self._call), where]
                if torch.compiler.is_compiling():
                    custom_op.apply_(x.detach(), arrays, lookup.number)
                else:
                    lookup.apply_(x, *arrays)
                return x

            return noisy

        return around

    def _around_caller(self, module: nn.Module) -> Around:
        names = list(inspect.signature(module.forward).parameters)

        def around(forward: Forward) -> Forward:
            def listened(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                before = self._call
                fired = None if torch.compiler.is_compiling() else self._run.fired
                self._call = _by_name(names, args, kwargs)
                try:
                    result = forward(module, *args, **kwargs)
                finally:
                    self._call = before
                if fired is not None and module.training and torch.is_grad_enabled():
                    # A lookup may also have come before the call, for its inputs_embeds.
                    if self._run.fired == fired == self._fired_by_call:
                        self._warn_of_no_noise()
                    self._fired_by_call = self._run.fired
                return result

            return listened

        return around

    def _around_model(self, module: nn.Module) -> Around:
        names = list(inspect.signature(module.forward).parameters)

        def around(forward: Forward) -> Forward:
            def listened(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                before = self._batch
                self._batch = _by_name(names, args, kwargs)
                try:
                    return forward(module, *args, **kwargs)
                finally:
                    self._batch = before

            return listened

        return around

    def _chosen(self) -> Tensor:
        choose = WHERE[self._where] if isinstance(self._where, str) else self._where
        return choose(self._batch)

    def _warn_of_no_noise(self) -> None:
        if self._warned or self._run.paused or self.alpha == 0:
            return
        self._warned = True
        warnings.warn(
            f"embnoise: a training step ran and {list(self._lookups)} got no noise. Was the model "
            "called with inputs_embeds, was the embedding replaced or put in evaluation mode after "
            "attach(), or is it inside reentrant gradient checkpointing?",
            RuntimeWarning,
            stacklevel=4,
        )


def _by_name(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The arguments of a call by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs


def _refuse_noised(name: str, module: nn.Module) -> None:
    if Specialised.owner_of(module) is not None:
        raise ValueError(
            f"model has noise attached to {name!r} already: {Specialised.owner_of(module)}; "
            "remove() that first"
        )
    if any(
        getattr(hook, "__name__", "") == "neftune_post_forward_hook"
        for hook in module._forward_hooks.values()
    ):
        raise ValueError(f"model has the NEFTune hook of transformers on {name!r}; remove it first")


def _after_each_step(
    optimizer: Optimizer | str | None, advance: Callable[..., None]
) -> Callable[[], None]:
    """Have ``advance`` called after each step of an optimizer; returns what ends that."""
    if optimizer is None or optimizer == "manual":
        return _nothing
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[union-attr]  # accelerate's wrapper
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer or 'manual', got {format_value(optimizer)}"
        )
    return optimizer.register_step_post_hook(advance).remove


def _nothing() -> None:
    pass
