"""``torch.vmap``: which noise each mapped sample gets."""

import types

import pytest
import torch
from torch.func import grad, jacfwd, vmap

from embnoise import Noise, linear, neftune, symnoise
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import Embedder, batch, zeroed

# PyTorch's own forward-mode differentiation.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

N, B, L, D = 4, 2, 3, 8
X = torch.randn(N, B, L, D, generator=torch.Generator().manual_seed(0))
ARRAYS = {
    "mask": torch.randint(2, (N, B, L)),
    "segment_ids": torch.randint(3, (N, B, L)),
    "positions": torch.randint(9, (N, B, L)),
    "sample_ids": torch.randint(99, (N, B, L)),
    "where": torch.randint(2, (N, B, L)) == 1,
}
ROWS = torch.randint(99, (N, B))
NOISES = [neftune(), symnoise(), Noise(0.1, "gaussian", "relative"), neftune(linear(8.0, 1.0, 9))]


def noisy(x, noise=NOISES[0], **arguments):
    return add_noise(x, noise, **{"step": 3, **arguments})


def loop(function, *mapped):
    return torch.stack([function(*each) for each in zip(*mapped, strict=True)])


@pytest.mark.parametrize("noise", NOISES, ids=repr)
@pytest.mark.parametrize("given", [(), *((name,) for name in ARRAYS), tuple(ARRAYS)])
def test_add_noise_gives_what_a_loop_gives(noise, given):
    """Also for embeddings or token arrays that are not mapped, and wherever N is."""
    arrays = [ARRAYS[name] for name in given]

    def function(x, *arrays):
        return noisy(x, noise, **dict(zip(given, arrays, strict=True)))

    expected = loop(function, X, *arrays)
    assert torch.equal(vmap(function)(X, *arrays), expected)
    last = [array.movedim(0, -1) for array in (X, *arrays)]
    assert torch.equal(vmap(function, in_dims=-1, out_dims=1)(*last), expected.movedim(0, 1))
    same = [array[0] for array in arrays]
    assert torch.equal(vmap(lambda x: function(x, *same))(X), loop(lambda x: function(x, *same), X))
    if given:
        alone = vmap(lambda *arrays: function(X[0], *arrays))(*arrays)
        assert torch.equal(alone, loop(lambda *arrays: function(X[0], *arrays), *arrays))


def test_sample_ids_by_row():
    expected = loop(lambda x, ids: noisy(x, sample_ids=ids), X, ROWS)
    assert torch.equal(vmap(lambda x, ids: noisy(x, sample_ids=ids))(X, ROWS), expected)


@pytest.mark.parametrize("length", [1, L])
def test_a_sample_without_a_batch(length):
    """[L, d] is a batch of one, so that sample ids are [1] or [L]."""
    x = X[:, 0, :length]
    for sample_ids in (ROWS[:, :1], ARRAYS["sample_ids"][:, 0, :length]):
        for mask in (ARRAYS["mask"][:, 0, :length], ARRAYS["mask"][:, :1, :length]):

            def function(x, sample_ids, mask):
                return noisy(x, sample_ids=sample_ids, mask=mask)

            expected = loop(function, x, sample_ids, mask)
            assert torch.equal(vmap(function)(x, sample_ids, mask), expected)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_steps_may_be_mapped(noise):
    steps = torch.tensor([0, 5, 5, 7])
    expected = loop(lambda x, step: noisy(x, noise, step=step), X, steps)
    assert torch.equal(vmap(lambda x, step: noisy(x, noise, step=step))(X, steps), expected)
    alone = vmap(lambda step: noisy(X[0], noise, step=step))(steps)
    assert torch.equal(alone, loop(lambda step: noisy(X[0], noise, step=step), steps))
    layer = EmbeddingNoise(noise)
    assert torch.equal(vmap(lambda x, step: layer(x, step=step))(X, steps), expected)
    assert layer.step == 0


def test_nested_and_mixed_with_derivatives():
    x = torch.stack([X, -X])
    ids = torch.arange(N)

    def function(x, sample):
        return noisy(x, sample_ids=torch.stack([sample, sample + 1]))

    expected = torch.stack([loop(function, each, ids) for each in x])
    assert torch.equal(vmap(vmap(function), in_dims=(0, None))(x, ids), expected)
    gradient = grad(lambda x, sample: function(x, sample).square().sum())
    assert torch.equal(vmap(vmap(gradient), in_dims=(0, None))(x, ids), 2 * expected)


def test_chunks():
    assert torch.equal(vmap(noisy, chunk_size=3)(X), loop(noisy, X))


def sizes(call, randomness, x=X):
    """What a counting layer adds under ``vmap``, and the layer."""
    layer = EmbeddingNoise(neftune())
    return vmap(lambda x: call(layer, x), randomness=randomness)(x), layer


def test_a_counting_layer_with_different_noise_for_each_sample():
    """That is the noise which the samples have as rows of one batch."""
    found, layer = sizes(lambda layer, x: layer(x), "different")
    assert torch.equal(found, noisy(X.view(N * B, L, D), step=0).view(X.shape))
    assert layer.state_dict()["_extra_state"].tolist() == [1, 0, 0, 1]


def test_a_counting_layer_with_the_same_noise_for_each_sample():
    found, layer = sizes(lambda layer, x: layer(x), "same")
    assert torch.equal(found, loop(lambda x: noisy(x, step=0), X))
    assert layer.step == 1


