"""The private parts of PyTorch that the adapter relies on are still what they were.

If one of these tests fails after an upgrade, change ``embnoise_torch/_compat.py``.
"""

import copyreg
import sys

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from embnoise_torch import _compat

CHANGED = "PyTorch changed a private part: see embnoise_torch/_compat.py, "


def test_in_backward():
    seen = []

    def body(x):
        seen.append(_compat.in_backward())
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    checkpoint(body, x, use_reentrant=False).sum().backward()
    assert seen == [False, True], CHANGED + "in_backward"


def test_compiled_inner():
    module = nn.Linear(2, 2)
    compiled = torch.compile(module, backend="eager")
    assert _compat.compiled_inner(compiled) is module, CHANGED + "compiled_inner"
    assert _compat.compiled_inner(module) is None


def test_forward_hooks():
    def hook(*_):
        return None

    module = nn.Linear(2, 2)
    assert not list(_compat.forward_hooks(module))
    module.register_forward_hook(hook)
    assert list(_compat.forward_hooks(module)) == [hook], CHANGED + "forward_hooks"


def test_dynamo_is_loaded():

    assert "torch._dynamo" in sys.modules
    assert _compat.dynamo_is_loaded(), CHANGED + "dynamo_is_loaded"


def test_new_object():
    assert nn.Linear(2, 2).__reduce_ex__(2)[0] is _compat.new_object(), CHANGED + "new_object"
    assert _compat.new_object().__module__ == copyreg.__name__


def test_the_hook_of_transformers_has_its_name():
    from transformers.integrations.neftune import neftune_post_forward_hook  # noqa: PLC0415

    name = neftune_post_forward_hook.__name__
    assert name == "neftune_post_forward_hook", "attach() recognizes the hook by its name"
