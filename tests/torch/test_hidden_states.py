"""Noise on layers that are no embeddings: where it is added, and what is known of its tokens."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Stack, bart, batch, bert, gpt2, llama, t5, tiny

HYPE = Noise(0.01, scale="absolute")
"""Uniform noise of half-width 0.01 at the input of every layer."""

IDS = batch(rows=4)
MASK = torch.ones_like(IDS)
MASK[0, :3] = MASK[1, 5:] = 0


def hidden(args, kwargs):
    return (args[0] if args else kwargs["hidden_states"]).detach().clone()


def noised_inputs(model, noise, layer, call, **options):
    """What each layer was called with, and what it saw: a dict of lists of pairs of tensors."""
    with attach(model, noise, layer=layer, at="input") as handle:
        names = list(handle.state_dict())
    seen, undo = {name: [] for name in names}, []
    for name in names:
        module = model.get_submodule(name)
        given = []

        def before(_module, args, kwargs, given=given):
            given.append(hidden(args, kwargs))

        def forward(*args, _forward=module.forward, _seen=seen[name], _given=given, **kwargs):
            _seen.append((_given[-1], hidden(args, kwargs)))
            return _forward(*args, **kwargs)

        undo.append(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        module.forward = forward
        undo.append(lambda module=module: vars(module).pop("forward"))
    try:
        with attach(model, noise, layer=layer, at="input", **options):
            call(model)
    finally:
        for each in undo:
            each()
    return seen


def by_stream(noise, names):
    """The noise of each layer: all but the first have a stream of their own."""
    return {
        name: noise if number == 0 else replace(noise, stream=f"/{name}")
        for number, name in enumerate(names)
    }


class TestEveryLayer:
    """The rule of HyPe, in one line."""

    @pytest.mark.parametrize(
        ("make", "layer"),
        [
            (lambda: llama(num_hidden_layers=3, hidden_size=64), "model.layers.*"),
            (lambda: bert(num_hidden_layers=3, hidden_size=64), "bert.encoder.layer.*"),
        ],
        ids=["llama", "bert"],
    )
    def test_has_noise_of_its_own_of_the_size_that_is_asked_for(self, make, layer):
        model = make()
        seen = noised_inputs(
            model, HYPE, layer, lambda model: model(input_ids=IDS, attention_mask=MASK)
        )
        assert len(seen) == 3
        drawn = []
        for name, noise in by_stream(HYPE, seen).items():
            [(clean, noisy)] = seen[name]
            assert torch.equal(noisy, add_noise(clean, noise, step=0, mask=MASK))
            assert torch.equal(noisy[MASK == 0], clean[MASK == 0])
            drawn.append((noisy - clean)[MASK == 1].double())
            # Of n uniform values, RMS**2 has a relative standard deviation of sqrt(4 / 5 n).
            predicted, error = 0.01 / 3**0.5, (1 / drawn[-1].numel()) ** 0.5
            assert drawn[-1].square().mean().sqrt() == pytest.approx(predicted, rel=4 * error)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            correlation = torch.corrcoef(torch.stack([drawn[one].ravel(), drawn[other].ravel()]))
            assert abs(correlation[0, 1]) < 5 / drawn[0].numel() ** 0.5

    def test_has_the_same_noise_in_micro_batches(self):
        model, seen = llama(num_hidden_layers=2), []

        def in_parts(model):
            for part in range(2):
                rows = slice(2 * part, 2 * part + 2)
                model(input_ids=IDS[rows], attention_mask=MASK[rows])

        for call in (lambda model: model(input_ids=IDS, attention_mask=MASK), in_parts):
            inputs = noised_inputs(model, neftune(20.0), "model.layers.*", call)
            seen.append([torch.cat([noisy for _, noisy in each]) for each in inputs.values()])
        # Matrix products of other sizes may round otherwise.
        assert torch.equal(seen[0][0], seen[1][0])
        assert torch.allclose(seen[0][1], seen[1][1], atol=1e-6)

    def test_has_none_in_evaluation_and_in_generate(self):
        model = llama(num_hidden_layers=2)
        with torch.no_grad():
            clean = model.train()(input_ids=IDS).logits
        options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
        with attach(model, neftune(50.0), layer="model.layers.*", at="input") as handle:
            assert torch.equal(model.eval()(input_ids=IDS).logits, clean)
            with torch.no_grad():
                assert torch.equal(model.train()(input_ids=IDS).logits, clean)
            noisy = [model.generate(IDS, use_cache=cache, **options) for cache in (True, False)]
            assert handle.lookups == 0
            assert not torch.equal(model(input_ids=IDS).logits, clean)
        assert all(torch.equal(each, model.generate(IDS, **options)) for each in noisy)


class TestTokens:
    """They come from the calls around the layer, of which none has its masks as the model got."""

    @pytest.mark.parametrize(
        ("make", "layer"),
        [
            (llama, "model.layers.*"),
            (llama, "model.layers.*.mlp"),
            (gpt2, "transformer.h.*.mlp"),
            (bert, "bert.encoder.layer.*"),
        ],
    )
    @pytest.mark.parametrize("mask", [None, MASK], ids=["without a mask", "with a mask"])
    def test_of_a_model(self, make, layer, mask):
        call = {"input_ids": IDS} if mask is None else {"input_ids": IDS, "attention_mask": mask}
        seen = noised_inputs(make(), neftune(), layer, lambda model: model(**call))
        for name, noise in by_stream(neftune(), seen).items():
            [(clean, noisy)] = seen[name]
            assert torch.equal(noisy, add_noise(clean, noise, step=0, mask=mask))

    @pytest.mark.parametrize(
        ("make", "layers"),
        [
            (bart, ["model.encoder.layers.*", "model.decoder.layers.*"]),
            (t5, ["encoder.block.*.layer.*", "decoder.block.*.layer.*"]),
        ],
        ids=["bart", "t5"],
    )
    def test_of_an_encoder_decoder(self, make, layers):
        labels = IDS[:, :6].contiguous()
        other = torch.ones_like(labels)
        other[2, 4:] = 0
        call = {"input_ids": IDS, "labels": labels, "attention_mask": MASK}
        seen = noised_inputs(
            make(), neftune(), layers, lambda model: model(**call, decoder_attention_mask=other)
        )
        for name, noise in by_stream(neftune(), seen).items():
            mask = other if "decoder" in name else MASK
            [(clean, noisy)] = seen[name]
            assert torch.equal(noisy, add_noise(clean, noise, step=0, mask=mask))

    @pytest.mark.parametrize("layer", ["model.layers.*", "model.layers.*.mlp"])
    def test_of_packed_rows(self, layer):
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
        seen = noised_inputs(
            llama(), neftune(), layer, lambda model: model(IDS[:1], position_ids=positions)
        )
        [[(clean, noisy)]] = seen.values()
        segments = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2]])
        assert torch.equal(noisy, add_noise(clean, neftune(), step=0, segment_ids=segments))

    def test_of_embeddings_that_are_given(self):
        model = llama()
        embeddings = model.get_input_embeddings()(IDS)
        seen = noised_inputs(
            model,
            neftune(),
            "model.layers.*",
            lambda model: model(inputs_embeds=embeddings, attention_mask=MASK),
        )
        [[(clean, noisy)]] = seen.values()
        assert torch.equal(noisy, add_noise(clean, neftune(), step=0, mask=MASK))

    def test_functions_get_the_ids_of_the_model(self):
        ids = torch.where(MASK == 0, 0, IDS)
        seen = noised_inputs(
            llama(),
            neftune(),
            "model.layers.*",
            lambda model: model(ids),
            tokens=lambda ids: {"mask": ids != 0},
            where=lambda ids: ids % 2 == 0,
        )
        [[(clean, noisy)]] = seen.values()
        expected = add_noise(clean, neftune(), step=0, mask=ids != 0, where=ids % 2 == 0)
        assert torch.equal(noisy, expected)

    def test_of_something_else_are_asked_for(self):
        model = Pictured()
        pixels = torch.zeros(4, 5, 8)
        with (
            attach(model, neftune(), layer="tower.*"),
            pytest.raises(ValueError, match=r"layer must see .* got 4 rows of 5 .* attention_mask"),
        ):
            model(IDS, MASK, pixels)
        with (
            attach(model, neftune(), layer="tower.*"),
            pytest.raises(ValueError, match=r"got 4 rows of 5 hidden states beside input_ids"),
        ):
            model(IDS, None, pixels)
        with attach(model, neftune(), layer="tower.*", tokens=lambda: {"mask": None}):
            model(IDS, MASK, pixels)
            assert torch.equal(model.pictures, add_noise(pixels, neftune(), step=0))

    @pytest.mark.parametrize("mask", [MASK[:, None, None].bool(), MASK.float()])
    def test_a_mask_that_cannot_be_read_is_an_error(self, mask):
        model = llama()
        with (
            attach(model, neftune(), layer="model.layers.*"),
            pytest.raises((TypeError, ValueError), match="attention_mask must be of"),
        ):
            model(input_ids=IDS, attention_mask=mask)


class Pictured(nn.Module):
    """A model of text and pictures."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.tower = nn.Sequential(nn.Identity())

    def forward(self, input_ids, attention_mask=None, pixels=None):
        self.pictures = self.tower(pixels)
        return torch.cat([self.embed(input_ids), self.pictures], dim=1)


