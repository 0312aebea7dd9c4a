"""Find the layers of a model that get noise, through whatever the model is wrapped in."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

from embnoise.backend import check_layers, format_value, match_layers
from embnoise_torch import _compat
from embnoise_torch.model.batches import DECODER, TELLING
from embnoise_torch.model.call_stack import Caller
from embnoise_torch.model.untold_arguments import may_tell_padding
from embnoise_torch.ranks.place import world

__all__ = [
    "find_callers", "find_layers", "language_model", "listed_layers", "parameters_of",
    "unwrap_model",
]  # fmt: skip

_WRAPPERS = (DistributedDataParallel, FullyShardedDataParallel)


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile, DDP, FSDP, Fabric and PEFT.

    Raises:
        ValueError: A DataParallel, whose threads would race for the noise.
    """
    inner: Any = model
    while True:
        if isinstance(inner, nn.DataParallel):
            raise ValueError("model must not be a DataParallel; use DistributedDataParallel")
        wrapped = _compat.compiled_inner(inner) or _compat.fabric_inner(inner)
        if wrapped is not None:
            inner = wrapped
        elif isinstance(inner, _WRAPPERS):
            inner = inner.module
        elif hasattr(inner, "get_base_model"):  # PEFT
            inner = inner.get_base_model()
        else:
            return cast("nn.Module", inner)


def language_model(model: nn.Module) -> nn.Module:
    """The only model inside that tells its token embedding, such as a LightningModule has."""
    if hasattr(model, "get_input_embeddings"):
        return model
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module not in inside and (embedding := _told_embedding(module)) is not None:
            inside.update(module.modules())
            if _table(embedding) is not None:  # a vision model's is a convolution
                found.append(module)
    return unwrap_model(found[0]) if len(found) == 1 else model


def find_layers(
    model: Any, layer: str | nn.Module | Sequence[str | nn.Module] | None, at: str
) -> tuple[dict[str, nn.Module], frozenset[str]]:
    """The modules that get noise, by name, and the names of those that only share a table.

    Args:
        model: An unwrapped model.
        layer: A module, its name, a pattern of names, or a list of those. Default:
            ``get_input_embeddings()``, or the only ``nn.Embedding`` there is, and that of a decoder
            with a table of its own.
        at: Whether the noise is at their "output" or at their "input".

    Returns:
        These modules first. With noise at the output, then every other module that shares a table
        of theirs; never the output head, as far as that is known before it is called.

    Raises:
        TypeError: ``layer`` is neither a module nor a name.
        ValueError: No embedding, several to choose from, ``layer`` is not in the model or matches
            nothing there, or a module that is never called.
    """
    names = {module: _compat.uncompiled_name(name) for name, module in model.named_modules()}
    if layer is None:
        wanted = [_input_embedding(model)]
        decoder = _decoder_embedding(model)
        if decoder is not None and decoder not in wanted and decoder in names:
            wanted.append(decoder)
    else:
        named = (_named(model, each) for each in listed_layers(layer))
        wanted = list(dict.fromkeys(module for modules in named for module in modules))
    wanted = [_compat.compiled_inner(each) or each for each in wanted]
    for chosen in wanted:
        if chosen not in names:
            raise ValueError(f"layer must be a module of the model, got {format_value(chosen)}")
        if isinstance(chosen, nn.EmbeddingBag):
            raise ValueError(
                f"layer must be a module whose rows are the tokens of a sequence, got "
                f"{names[chosen]!r}, an EmbeddingBag, whose rows are bags"
            )
        if type(chosen).forward is nn.Module.forward:
            raise ValueError(
                f"layer must be a module that is called, got {names[chosen]!r}, a "
                f"{type(chosen).__name__}; its modules are {f'{names[chosen]}.*'!r}"
            )
    sharing = _sharing(model, wanted, names) if at == "output" else []
    wanted += sharing
    layers = {names[module]: module for module in wanted if not _is_inside(module, wanted)}
    return layers, frozenset(names[module] for module in sharing)