def test_a_counting_layer_says_what_to_choose():
    with pytest.raises(RuntimeError, match="Pass randomness='different' to vmap"):
        sizes(lambda layer, x: layer(x), "error")


def test_randomness_of_nested_maps():
    layer = EmbeddingNoise(neftune())
    x = torch.zeros(2, N, B, L, D)
    inner_same = vmap(vmap(layer, randomness="same"), randomness="different")(x)
    rows = noisy(torch.zeros(2 * B, L, D), step=0).view(2, 1, B, L, D)
    assert torch.equal(inner_same, rows.expand(x.shape))
    outer_same = vmap(vmap(layer, randomness="different"), randomness="same")(x)
    rows = noisy(torch.zeros(N * B, L, D), step=1).view(1, N, B, L, D)
    assert torch.equal(outer_same, rows.expand(x.shape))


def test_embeddings_that_are_not_mapped_get_one_draw():
    layer = EmbeddingNoise(neftune())
    found = vmap(lambda factor: layer(X[0]) * factor)(torch.ones(N))
    assert torch.equal(found, noisy(X[0], step=0).expand(X.shape))
    jacobian = jacfwd(layer)(X[0])
    assert torch.equal(jacobian.view(B * L * D, -1), torch.eye(B * L * D))
    assert layer.step == 2


def per_sample(model, ids, **options):
    """Per-sample gradients, as in the tutorial of PyTorch."""

    def loss(parameters, ids, mask):
        call = (ids[None],), {"attention_mask": mask[None]}
        return torch.func.functional_call(model, parameters, *call).square().sum()

    parameters = {name: each.detach() for name, each in model.named_parameters()}
    mask = (torch.arange(ids.shape[1]) < torch.tensor([[5], [8], [3]])).long()
    mapped = vmap(grad(loss), in_dims=(None, 0, 0), **options)(parameters, ids, mask)
    return mapped["embed.weight"], mask


def test_per_sample_gradients_of_an_attached_model():
    """Each sample's gradient is that of the batch, taken apart."""
    model, ids = zeroed(Embedder()), batch(3, 8)
    with attach(model, neftune(), optimizer="manual") as handle:
        found, mask = per_sample(model, ids, randomness="different")
        assert handle.state_dict()["embed"] == {"step": 0, "calls": 1, "samples": 3, "lookups": 1}
        handle.step = 1
        handle.step = 0
        output = model(ids, attention_mask=mask)
    for row in range(3):
        total = output[row].square().sum()
        (expected,) = torch.autograd.grad(total, model.embed.weight, retain_graph=True)
        assert torch.allclose(found[row], expected, rtol=1e-6, atol=0)
    assert found.any()


def test_per_sample_gradients_say_what_to_choose():
    model = Embedder()
    with attach(model, neftune()), pytest.raises(RuntimeError, match="randomness='different'"):
        per_sample(model, batch(3, 8))


SEGMENTS = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2], [1] * 8, [1, 2, 2, 3, 3, 3, 3, 3]])
PACKED = {
    "attention_mask": SEGMENTS,
    "seq_idx": SEGMENTS - 1,
    "position_ids": torch.tensor([[*range(5), *range(3)], [*range(8)], [0, 0, 1, *range(5)]]),
    "cu_seq_lens_q": torch.tensor([[0, 5, 8, 8], [0, 8, 8, 8], [0, 1, 3, 8]]),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("in_dim", [0, -1])
def test_packed_documents_of_mapped_samples(name, in_dim):
    model, ids = zeroed(Embedder()), batch(3, 8)

    def sample(ids, packed):
        packed = packed if name == "cu_seq_lens_q" else packed[None]
        return model(ids[None], **{name: packed})[0]

    with attach(model, neftune()):
        mapped = vmap(sample, in_dims=(0, in_dim), randomness="different")
        found = mapped(ids, PACKED[name].movedim(0, in_dim))
    assert torch.equal(
        found, add_noise(torch.zeros(3, 8, 8), neftune(), step=0, segment_ids=SEGMENTS)
    )


def test_packed_documents_that_are_not_mapped():
    model, ids = zeroed(Embedder()), batch(3, 8)
    positions = PACKED["position_ids"][:1]
    with attach(model, neftune()):
        mapped = vmap(
            lambda ids: model(ids[None], position_ids=positions)[0], randomness="different"
        )
        found = mapped(ids)
    segments = SEGMENTS[:1].expand(3, -1)
    assert torch.equal(
        found, add_noise(torch.zeros(3, 8, 8), neftune(), step=0, segment_ids=segments)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_placeholders_of_mapped_samples(packed):
    model, ids = zeroed(Embedder()), batch(3, 8)
    ids[0, 3:6] = ids[1, :2] = 40
    model.config = types.SimpleNamespace(image_token_id=40)

    def sample(ids, positions):
        return model(ids[None], **({"position_ids": positions[None]} if packed else {}))[0]

    with attach(model, neftune()):
        found = vmap(sample, randomness="different")(ids, PACKED["position_ids"])
    about = {"segment_ids": SEGMENTS} if packed else {}
    expected = add_noise(torch.zeros(3, 8, 8), neftune(), step=0, mask=ids != 40, **about)
    assert torch.equal(found, expected)


def test_what_cannot_be_read_under_vmap_is_refused():
    model, ids = Embedder(), batch(3, 8)
    mask = torch.zeros(3, 8)
    with (
        attach(model, neftune()),
        pytest.raises(TypeError, match="attention_mask must be of a bool"),
    ):
        vmap(lambda ids, mask: model(ids[None], mask[None]), randomness="different")(ids, mask)