class TestWhere:
    def test_output_is_the_first_entry_of_a_tuple(self):
        model = Stack()
        with attach(model, neftune(), layer="blocks.1", at="output"):
            model(IDS, MASK)
        model.blocks[1].seen.append(model.blocks[1](model.blocks[1].seen[0])[0].detach())
        expected = add_noise(model.blocks[1].seen[-1], neftune(), step=0, mask=MASK)
        assert torch.equal(model.blocks[2].seen[0], expected)

    @pytest.mark.filterwarnings("ignore:embnoise. an embedding was called outside:RuntimeWarning")
    def test_input_is_the_first_argument_by_name_or_position(self):
        model = Stack()
        model(IDS, MASK)
        with attach(model, neftune(), layer=model.blocks[2], at="input") as handle:
            model(IDS, MASK)
            for call in (lambda block, x: block(x, 2.0), lambda block, x: block(x, scale=2.0)):
                x, _ = call(model.blocks[2], torch.zeros(1, 4, 8))
                assert x.shape == (1, 4, 8)
            assert handle.lookups == 3
        clean, noisy, *alone = model.blocks[2].seen
        assert torch.equal(noisy, add_noise(clean, neftune(), step=0, mask=MASK))
        expected = add_noise(alone[0] * 0, neftune(), step=0, sample_ids=torch.tensor([4]))
        assert torch.equal(alone[0], expected)

    def test_a_layer_in_a_layer_has_noise_too(self):
        with attach(Stack(), neftune(), layer=["blocks.*", "blocks.*.linear"]) as handle:
            assert len(handle.state_dict()) == 6

    def test_bags_are_no_tokens(self):
        model = nn.Sequential(nn.EmbeddingBag(10, 8))
        with pytest.raises(ValueError, match="an EmbeddingBag, whose rows are bags"):
            attach(model, neftune(), layer="0")
        with pytest.raises(ValueError, match=r"got only \['0'\], EmbeddingBag, which is not supp"):
            attach(model, neftune())

    @pytest.mark.filterwarnings("ignore:embnoise. an embedding was called outside:RuntimeWarning")
    def test_the_input_of_the_caller_is_not_changed(self):
        model, x = Stack(), torch.zeros(1, 4, 8)
        with attach(model, neftune(), layer="blocks.*", at="input"):
            model.blocks[0](x)
        assert not x.any()

    @pytest.mark.parametrize(
        ("layer", "at", "kind", "message"),
        [
            ("embed", "input", TypeError, "layer must return hidden states, .* dtype int64"),
            ("blocks", "output", ValueError, r"is called, got 'blocks', a ModuleList; .* 'blocks"),
            ("block.*", "output", ValueError, r"pattern .* got 'block\.\*'; .* like it: 'blocks"),
            ("block*", "output", ValueError, "layer must be a module that is called"),
            ("blocks.[3-9]", "input", ValueError, "or a pattern that matches some"),
            ("blocks.*", "inside", ValueError, r"at must be one of \['output', 'input'\]"),
        ],
    )
    def test_what_is_no_such_layer(self, layer, at, kind, message):
        model = Stack()
        with pytest.raises(kind, match=message), attach(model, neftune(), layer=layer, at=at):
            model(IDS)
        assert not any("forward" in vars(module) for module in model.modules())


