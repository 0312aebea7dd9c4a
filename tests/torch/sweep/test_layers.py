"""Noise on the layers of every model type: on the tokens of the batch, or an error that asks.

No layer may get noise on padding in silence. What a layer sees is compared with what it was called
with; hidden states that are of no side of the call, such as patches of an image, are left out.
"""

import functools
import warnings
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from embnoise import Noise
from embnoise_torch import attach
from tests.torch.sweep import expectations
from tests.torch.sweep.calls import call_of
from tests.torch.sweep.lookups import first_of
from tests.torch.sweep.test_models import arguments_of, built, over

NOISE = Noise(0.1, scale="absolute")

WITHOUT_GRADIENTS = {
    "reformer": "its layers are reversible",
    "hrm_text": "it begins with cycles without gradients",
}
"""Types that run layers without gradients, where there is no noise."""


ASKS = ("layer must", "x must", "attention_mask must", "tokens must")
"""How the errors begin that say what is missing."""


def stacks(model):
    """The outermost lists of layers in a model that are called."""
    found = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        simple = nn.ModuleList, nn.Embedding, nn.Linear, nn.LayerNorm
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            if any(isinstance(each, simple) for each in module):
                continue
            if all(type(each).forward is not nn.Module.forward for each in module):
                found.append(name)
    return found


def given(args, kwargs):
    return first_of(args) if args else next(iter(kwargs.values()), None)


def watch(module, seen, undo):
    """Note in ``seen`` what a layer is called with, and what it then sees."""
    called = []

    def before(_module, args, kwargs):
        x = given(args, kwargs)
        called.append(x.detach().clone() if isinstance(x, Tensor) else None)

    original = module.forward

    @functools.wraps(original)
    def forward(*args, **kwargs):
        seen.append((called[-1], given(args, kwargs)))
        return original(*args, **kwargs)

    undo.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    module.forward = forward
    undo.callback(vars(module).pop, "forward")


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@over(expectations.TYPES)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_layers_get_noise_on_the_tokens_of_the_batch(model_type, padding):
    if model_type in WITHOUT_GRADIENTS:
        pytest.skip(WITHOUT_GRADIENTS[model_type])
    model = built(model_type)
    call, sides = call_of(model, padding)
    masks = [side.tokens["mask"].bool() for side in sides.values() if "mask" in side.tokens]
    arguments = {**arguments_of(model_type, model), "at": "input"}
    for name in stacks(model):
        seen = []
        with ExitStack() as undo, torch.random.fork_rng():
            for module in model.get_submodule(name):
                watch(module, seen, undo)
            try:
                with attach(model, NOISE, **{**arguments, "layer": f"{name}.*"}):
                    model(**call)
            except (TypeError, ValueError) as error:
                asked = str(error)
                assert asked.startswith(ASKS), asked
                continue
        for x, noisy in seen:
            fitting = [mask for mask in masks if x is not None and mask.shape == x.shape[:2]]
            if fitting:
                got = (noisy.detach() - x).abs().amax(-1) > 0
                assert any(torch.equal(got, mask) for mask in fitting), name