def listed_layers(layer: object) -> list[str | nn.Module]:
    """The modules and names in the argument ``layer``.

    Raises:
        TypeError: It is neither a module nor a name, nor a list of those.
        ValueError: It is an empty list.
    """
    layers = check_layers(layer)
    for each in layers:
        if not isinstance(each, str | nn.Module):
            raise TypeError(f"layer must be a module or its name, got {format_value(each)}")
    return layers


def _sharing(
    model: Any, wanted: Sequence[nn.Module], names: Iterable[nn.Module]
) -> list[nn.Module]:
    """The other modules that look up in a table of the wanted ones; never the output head."""
    owners = (module for module in wanted if not isinstance(module, nn.Linear))
    tables = {id(table) for table in map(_table, owners) if table is not None}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [
        module
        for module in names
        if module not in wanted
        and module is not head
        and not isinstance(module, nn.Linear)
        and _compat.compiled_inner(module) is None
        and id(_table(module)) in tables
    ]


def _is_inside(module: nn.Module, wanted: Sequence[nn.Module]) -> bool:
    """Whether a module is the embedding in a LoRA layer that is wanted: only that gets noise."""
    table = _table(module)
    return table is not None and any(
        table is _table(outer) and module is not outer and module in set(outer.modules())
        for outer in wanted
    )


def find_callers(
    model: nn.Module, layers: Iterable[nn.Module], also: nn.Module | None = None
) -> list[Caller]:
    """The modules whose calls may bring the masks of the tokens that some layers see.

    They are the modules around each layer whose forward names a mask, positions or ids: the model,
    the language model in it, in an encoder-decoder the encoder and the decoder; and those that name
    something else, which may be a batch with such names. Wrappers, which hand on whatever they are
    given, are among them only where no other module names any of these.

    Args:
        model: The outermost module, with what it is wrapped in.
        layers: They have the numbers 0, 1, ...; the callers continue from there.
        also: A module that is to be among the callers, whatever it takes.
    """
    numbers = {module: number for number, module in enumerate(layers)}
    paths: dict[nn.Module, set[str]] = {}  # of the layers, and of what is around them
    for path, module in model.named_modules(remove_duplicate=False):
        if module in numbers:
            parts = path.split(".")
            for depth in range(len(parts) + 1):
                above = ".".join(parts[:depth])
                paths.setdefault(model.get_submodule(above), set()).add(above)
    signatures = {module: parameters_of(module) for module in paths if module not in numbers}
    if also is not None and also not in numbers:
        signatures.setdefault(also, parameters_of(also))
    telling = {module for module, names in signatures.items() if TELLING & set(names)}
    unnamed = {each for each, names in signatures.items() if not telling and _takes_any_name(names)}
    unknown = {each for each, names in signatures.items() if any(map(may_tell_padding, names))}
    listening = [
        each
        for each, names in signatures.items()
        if each is also or (names and not (telling and _hands_on(names)))
    ]
    for module in listening:
        numbers[module] = len(numbers)
    callers = []
    for module in listening:
        sides = _sides(model, paths.get(module, ()), paths, numbers)
        has_decoder = any(name.startswith(DECODER) for name in signatures[module])
        may_be_batch = len(signatures[module]) == 1 or (bool(telling) and module not in telling)
        may_have = module in unnamed or may_be_batch
        has_decoder |= may_have and bool(sides)
        callers.append(
            Caller(
                module,
                numbers[module],
                list(signatures[module]),
                has_decoder,
                sides,
                tells=module in telling | unnamed,
                has_unknown=module in unnamed | unknown,
                rest=_rest_of(signatures[module]),
                checks=module in telling or not telling,
            )
        )
    return callers


def _sides(
    model: nn.Module,
    tops: Iterable[str],
    paths: Mapping[nn.Module, Iterable[str]],
    numbers: Mapping[nn.Module, int],
) -> dict[int, str]:
    """The side of an encoder-decoder that the modules below some paths are on."""
    sides = {}
    for module, ways in paths.items():
        if module not in numbers:
            continue
        found = {
            _side(model, top, way)
            for top in tops
            for way in ways
            if way != top and way.startswith(f"{top}." if top else "")
        }
        if len(found) == 1 and (side := found.pop()) is not None:
            sides[numbers[module]] = side
    return sides