class TestRepeatedLayers:
    def test_have_noise_of_consecutive_samples(self):
        """ALBERT runs one layer many times."""
        model = tiny(
            "AlbertModel", "AlbertConfig", vocab_size=50, hidden_size=16, embedding_size=8,
            intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, pad_token_id=0,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        seen = noised_inputs(
            model,
            neftune(),
            "encoder.albert_layer_groups.*",
            lambda model: model(input_ids=IDS, attention_mask=MASK),
        )
        [calls] = seen.values()
        for number, (clean, noisy) in enumerate(calls):
            samples = torch.arange(4 * number, 4 * number + 4)
            expected = add_noise(clean, neftune(), step=0, mask=MASK, sample_ids=samples)
            assert torch.equal(noisy, expected)
        assert len(calls) == 3


class TestRecomputed:
    """Gradient checkpointing runs a block again, when the calls around it have returned."""

    def gradients(self, reentrant, **options):
        model = Stack(reentrant=reentrant)
        with attach(model, neftune(50.0), layer="blocks.*", **options) as handle:
            loss = sum(model(rows, mask).square().sum() for rows, mask in zip(
                IDS.split(2), MASK.split(2), strict=True
            ))  # fmt: skip
            loss.backward()
            assert handle.state_dict()["blocks.2"]["samples"] == 4
        return [parameter.grad for parameter in model.parameters()], model

    @pytest.mark.parametrize("at", ["input", "output"])
    def test_with_the_same_noise(self, at):
        plain, _ = self.gradients(None, at=at)
        again, model = self.gradients(False, at=at)
        assert all(map(torch.equal, again, plain))
        for block in model.blocks:
            assert len(block.seen) == 4
            assert torch.equal(block.seen[0], block.seen[3])
            assert torch.equal(block.seen[1], block.seen[2])
            assert not torch.equal(block.seen[0], block.seen[1])

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
    def test_reentrant_checkpointing_is_warned_of(self):
        model = Stack(reentrant=True)
        with attach(model, neftune(), layer=["embed", "blocks.*"]):
            loss = model(IDS, MASK).square().sum()
            with pytest.warns(RuntimeWarning, match="pass use_reentrant=False"):
                loss.backward()

    def test_no_input_is_kept(self):
        model = Stack()
        with attach(model, neftune(), layer="blocks.*", at="input") as handle:
            model(IDS, MASK).sum().backward()
            entries = handle._sources["blocks.1"]._cache._entries
            assert [entry.inputs.shape for entry in entries] == [IDS.shape]
            assert entries[0].inputs.untyped_storage().nbytes() == 4 * IDS.numel()


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_checkpoints_of_transformers(reentrant):
    """They are inside of the layer, so both kinds get noise."""
    gradients = []
    for checkpointed in (False, True):
        model = llama(num_hidden_layers=2)
        if checkpointed:
            enable = getattr(
                model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
            )
            enable({"use_reentrant": reentrant})
        with attach(model, neftune(20.0), layer="model.layers.*", at="input") as handle:
            loss = model(input_ids=IDS, labels=IDS, attention_mask=MASK, use_cache=False).loss
            loss.backward()
            assert handle.lookups == 2
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("at", ["input", "output"])
def test_compiled(at):
    losses = []
    for compile_ in (lambda model: model, lambda model: torch.compile(model, backend="aot_eager")):
        model = Stack()
        with attach(model, neftune(50.0), layer="blocks.*", at=at):
            compiled = compile_(model)
            loss = sum(compiled(IDS, MASK).square().sum() for _ in range(2))
            loss.backward()
        losses.append((loss, [parameter.grad for parameter in model.parameters()]))
    (plain, grads), (compiled, others) = losses
    assert torch.allclose(plain, compiled)
    assert all(map(torch.allclose, grads, others))
