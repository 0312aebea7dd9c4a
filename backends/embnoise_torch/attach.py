"""``attach``: noise on the token embedding, or other layers, of an existing model, in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from embnoise.backend import (
    PLACES,
    Noise,
    TokenFunctions,
    check_bool,
    check_choice,
    check_integer,
    check_noise,
    format_value,
    is_scheduled,
    noise_by_layer,
    refuse_equal_streams,
    rows_of_a_sample,
)
from embnoise_torch import _compat
from embnoise_torch.handle import Handle
from embnoise_torch.layer import EmbeddingNoise
from embnoise_torch.model.find import find_layers, language_model, listed_layers, unwrap_model
from embnoise_torch.model.forward_override import ForwardOverride
from embnoise_torch.model.model_call import WHERE
from embnoise_torch.optimizer import OptimizerArgument
from embnoise_torch.ranks.dealing import Dealing, block_size
from embnoise_torch.ranks.model_ranks import find_place
from embnoise_torch.ranks.place import Place
from embnoise_torch.ranks.sample_ids import SampleIds

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["attach", "check_arguments"]


def attach(
    model: nn.Module,
    noise: Noise,
    *,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    optimizer: OptimizerArgument = None,
    calls_per_step: int | None = None,
    tokens: Callable[..., Mapping[str, Any]] | None = None,
    where: str | Callable[..., Tensor] = "all",
    placeholders: bool = False,
    mesh: DeviceMesh | None = None,
    dealing: Dealing | None = None,
    at: Literal["output", "input"] = "output",
) -> Handle:
    """Add noise to a model's token embeddings, or to hidden states, in training only.

    The noise comes right after the lookup, if the embedding is in training mode and gradients are
    enabled. It is added in place, so it needs no memory of the output's size. Lengths come from the
    ``attention_mask``, ``position_ids``, ``cu_seq_lens_q`` or ``seq_idx`` of the innermost call
    around the lookup that has them for these ids. Nothing enters the model's state_dict; a copy or
    a pickle of the model has no noise. If anything fails, the model and the optimizer are left as
    they were.

    ``layer="model.layers.*", at="input"`` is noise on what goes into each of a model's layers.

    Args:
        model: A model, bare or wrapped by torch.compile, DDP, FSDP, Fabric or PEFT.
        noise: What noise to add.
        layer: A module or its name, a pattern of names, or a list of those. In a pattern, ``*``,
            ``?`` and ``[0-3]`` match as in a shell, but never a dot: ``"model.layers.*"``. Default:
            ``get_input_embeddings()`` of the model, or of the only model inside it that has that
            method, or the only ``nn.Embedding`` of the model; in an encoder-decoder, also that of
            the decoder. With noise at the output, every module that shares a table gets noise too,
            the output head never. All but the first get a stream of their own.
        optimizer: Its steps are the noise's steps; that of PyTorch, Accelerate or DeepSpeed, or a
            DeepSpeed engine. Where it does not exist yet, pass a function that returns it, or
            ``None`` until then: ``lambda: trainer.optimizer``. ``"manual"`` means that you set
            ``handle.step``. With a constant alpha neither is needed: every call draws new noise.
        calls_per_step: In place of an optimizer: the next step begins after this many training
            calls of the embedding.
        tokens: A function that returns the token arguments of ``add_noise`` (``mask``,
            ``segment_ids``, ...) as a dict, in place of the masks of the model's call. It takes by
            name ``ids``, what is looked up, and any argument of the model's call:
            ``lambda ids: {"mask": ids != 0}``.
        where: ``"all"`` real tokens; ``"prompt"``, those whose label is -100; ``"completion"``,
            the others; or a function that returns a boolean tensor [B, L], true for the tokens to
            noise. It takes its arguments by name, as ``tokens`` does.
        placeholders: Whether the tokens in whose place a multimodal model puts the features of an
            image, a video or audio (``config.image_token_id`` and the like) get noise and count in
            L. By default they do neither. With ``tokens``, that function decides.
        mesh: A device mesh, if not every rank of the default process group sees different data:
            its data-parallel dimensions, or all of them. Along those named ``tp``, ``cp``, ``sp``
            and ``pp``, ranks have the same samples; along ``cp`` and ``sp``, each has a part of
            every sequence, and lengths and positions are those of the whole. Default: what the
            model tells, if it is sharded by FSDP or its embedding is tensor parallel.
        dealing: How the samples of a global batch are dealt to ranks: how many consecutive ones
            each rank takes in turn, or the data loader, of Accelerate or with a
            ``DistributedSampler``. A global batch then gets the same noise on any number of ranks.
            Default: 1, that of ``DistributedSampler``. Without it no two samples get the same
            noise either.
        at: Where a layer gets noise: on its ``"output"``, or the first entry of it if that is a
            tuple; or on its ``"input"``, the first argument of its call. Hidden states have the
            shape [B, L, d].

    Returns:
        A handle. ``remove()`` removes the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: No embedding, or several to choose from; a pattern that matches nothing; noise
            is attached already, or the model has noise of the same seed and stream; a schedule that
            is unbound, or that nothing would advance; a data loader that does not say how it deals;
            a sharded model that does not tell which ranks have the same samples, or ``mesh`` that
            contradicts it.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import attach
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 10))
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> clean = model(ids)
        >>> with attach(model, neftune(alpha=5.0)) as handle:
        ...     noisy = model(ids)
        >>> bool((noisy == clean).any()), bool((model(ids) == clean).all()), handle.lookups
        (False, True, 1)
    """
    check_noise(noise).alpha_at(0)  # raises for a schedule that is unbound
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {format_value(model)}")
    if calls_per_step is not None:
        calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        if optimizer is not None:
            raise ValueError(
                "calls_per_step must be None with an optimizer, whose steps count, got "
                f"{calls_per_step}"
            )
    elif optimizer is None and is_scheduled(noise):
        raise ValueError(
            f"optimizer must be given for the schedule alpha={noise.alpha}, which its steps "
            "advance; got None. Or pass calls_per_step=n, or optimizer='manual' and set "
            "handle.step yourself, or use embnoise_torch.transformers.NoiseCallback"
        )
    inner = unwrap_model(model)
    check_choice("at", at, PLACES)
    if layer is None:
        inner = language_model(inner)
    layers, sharing = find_layers(inner, layer, at)
    for name, module in layers.items():
        _check_clean(name, module)
    refuse_equal_streams(noise_by_layer(noise, layers), _noises_in(model))
    place = find_place(model, layers.values(), mesh)
    return Handle(
        inner,
        layers,
        noise,
        named=layer is not None,
        sharing=sharing,
        optimizer=None if optimizer == "manual" else optimizer,
        calls_per_step=calls_per_step,
        functions=TokenFunctions(tokens, where, WHERE),
        sample_ids=SampleIds(place, dealing, rows=rows_of_a_sample(noise)),
        placeholders=check_bool("placeholders", placeholders),
        at=at,
        outermost=model,
    )


def check_arguments(
    *,
    layer: Any,
    at: str,
    tokens: Any,
    where: Any,
    placeholders: object,
    mesh: Any = None,
    dealing: Any = None,
) -> None:
    """Check arguments of ``attach`` without a model: for callbacks, which attach later.

    Raises:
        TypeError: As for ``attach``.
        ValueError: An argument that is wrong whatever the model is.
    """
    if layer is not None:
        listed_layers(layer)
    check_choice("at", at, PLACES)
    TokenFunctions(tokens, where, WHERE)
    check_bool("placeholders", placeholders)
    if mesh is not None:
        Place.in_mesh(mesh)
    if dealing is not None:
        block_size(dealing, ranks=1)  # how a loader deals is known when it is prepared


def _noises_in(model: nn.Module) -> dict[str, Noise]:
    """The noise that a model has, attached or of its own layers, by the name of the layer."""
    found: dict[str, Noise] = {}
    for name, module in model.named_modules():
        if isinstance(module, EmbeddingNoise):
            found[name] = module.noise
        elif isinstance(handle := ForwardOverride.owner_of(module), Handle):
            found |= handle._noises()
    return found


def _check_clean(name: str, module: nn.Module) -> None:
    """Raise if a module has noise already."""
    if ForwardOverride.owner_of(module) is not None:
        raise ValueError(
            f"model has noise attached to {name!r} already: {ForwardOverride.owner_of(module)}; "
            "call its remove() first"
        )
    if any(
        getattr(hook, "__name__", "") == "neftune_post_forward_hook"
        for hook in _compat.forward_hooks(module)
    ):
        raise ValueError(f"model has the NEFTune hook of transformers on {name!r}; remove it first")
