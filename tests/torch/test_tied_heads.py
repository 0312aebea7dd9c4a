"""Output heads that share the table of the embedding get no noise, whatever their class is."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.models import Embedder, batch, llama

NOISE = neftune(20.0, seed=3)


class TiedHead(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.weight)


class Wrapped(nn.Module):
    """Such as a LoRA of one's own around a head."""

    def __init__(self, head):
        super().__init__()
        self.head, self.weight = head, head.weight

    def forward(self, hidden):
        return self.head(hidden)


class Tied(nn.Module):
    def __init__(self, wrap=TiedHead):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.head = wrap(self.embed.weight)

    def forward(self, input_ids, attention_mask=None):
        self.hidden = self.embed(input_ids)
        return self.head(self.hidden)


class Telling(Tied):
    def get_input_embeddings(self):
        return self.embed


def wrapped_linear(weight):
    head = nn.Linear(8, 50, bias=False)
    head.weight = weight
    return Wrapped(head)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (Tied, None),
        (Tied, "embed"),
        (Telling, None),
        (lambda: Tied(wrapped_linear), None),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_head_of_any_class(make, layer, compiled):
    model, ids = make(), batch()
    call = model
    if compiled:
        torch._dynamo.reset()
        call = torch.compile(model, backend="aot_eager", fullgraph=True)
    with attach(model, NOISE, layer=layer) as handle:
        logits = call(ids)
        assert handle.lookups == 1
    clean = nn.functional.embedding(ids, model.embed.weight)
    assert torch.equal(model.hidden, add_noise(clean, NOISE, step=0))
    assert torch.equal(logits, nn.functional.linear(model.hidden, model.embed.weight))


class Shared(nn.Module):
    """An embedding of a class of its own, which is the head as well."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        if not inner:
            self.table = nn.Parameter(torch.randn(50, 8))
        else:
            self.lookup = nn.Embedding(50, 8)
            self.table = self.lookup.weight

    def forward(self, x):
        if x.is_floating_point():
            return nn.functional.linear(x, self.table)
        return self.lookup(x) if self.inner else nn.functional.embedding(x, self.table)


@pytest.mark.parametrize("layer", [None, "embed"])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
def test_an_embedding_of_any_class_that_is_the_head_as_well(layer, inner, compiled):
    class Both(Telling):
        def __init__(self):
            nn.Module.__init__(self)
            self.embed = Shared(inner)

        def forward(self, input_ids):
            self.hidden = self.embed(input_ids)
            return self.embed(self.hidden)

    model, ids = Both(), batch()
    torch.compiler.reset()
    call = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    with attach(model, NOISE, layer=layer) as handle:
        for step in range(2):
            logits = call(ids)
            assert handle.lookups == step + 1
            assert torch.equal(logits, nn.functional.linear(model.hidden, model.embed.table))
            clean = nn.functional.embedding(ids, model.embed.table)
            samples = torch.arange(2) + 2 * step
            assert torch.equal(model.hidden, add_noise(clean, NOISE, step=0, sample_ids=samples))


def test_a_head_that_sees_pooled_states():
    class Pooled(Tied):
        def forward(self, input_ids, attention_mask=None):
            return self.head(self.embed(input_ids).mean(1))

    model = Pooled()
    with attach(model, NOISE) as handle:
        assert model(batch()).shape == (2, 50)
        assert handle.lookups == 1


def test_a_module_that_shares_the_table_and_looks_up_gets_noise():
    class Lookup(TiedHead):
        def forward(self, ids):
            return nn.functional.embedding(ids, self.weight)

    class Both(Tied):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(input_ids), self.head(input_ids)

    model, ids = Both(Lookup), batch()
    with attach(model, NOISE) as handle:
        first, second = model(ids)
        assert list(handle.state_dict()) == ["embed", "head"]
        assert handle.lookups == 2
    clean = nn.functional.embedding(ids, model.embed.weight)
    assert torch.equal(first, add_noise(clean, NOISE, step=0))
    assert not torch.equal(second, clean)
    assert not torch.equal(second, first)


def test_a_head_that_layer_names_gets_noise():
    model, ids = Tied(), batch()
    with attach(model, NOISE, layer=["embed", "head"]) as handle:
        logits = model(ids)
        assert handle.lookups == 2
    assert not torch.equal(logits, nn.functional.linear(model.hidden, model.embed.weight))


class Comparing(Embedder):
    """Finds placeholders among embeddings, as multimodal models of transformers do."""

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        return x, self.embed(torch.tensor(7, device=input_ids.device))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_single_id_is_no_sequence(compiled):
    model, ids = Comparing(), batch()
    call = model
    if compiled:
        torch._dynamo.reset()
        call = torch.compile(model, backend="aot_eager", fullgraph=True)
    with attach(model, NOISE) as handle:
        noisy, single = call(ids)
        assert handle.lookups == 1
    clean = nn.functional.embedding(ids, model.embed.weight)
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0))
    assert torch.equal(single, model.embed.weight[7])


def test_a_multimodal_model_that_is_called_with_embeddings_and_an_image():
    from tests.torch.test_enclosing_calls import llava  # noqa: PLC0415, transformers may be missing

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = llava()

        def get_input_embeddings(self):
            return self.model.get_input_embeddings()

        def forward(self, input_ids, pixel_values):
            x = self.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=x, pixel_values=pixel_values).logits

    model, ids = Outer(), batch()
    ids[:, 2:6] = 59
    with attach(model, NOISE) as handle:
        model(ids, torch.randn(2, 3, 8, 8)).sum().backward()
        assert handle.lookups == 1


def test_a_head_of_transformers_is_left_alone():
    model, ids = llama(tie_word_embeddings=True), batch()
    model.lm_head = Wrapped(model.lm_head)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with attach(model, NOISE):
        logits = model(input_ids=ids).logits
    assert torch.equal(logits, nn.functional.linear(seen[0], model.model.embed_tokens.weight))
