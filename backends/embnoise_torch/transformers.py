"""Noise in the Hugging Face ``Trainer``, and in TRL's trainers, which are subclasses of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.neftune import deactivate_neftune
from transformers.trainer_callback import ExportableState

from embnoise.backend import Counter, Noise, as_noise
from embnoise_torch import _compat, runs
from embnoise_torch.attach import attach, check_arguments
from embnoise_torch.handle import Handle
from embnoise_torch.ranks.dealing import Dealing, find_block_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["NoiseCallback"]


class NoiseCallback(TrainerCallback, ExportableState):
    """Attaches noise for the duration of ``trainer.train()`` and keeps its step the trainer's.

    The run fills in what the noise leaves open: a schedule with ``steps=None`` ends with the
    trainer's last step, and a noise without a seed takes the trainer's ``seed``. Its data loader
    says how samples are dealt to ranks, and its accelerator which ranks hold the same samples.
    Checkpoints contain the counters: a resumed run continues with the noise and the counts of its
    step. If a run ended in an error or was interrupted, the next one takes over.

    The logs of training steps, ``trainer.state.log_history`` and those of TensorBoard and Weights &
    Biases alike, get ``noise_alpha`` and ``noise_ratio``: the RMS of the noise over the RMS of the
    embeddings that got it, in the last lookup of this rank. If several embeddings have noise, each
    ratio is called ``noise_ratio_`` and the name; there is none where ``Handle.noise_ratios`` has
    ``None``, nor of a step without noise. Of several callbacks, the names of one whose noise has a
    ``stream`` end with that.

    Args:
        noise: What noise to add, or its ``to_dict()``.
        layer: As for ``attach``.
        at: As for ``attach``.
        tokens: As for ``attach``.
        where: As for ``attach``. ``"prompt"`` and ``"completion"`` read the labels of the batch.
        placeholders: As for ``attach``.
        mesh: As for ``attach``. Default: the mesh of the trainer's accelerator.
        dealing: As for ``attach``. Default: that of the trainer's data loader.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument that is wrong whatever the model is. When the trainer is made, or
            trains: ``neftune_noise_alpha`` is set too, or the trainer wraps the model in
            ``nn.DataParallel``. When it trains: as for ``attach``.

    Example:
        >>> from embnoise import linear, neftune
        >>> from embnoise_torch.transformers import NoiseCallback
        >>> callback = NoiseCallback(neftune(alpha=linear(5.0, 0.0)))  # Trainer(callbacks=[...])
        >>> callback.handle is None
        True
    """

    def __init__(
        self,
        noise: Noise | Mapping[str, Any],
        *,
        layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
        at: Literal["output", "input"] = "output",
        tokens: Callable[..., Mapping[str, Any]] | None = None,
        where: str | Callable[..., Tensor] = "all",
        placeholders: bool = False,
        mesh: DeviceMesh | None = None,
        dealing: Dealing | None = None,
    ) -> None:
        self.noise = as_noise(noise)
        check_arguments(
            layer=layer,
            at=at,
            tokens=tokens,
            where=where,
            placeholders=placeholders,
            mesh=mesh,
            dealing=dealing,
        )
        self.layer = layer
        self.at = at
        self.tokens = tokens
        self.where = where
        self.placeholders = placeholders
        self.mesh = mesh
        self.dealing = dealing
        self.handle: Handle | None = None
        """The handle of ``attach``, of the latest run; ``None`` before the first."""

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a trainer that would add the noise wrongly, before anything has happened."""
        trainer = self._trainer()
        _check_arguments(args, trainer)
        self._come_first(trainer)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach, after removing what a run that ended in an error left behind."""
        trainer = self._trainer()
        _check_arguments(args, trainer)
        self._come_first(trainer)
        model = kwargs["model"]
        running = [state, *(each.state for each in _compat.calling(Trainer))]
        runs.remove_stale(model, running, self.handle)
        mesh, dealing = self.mesh, self.dealing
        if mesh is None and trainer is not None:
            mesh = getattr(trainer.accelerator, "torch_device_mesh", None)
        if dealing is None:
            dealing = find_block_size(kwargs.get("train_dataloader"))
        self.handle = handle = attach(
            model,
            self.noise.bind(state.max_steps, seed=args.seed),
            layer=self.layer,
            at=self.at,
            optimizer="manual",
            tokens=self.tokens,
            where=self.where,
            placeholders=self.placeholders,
            mesh=mesh,
            dealing=dealing,
        )
        runs.begin(handle, state)
        if trainer is not None and self.where != "all":
            handle._undo.callback(_give_labels(trainer, handle))
        self._continue_from(handle, state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the noise's step to the trainer's."""
        if handle := self._attached():
            handle.step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of a step without noise."""
        if handle := self._attached():
            handle._end_step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the amplitude and the size of the noise to the logs of a training step."""
        handle = self._attached()
        if handle is None or logs is None or "loss" not in logs:
            return
        callbacks = getattr(self._trainer(), "callback_handler", None)
        several = (
            callbacks is not None
            and sum(isinstance(each, NoiseCallback) for each in callbacks.callbacks) > 1
        )
        ending = f"_{self.noise.stream}" if several and self.noise.stream else ""
        logs[f"noise_alpha{ending}"] = handle.alpha
        ratios = handle.noise_ratios()
        for name, ratio in ratios.items():
            if ratio is not None and handle._had_noise(name):
                logs[f"noise_ratio{ending}" if len(ratios) == 1 else f"noise_ratio_{name}"] = ratio
        if state.log_history:  # the trainer has filed a copy already
            state.log_history[-1].update(logs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        if handle := self._attached():
            handle.step = state.global_step
            runs.end(handle)

    def state(self) -> dict[str, Any]:
        """What a checkpoint contains: the arguments of this callback, and the noise's counters.

        An argument that JSON cannot express is described only. ``train`` raises an error if the
        trainer makes the callback anew from that (``restore_callback_states_from_checkpoint``).
        """
        handle = self._attached()
        try:
            noise: Any = self.noise.to_dict()
        except TypeError:  # a rule that is not registered
            noise = repr(self.noise)
        arguments = {
            "layer": self.layer, "at": self.at, "tokens": self.tokens, "where": self.where,
            "placeholders": self.placeholders, "mesh": self.mesh, "dealing": self.dealing,
        }  # fmt: skip
        plain = str | int | None
        described = {
            name: value if isinstance(value, plain) else repr(value)
            for name, value in arguments.items()
        }
        return {
            "args": {"noise": noise, **described},
            "attributes": {},
            "counters": None if handle is None else handle.state_dict(),
        }

    def _attached(self) -> Handle | None:
        """The handle, while a run lasts."""
        return self.handle if runs.is_running(self.handle) else None

    def _continue_from(self, handle: Handle, state: TrainerState) -> None:
        """Take the step of the trainer, and in a resumed run the counts of its checkpoint."""
        step, callbacks = state.global_step, cast("dict[str, Any]", state.stateful_callbacks)
        # The trainer fails to save a callback that the checkpoint it resumes does not contain.
        saved = callbacks.setdefault(type(self).__name__, self.state())
        # Of several callbacks it appends the states, at each checkpoint anew.
        for each in reversed(saved if isinstance(saved, list) else [saved]):
            counters = each.get("counters") or {}
            if step > 0 and counters.keys() == handle.state_dict().keys():
                handle.load_state_dict(
                    {name: _resumed(counter, step) for name, counter in counters.items()}
                )
                break
        handle.step = step

    def _trainer(self) -> Trainer | None:
        """The trainer that calls this callback."""
        for trainer in _compat.calling(Trainer):
            if self in trainer.callback_handler.callbacks:
                return trainer
        return None

    def _come_first(self, trainer: Trainer | None) -> None:
        """Be called before the callbacks that report logs, which the trainer puts in front."""
        if trainer is not None:
            callbacks = trainer.callback_handler.callbacks
            callbacks.remove(self)
            callbacks.insert(0, self)


def _check_arguments(args: TrainingArguments, trainer: Trainer | None) -> None:
    alpha = args.neftune_noise_alpha
    if alpha is None:
        alpha = getattr(trainer, "neftune_noise_alpha", None)  # as it was when that was made
    if alpha is not None:
        if trainer is not None and (hook := vars(trainer).pop("neftune_hook_handle", None)):
            deactivate_neftune(trainer.model, hook, trainer.accelerator)  # type: ignore[no-untyped-call]
        raise ValueError(
            "neftune_noise_alpha must be None beside a NoiseCallback, or noise is added twice; "
            f"got {alpha!r}. Make a new Trainer without it"
        )
    wrapped = getattr(trainer, "model_wrapped", None)
    quantized = any(
        getattr(wrapped, name, False) for name in ("is_loaded_in_8bit", "is_loaded_in_4bit")
    )
    if isinstance(wrapped, nn.DataParallel) or (args.n_gpu > 1 and not quantized):
        raise ValueError(
            "the Trainer must use one process for each GPU, since nn.DataParallel copies the model "
            f"without its noise; got {args.n_gpu} GPUs in one process. Start it with `torchrun "
            "--nproc_per_node` or `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU"
        )


def _give_labels(trainer: Trainer, handle: Handle) -> Callable[[], None]:
    """Tell ``where`` the labels, which the trainer may keep from the model; returns the undo.

    It does so with ``label_smoothing_factor`` and with ``compute_loss_func``.
    """
    original = trainer.compute_loss

    @functools.wraps(original)
    def compute_loss(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        with handle._giving({} if labels is None else {"labels": labels}):
            return original(model, inputs, *args, **kwargs)

    def undo() -> None:
        if attributes.get("compute_loss") is compute_loss:
            del attributes["compute_loss"]
            attributes.update(before)

    attributes = vars(trainer)
    before = {name: attributes[name] for name in ("compute_loss",) if name in attributes}
    attributes["compute_loss"] = compute_loss
    return undo


def _resumed(counter: Mapping[str, int], step: int) -> dict[str, int]:
    """A saved counter at the beginning of a step, which the trainer repeats if it had begun."""
    saved = Counter(**counter)
    repeated = saved.calls if saved.step == step else 0
    return Counter(step, lookups=saved.lookups - repeated).to_dict()