def _side(model: nn.Module, top: str, way: str) -> str | None:
    """The side by the first decoder beside an encoder, or the reverse, on the way to a module."""
    parts = way.split(".")
    for depth in range(len(top.split(".")) if top else 0, len(parts)):
        beside = dict(model.get_submodule(".".join(parts[:depth])).named_children())
        if "decoder" in parts[depth] and any("encoder" in name for name in beside):
            return DECODER
        if "encoder" in parts[depth] and any("decoder" in name for name in beside):
            return ""
    return None


def parameters_of(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward by name; none if its signature is unreadable."""
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}


def _kinds(parameters: Mapping[str, inspect.Parameter]) -> list[Any]:
    return [each.kind for each in parameters.values()]


def _rest_of(parameters: Mapping[str, inspect.Parameter]) -> int | None:
    """Which parameter takes all further positional arguments."""
    kinds, rest = _kinds(parameters), inspect.Parameter.VAR_POSITIONAL
    return kinds.index(rest) if rest in kinds else None


def _takes_any_name(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether arguments are taken by any name; not if positional ones are handed on, too."""
    kinds = _kinds(parameters)
    return inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds


def _hands_on(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a forward takes any arguments, as that of DDP, and names none of them."""
    return _kinds(parameters) == [
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]


def _named(model: nn.Module, layer: str | nn.Module) -> list[nn.Module]:
    if isinstance(layer, nn.Module):
        return [layer]
    modules = dict(model.named_modules(remove_duplicate=False))
    found = match_layers(layer, [*modules], embeddings=_candidates(model))
    return [modules[name] for name in found]


def _input_embedding(model: Any) -> nn.Module:
    found = _told_embedding(model)
    if found is not None:
        return found
    tables = {id(_table(module)): module for _, module in reversed(list(_lookups(model)))}
    if len(tables) == 1:
        return next(iter(tables.values()))
    bags = [name for name, each in model.named_modules() if isinstance(each, nn.EmbeddingBag)]
    if bags and not tables:
        raise ValueError(
            f"model must have an embedding with an output for each token, got only {bags}, "
            "EmbeddingBag, which is not supported: its output is a sum over tokens. Look tokens up "
            "in an nn.Embedding, and take the sum after it"
        )
    if not tables:
        stage = ". In a pipeline, attach to the stage that has the embedding" if world() > 1 else ""
        raise ValueError(
            "found no nn.Embedding and no get_input_embeddings() that returns one; pass layer=, "
            f"the module that returns the embeddings of the tokens, or its name{stage}"
        )
    raise ValueError(
        f"found {len(tables)} embeddings and no get_input_embeddings() that returns one; pass "
        f"layer=, one of them or a list. Candidates: {_candidates(model)}"
    )


def _told_embedding(model: Any) -> nn.Module | None:
    """What ``get_input_embeddings()`` returns; ``None`` if there is no such thing."""
    if not hasattr(model, "get_input_embeddings"):
        return None
    try:
        found = model.get_input_embeddings()
    except NotImplementedError:  # a model of transformers that has none, or several
        return None
    # In a later stage of a pipeline, transformers puts an identity in the embedding's place.
    return found if isinstance(found, nn.Module) and not isinstance(found, nn.Identity) else None


def _decoder_embedding(model: Any) -> nn.Module | None:
    """The embedding of an encoder-decoder's decoder, which may be the one of its encoder."""
    decoder = model
    while hasattr(decoder, "get_decoder"):
        inner = decoder.get_decoder()
        if inner is decoder or not isinstance(inner, nn.Module):
            break
        decoder = inner
    found = None
    if decoder is not model:
        try:
            found = decoder.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            found = getattr(decoder, "embed_tokens", None)
    if not isinstance(found, nn.Module) or isinstance(found, nn.Linear) or _table(found) is None:
        return None
    return found


def _lookups(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding))


def _candidates(model: nn.Module) -> str:
    found = [f"{name!r} {tuple(_table(module).shape)}" for name, module in _lookups(model)]  # type: ignore[union-attr]
    return ", ".join(found) or "none"


def _table(module: nn.Module) -> Tensor | None:
    if is_parametrized(module, "weight"):  # to compute it may draw random numbers
        originals: Any = module.parametrizations
        weight = next(originals["weight"].parameters())
    else:
        weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None
