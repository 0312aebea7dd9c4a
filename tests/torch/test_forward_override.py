"""An override stays on its instance, survives what others do to the module, and leaves no trace."""

import copy
import inspect
import pickle
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, llama, zeroed

NOISE = neftune(20.0, seed=3)
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])


def expected(**arguments):
    return add_noise(torch.zeros(2, 8, 8), NOISE, step=0, **arguments)


def test_an_attached_module_keeps_its_exact_type():
    model = llama()
    classes = [type(module) for module in model.modules()]
    with attach(model, NOISE):
        assert type(model.model.embed_tokens) is nn.Embedding
        assert [type(module) for module in model.modules()] == classes


def test_the_signature_of_the_forward_stays():
    """The Trainer reads it to select columns."""
    model = llama()
    before = inspect.signature(model.forward)
    embedder = Embedder()
    embedder.forward = lambda input_ids, attention_mask=None: embedder.embed(input_ids)
    own = inspect.signature(embedder.forward)
    with attach(model, NOISE), attach(embedder, NOISE):
        assert inspect.signature(model.forward) == before
        assert list(inspect.signature(embedder.forward).parameters) == list(own.parameters)


def test_a_class_that_is_swapped_while_attached():
    """``fully_shard`` derives a class from the module's and puts it in the place of that."""
    model, ids = zeroed(), batch()
    handle = attach(model, NOISE)
    for module in (model, model.embed):
        module.__class__ = type(f"FSDP{type(module).__name__}", (type(module),), {})
    assert torch.equal(model(ids, MASK), expected(mask=MASK))
    handle.remove()
    assert not model(ids, MASK).any()
    assert "forward" not in vars(model)
    with attach(model, NOISE):
        assert torch.equal(model(ids, MASK), expected(mask=MASK))


@pytest.mark.parametrize("first", [True, False])
def test_two_handles_that_listen_to_one_model(first):
    model = Embedder()
    model.other = nn.Embedding(50, 8)
    before = [set(vars(module)) for module in model.modules()]
    noises = {"embed": NOISE, "other": replace(NOISE, stream="other")}
    handles = [attach(model, noise, layer=name) for name, noise in noises.items()]
    for handle in handles if first else reversed(handles):
        handle.remove()
    assert [set(vars(module)) for module in model.modules()] == before


class Precision(Embedder):
    """Under accelerate's mixed precision; its mask is known from its own call alone."""


def prepared(model):
    from accelerate import Accelerator  # noqa: PLC0415
    from accelerate.state import AcceleratorState  # noqa: PLC0415

    AcceleratorState._reset_state()  # another test may have set another precision
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    return accelerator, accelerator.prepare_model(model)


@pytest.mark.parametrize("attached_first", [True, False])
@pytest.mark.parametrize("way", ["step", "optimizer", "nothing"])
def test_unwrapped_by_accelerate_in_the_middle_of_a_run(attached_first, way):
    pytest.importorskip("accelerate")
    model, ids = zeroed(Precision()), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"step": "manual", "optimizer": optimizer, "nothing": None}
    if attached_first:
        handle = attach(model, NOISE, optimizer=options[way])
        accelerator, wrapped = prepared(model)
    else:
        accelerator, wrapped = prepared(model)
        handle = attach(wrapped, NOISE, optimizer=options[way])
    assert torch.equal(wrapped(ids, attention_mask=MASK), expected(mask=MASK))
    unwrapped = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    if way == "step":
        handle.step = 1
    elif way == "optimizer":
        optimizer.step()
    else:
        with pytest.warns(RuntimeWarning, match="forward of a module was replaced after attach"):
            unwrapped(ids, attention_mask=MASK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noisy = unwrapped(ids, attention_mask=MASK)
    step = handle.step
    rows = torch.arange(2) + (4 if way == "nothing" else 0)
    clean = torch.zeros(2, 8, 8)
    assert torch.equal(noisy, add_noise(clean, NOISE, step=step, mask=MASK, sample_ids=rows))
    handle.remove()
    assert not unwrapped(ids, attention_mask=MASK).any()
    with attach(unwrapped, NOISE):
        assert torch.equal(unwrapped(ids, attention_mask=MASK), expected(mask=MASK))


@pytest.mark.parametrize(
    ("way", "recurse"),
    [("step", True), ("optimizer", True), ("step", False), ("nothing", False)],
)
def test_hooks_that_accelerate_removes_in_the_middle_of_a_run(way, recurse):
    hooks = pytest.importorskip("accelerate.hooks")
    model, ids = zeroed(), batch()
    for module in (model, model.embed):
        hooks.add_hook_to_module(module, hooks.ModelHook())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"step": "manual", "optimizer": optimizer, "nothing": None}
    with attach(model, NOISE, optimizer=options[way]) as handle:
        assert torch.equal(model(ids, MASK), expected(mask=MASK))
        hooks.remove_hook_from_module(model if recurse else model.embed, recurse=recurse)
        if way == "step":
            handle.step = 1
        elif way == "optimizer":
            optimizer.step()
        else:
            with pytest.warns(RuntimeWarning, match="put an earlier forward back after attach"):
                assert not model(ids, MASK).any()
        step, rows = handle.step, torch.arange(2) + (2 if way == "nothing" else 0)
        clean = torch.zeros(2, 8, 8)
        noisy = add_noise(clean, NOISE, step=step, mask=MASK, sample_ids=rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(model(ids, MASK), noisy)
    assert not model(ids, MASK).any()


def test_another_forward_around_the_noise_does_not_double_it():
    model, ids = zeroed(), batch()
    with attach(model, NOISE, optimizer="manual") as handle:
        ours = model.embed.forward
        model.embed.forward = lambda ids: 1.0 * ours(ids)
        handle.step = 1
        noisy = add_noise(torch.zeros(2, 8, 8), NOISE, step=1, mask=MASK)
        assert torch.equal(model(ids, MASK), noisy)


def test_copies_of_a_model_with_its_own_reduce_are_clean():
    class Own(Embedder):
        def __reduce_ex__(self, protocol):
            return super().__reduce_ex__(protocol)

        def __getstate__(self):
            return dict(self.__dict__)

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    model, ids = zeroed(Own()), batch()
    with attach(model, NOISE):
        for way in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):  # noqa: S301
            copied = way(model)
            assert not copied(ids).any()
            assert "forward" not in vars(copied)
            assert "__reduce_ex__" not in vars(copied)


class Unreadable(nn.Module):
    """Its signature cannot be read, with an exception of another kind."""

    def __init__(self, error):
        super().__init__()
        self.inner = zeroed()
        self.error = error

    @property
    def forward(self):
        raise self.error


def test_attach_is_atomic_when_a_parent_forward_cannot_be_read():
    model = Unreadable(RuntimeError("no forward here"))
    before = [set(vars(module)) for module in model.modules()]
    with pytest.raises(RuntimeError, match="no forward here"):
        attach(model, NOISE)
    assert [set(vars(module)) for module in model.modules()] == before
    assert not model.inner(batch()).any()
