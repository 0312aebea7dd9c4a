"""``cu_seqlens`` as it is padded, and as it may not be; and known names with lists and arrays."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.kernels import register_kernel
from tests.frameworks import installed
from tests.torch.models import Embedder, batch, zeroed
from tests.torch.test_call import lengths

IDS = batch(1, 12)
ENDS = [0, 5, 12]
PACKED = [[5] * 5 + [7] * 7]


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor([0, 5, 12, -1, -1]),
        torch.tensor([0, 5, 12, 12, 12]),
        torch.tensor([[0, 5, 12]], dtype=torch.int32),
        [0, 5, 12],
        [[0, 5, 12]],
        np.array([0, 5, 12], dtype=np.int32),
    ],
    ids=["negative", "repeated", "[1, n + 1]", "list", "nested list", "NumPy"],
)
def test_where_documents_begin_and_end(given):
    assert lengths(IDS, cu_seqlens=given) == PACKED


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor([5, 12]),
        [5, 7],
        torch.tensor([0, 5, 13]),
        [0, 7, 5, 12],
        [0, 5, -1, 12],
        [-1, -1],
        [0.0, 5.0, 12.0],
        [True, False],
        [[0, 5], [0, 7]],
        [[0], [5, 12]],
        [],
        "0, 5, 12",
    ],
    ids=str,
)
def test_what_is_not_where_documents_begin_and_end(given):
    with pytest.raises(ValueError, match=r"start at 0, .* end at 12, .*lengths\.cumsum"):
        lengths(IDS, cu_seqlens=given)


def test_compiled_calls_read_and_check_the_same():
    torch.compiler.reset()
    model, noise = zeroed(), neftune()
    call = torch.compile(model, backend="aot_eager", fullgraph=True)
    segments = torch.tensor([[1] * 5 + [2] * 7])
    with attach(model, noise):
        for sample, given in enumerate(
            [torch.tensor([0, 5, 12, -1]), [0, 5, 12], np.array([ENDS])]
        ):
            about = {"segment_ids": segments, "sample_ids": torch.tensor([sample])}
            expected = add_noise(torch.zeros(1, 12, 8), noise, step=0, **about)
            assert torch.equal(call(IDS, cu_seqlens=given), expected)
        with pytest.raises(ValueError, match="start at 0"):
            call(IDS, cu_seqlens=torch.tensor([5, 12, 12, 12]))


@pytest.mark.skipif(not installed("triton"), reason="Triton is not installed")
@pytest.mark.usefixtures("registry_as_it_was")
@pytest.mark.parametrize("padding", [None, 0])
def test_what_a_gpu_does_not_check_is_nan(padding, monkeypatch):
    from tests.torch.triton_code import interpreted_kernel, rounding_as_gpus_do  # noqa: PLC0415

    monkeypatch.setattr("embnoise._tokens._known", lambda array: None)  # as those of a GPU
    register_kernel("cpu", "interpreted", interpreted_kernel, priority=99)
    model = Embedder()
    model.embed.padding_idx = padding
    with rounding_as_gpus_do(), attach(model, neftune()):
        assert not model(IDS, cu_seqlens=torch.tensor([0, 5, 12, -1])).isnan().any()
        for given in ([5, 12], [0, 5, 13], [0, 7, 5]):
            assert model(IDS, cu_seqlens=torch.tensor(given)).isnan().all()


class Prompted(Embedder):
    """It looks up two tokens of its own in front of the others."""

    def forward(self, input_ids, attention_mask=None, cu_seqlens=None):
        return self.embed(torch.cat([torch.tensor([[40, 41]]), input_ids], dim=1))


@pytest.mark.skipif(not installed("triton"), reason="Triton is not installed")
@pytest.mark.usefixtures("registry_as_it_was")
@pytest.mark.parametrize("way", ["mask", "placeholders", "prompt", "relative"])
def test_what_a_gpu_does_not_check_is_nan_whatever_else_is_known(way, monkeypatch):
    from tests.torch.triton_code import interpreted_kernel, rounding_as_gpus_do  # noqa: PLC0415

    monkeypatch.setattr("embnoise._tokens._known", lambda array: None)  # as those of a GPU
    register_kernel("cpu", "interpreted", interpreted_kernel, priority=99)
    model = Prompted() if way == "prompt" else Embedder()
    entries = {"image_token_id": int(IDS[0, 3])} if way == "placeholders" else {}
    model.config = SimpleNamespace(**entries, to_dict=lambda: entries)
    noise = Noise(0.1, scale="relative") if way == "relative" else neftune()
    more = {"attention_mask": torch.ones_like(IDS)} if way == "mask" else {}
    with rounding_as_gpus_do(), attach(model, noise):
        assert not model(IDS, cu_seqlens=torch.tensor([0, 5, 12]), **more).isnan().any()
        for given in ([5, 12], [0, 5, 13], [0, 7, 5]):
            seen = model(IDS, cu_seqlens=torch.tensor(given), **more)
            assert seen.isnan().all()


ROWS = {
    "attention_mask": [[1, 1, 1, 0, 0, 0]],
    "seq_idx": [[0, 0, 0, -1, -1, -1]],
    "position_ids": [[0, 1, 2, 0, 1, 2]],
}


@pytest.mark.parametrize("name", ROWS)
def test_lists_and_arrays_under_known_names(name):
    ids, rows = batch(1, 6), ROWS[name]
    expected = lengths(ids, **{name: torch.tensor(rows)})
    assert expected != [[6] * 6]
    for given in (rows, tuple(map(tuple, rows)), np.array(rows), np.array(rows)[:, ::-1][:, ::-1]):
        assert lengths(ids, **{name: given}) == expected
    ragged = [[0, 1, 2], [0, 1]]
    with pytest.raises(ValueError, match=f"{name} must be of shape"):
        lengths(ids, **{name: ragged})


def test_the_ids_of_a_list_are_compared_with_the_lookup():
    class FromLists(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(torch.tensor(input_ids))

    model, mask = zeroed(FromLists()), torch.tensor([[1, 1, 1, 0]] * 2)
    with attach(model, neftune()):
        noisy = model(batch(2, 4).tolist(), mask.tolist())
    expected = add_noise(torch.zeros(2, 4, 8), neftune(), step=0, mask=mask)
    assert torch.equal(noisy, expected)
