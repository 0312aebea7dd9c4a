"""The check of one model: each lookup gets the noise of ``add_noise`` at the batch's masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.sweep.calls import Side
from tests.torch.sweep.lookups import Lookup, first_of, hooked, recording

NOISE = neftune(alpha=5.0, seed=3)


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a model's output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (Mapping, tuple, list)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(value)


def run(model: nn.Module, call: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a call, with the same dropout each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [value.detach().clone() for value in tensors(model(**call))]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether two outputs have the same bits, up to those of nan."""
    return len(ours) == len(theirs) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True)
    )


def noised(clean: Lookup, stream: str, number: int, tokens: Mapping[str, Tensor]) -> Tensor:
    """What a lookup returns with noise after ``number`` others of its stream."""
    x = clean.output.transpose(0, 1) if clean.transposed else clean.output
    sample_ids = torch.arange(len(x)) + number * len(x)
    noise = replace(NOISE, stream=stream)
    noisy = add_noise(x, noise, step=0, sample_ids=sample_ids, **tokens)
    return noisy.transpose(0, 1) if clean.transposed else noisy


def coordinates(model: nn.Module, lookup: Lookup) -> list[tuple[str, int]]:
    """The streams that a lookup may take, and how many others of a stream came before it."""
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if module is lookup.module
    ]
    return list(product(["", *(f"/{name}" for name in names)], (0, 1)))


def explain(clean: Lookup, noisy: Tensor, where: list[tuple[str, int]]) -> str:
    """What is wrong with a lookup."""
    if torch.equal(noisy, clean.output):
        return "no noise"
    if any(torch.equal(noisy, noised(clean, *place, {})) for place in where):
        return "L is the row's width, and padding gets noise"
    size = (noisy - clean.output).abs().amax(-1)
    return f"other noise, whose largest is {(size.T if clean.transposed else size).tolist()}"


def check(model: nn.Module, call: dict[str, Any], sides: dict[str, Side], **arguments: Any) -> None:
    """Raise an AssertionError that says which lookup got what instead of its noise.

    Args:
        model: A model in training mode.
        call: The arguments of its call.
        sides: What the call has to look up.
        **arguments: Those of ``attach`` besides the model and the noise.
    """
    with recording(model, sides) as clean:
        run(model, call)
    unseen = set(sides) - {lookup.side for lookup in clean}
    assert not unseen, f"no module looks {unseen} up"
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    before = run(model.eval(), call)
    with attach(model, NOISE, **arguments) as handle:
        assert same(run(model, call), before), "noise in evaluation mode"
        assert handle.lookups == 0
        with recording(model.train(), sides) as noisy:
            outputs = run(model, call)
        lookups = handle.lookups
    check_lookups(model, clean, noisy)
    assert lookups == len(clean), f"{lookups} lookups got noise, not {len(clean)}"
    check_outputs(model, call, noisy, outputs)
    assert [type(module) for module in model.modules()] == kinds
    model.load_state_dict(state)  # some have statistics that training moves
    assert same(run(model.eval(), call), before), "not clean after remove()"


def check_lookups(model: nn.Module, clean: list[Lookup], noisy: list[Lookup]) -> None:
    """Every lookup has the noise of coordinates of its own."""
    assert [lookup.name for lookup in noisy] == [lookup.name for lookup in clean]
    faults: list[str] = []
    taken: set[tuple[str, int]] = set()
    for one, other in zip(clean, noisy, strict=True):
        where = [place for place in coordinates(model, one) if place not in taken]
        for place in where:
            if torch.equal(other.output, noised(one, *place, one.tokens)):
                taken.add(place)
                break
        else:
            faults.append(f"{one.name} ({one.side}): {explain(one, other.output, where)}")
    assert not faults, "; ".join(faults)


def check_outputs(
    model: nn.Module, call: dict[str, Any], noisy: list[Lookup], outputs: list[Tensor]
) -> None:
    """The outputs are those of a model without noise whose lookups return the noisy ones."""
    lookups = [lookup.output for lookup in noisy]

    def replaced(_name: str, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        if not lookups or first_of(output).shape != lookups[0].shape:
            return output  # some look padding up by itself
        noisy = lookups.pop(0)
        return (noisy, *output[1:]) if isinstance(output, tuple) else noisy

    with hooked({lookup.name: lookup.module for lookup in noisy}, replaced):
        reference = run(model, call)
    assert same(reference, outputs), "the model does more than look noisy tokens up"
