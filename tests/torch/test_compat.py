"""The private parts of PyTorch that the adapter relies on are still what they were.

If one of these tests fails after an upgrade, change ``embnoise_torch/_compat.py``.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from embnoise_torch import _compat

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")

CHANGED = "PyTorch changed a private part: see embnoise_torch/_compat.py, "


def test_in_backward():
    seen = []

    def body(x):
        seen.append(_compat.in_backward())
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    checkpoint(body, x, use_reentrant=False).sum().backward()
    assert seen == [False, True], CHANGED + "in_backward"


def test_backward_pass():
    seen = []

    def body(x):
        seen.append(_compat.backward_pass())
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        checkpoint(body, x, use_reentrant=False).sum().backward()
    outside, first, again, second = seen
    assert outside == again == -1, CHANGED + "backward_pass"
    assert -1 < first != second > -1, CHANGED + "backward_pass"


def test_calling():
    class Outer:
        def run(self):
            return Inner().run()

    class Inner:
        def run(self):
            return list(_compat.calling((Outer, Inner))), list(_compat.calling(Outer))

    outer = Outer()
    both, one = outer.run()
    assert [type(each) for each in both] == [Inner, Outer], CHANGED + "calling"
    assert one == [outer]
    assert not list(_compat.calling(Outer))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, PyTorch may lack OpenMP")
def test_openmp_parallel():
    assert _compat.openmp_parallel() is not None, CHANGED + "openmp_parallel"


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


def test_constant_in_dynamo():
    """It leaves the mark that PyTorch's own decorator leaves."""
    ours, theirs = (lambda: 1), torch.compiler.assume_constant_result(lambda: 1)
    assert vars(_compat.constant_in_dynamo(ours)) == vars(theirs) != {}


def test_the_adapter_does_not_import_the_compiler():
    probe = "import sys, embnoise_torch; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_the_hook_of_transformers_has_its_name():
    from transformers.integrations.neftune import neftune_post_forward_hook  # noqa: PLC0415

    name = neftune_post_forward_hook.__name__
    assert name == "neftune_post_forward_hook", "attach() recognizes the hook by its name"


def test_what_tells_of_transformations():
    x, seen = torch.zeros(2), []

    def note(x):
        seen.append((_compat.is_transformed(x), _compat.in_functorch(), _compat.is_jit_tracing()))
        return x + 1

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    note(x)
    torch.func.vmap(note)(x)
    torch.jit.trace(note, (x,), check_trace=False)
    with Mode():
        note(x)
    expected = [(False,) * 3, (True, True, False), (True, False, True), (True, False, False)]
    assert seen == expected, CHANGED + "is_transformed"
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
    assert _compat.has_own_dispatch(fake), CHANGED + "has_own_dispatch"
    assert not _compat.has_own_dispatch(nn.Parameter(x))


def test_untraced():
    def sizes(x):
        with _compat.untraced():
            assert type(x.shape[0]) is int, CHANGED + "untraced"
        assert isinstance(x.shape[0], torch.Tensor)
        return x + 1

    torch.jit.trace(sizes, (torch.zeros(2),), check_trace=False)


def test_fabric_inner():
    lightning = pytest.importorskip("lightning")
    fabric, module = lightning.Fabric(accelerator="cpu", devices=1), nn.Linear(2, 2)
    assert _compat.fabric_inner(fabric.setup(module)) is module, CHANGED + "fabric_inner"
    assert _compat.fabric_inner(module) is None


def test_default_callbacks(tmp_path):
    """Every Trainer has them, before those that report."""
    transformers = pytest.importorskip("transformers")

    class Ours(transformers.TrainerCallback):
        pass

    callbacks = _compat.default_callbacks()
    callbacks.append(Ours())
    try:
        arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        trainer = transformers.Trainer(nn.Linear(2, 2), arguments)
        assert callbacks[-1] in trainer.callback_handler.callbacks, CHANGED + "default_callbacks"
    finally:
        callbacks.pop()


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_trl_runs(monkeypatch):
    pytest.importorskip("trl")
    from trl.cli import accelerate_launcher as launcher  # noqa: PLC0415, may be missing
    from trl.cli import main  # noqa: PLC0415

    seen = []
    before = launcher.launch_training_script
    monkeypatch.setattr(launcher, "launch_command", seen.append)
    with _compat.trl_runs("ours", ["--noise", "a"]):
        main(["sft", "--output_dir", "b", "--num_processes", "2", "--use_cpu", "--bf16", "false"])
    (launched,) = seen
    told = (launched.module, launched.training_script, launched.num_processes)
    assert told == (True, "ours", 2), CHANGED + "trl_runs"
    rest = ["--noise", "a", "sft", "--output_dir", "b", "--use_cpu", "--bf16", "false"]
    assert launched.training_script_args == rest
    assert launcher.launch_training_script is before
