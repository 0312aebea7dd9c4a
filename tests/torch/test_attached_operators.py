"""``opcheck`` of the operators that an attached model calls, with the arguments of its calls."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import attach
from embnoise_torch.kernels import register_kernel
from embnoise_torch.kernels.any_torch import TorchKernel
from embnoise_torch.transformed_calls import CustomOperators
from tests.torch.models import Embedder, batch

pytestmark = pytest.mark.usefixtures("registry_as_it_was")

COUNTED = ("test_schema", "test_autograd_registration", "test_faketensor")
"""What can be tested of operators that draw new noise in every call."""

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def called(model, ids):
    """The custom operators of a call, and their arguments."""
    with CustomOperators() as operators:
        model(ids, attention_mask=MASK)
    return operators.calls


def called_if_compiled(model, ids):
    calls = []

    def backend(graph, inputs):
        def forward(*given):
            with CustomOperators() as operators:
                output = graph.forward(*given)
            calls.extend(operators.calls)
            return output

        return forward

    torch.compile(model, backend=backend)(ids, attention_mask=MASK)
    torch._dynamo.reset()
    return calls


def pretend(device):
    """Let the CPU get its noise as another device does."""
    if device == "other":
        register_kernel("cpu", "other", TorchKernel, priority=99)
    elif device == "gpu":
        pytest.importorskip("triton")
        from tests.torch.triton_code import interpreted_kernel  # noqa: PLC0415

        register_kernel("cpu", "interpreted", interpreted_kernel, priority=99)


@pytest.mark.parametrize(
    ("device", "names", "counted"),
    [
        ("cpu", ["apply_"], True),
        pytest.param("cpu", ["apply_"], False, marks=pytest.mark.sweep),
        pytest.param("other", ["plan"], True, marks=pytest.mark.sweep),
        ("gpu", ["plan", "lookup"], False),
    ],
)
def test_a_compiled_model(device, names, counted):
    pretend(device)
    check(called_if_compiled, names, counted=counted)


@pytest.mark.parametrize(("names", "counted"), [(["noisy"], False), (["resolve", "noisy"], True)])
def test_a_model_under_a_transformation(names, counted):
    check(called, names, counted=counted)


def check(calls_of, names, *, counted):
    """Sample ids fix the noise, so that more can be tested; without them, the call tells a mask."""
    tokens = None if counted else fixed
    options = {"test_utils": COUNTED} if counted else {}
    model = Embedder()
    with attach(model, neftune(), tokens=tokens):
        calls = calls_of(model, batch(2, 3))
        assert [operator.name() for operator, *_ in calls] == [f"embnoise::{n}" for n in names]
        for operator, args, kwargs in calls:
            torch.library.opcheck(operator, args, kwargs, **options)


def fixed(ids):
    return {"mask": ids != 0, "sample_ids": torch.arange(2)}
