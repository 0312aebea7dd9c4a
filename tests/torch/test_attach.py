"""``attach``: what it finds, when it fires, which noise, and how it ends."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from embnoise import Noise, constant, linear, neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch import handle as handle_module
from embnoise_torch.model import listener
from embnoise_torch.model.forward_override import ForwardOverride
from tests.torch.models import Embedder, batch, llama, noise_of, zeroed

START = {"step": 0, "calls": 0, "samples": 0, "lookups": 0}


def expected(ids, noise, *, first=0, dim=8, **arguments):
    rows = torch.arange(first, first + len(ids))
    return add_noise(
        torch.zeros(*ids.shape, dim), noise, sample_ids=rows, **{"step": 0, **arguments}
    )


class TestWhichNoise:
    def test_every_call_gets_fresh_noise(self):
        model, ids = zeroed(), batch()
        with attach(model, neftune()):
            first, second = model(ids), model(ids)
        assert torch.equal(first, expected(ids, neftune()))
        assert torch.equal(second, expected(ids, neftune(), first=2))

    def test_micro_batches_take_consecutive_samples_and_a_step_starts_anew(self):
        model, ids = zeroed(), batch(rows=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with attach(model, neftune(), optimizer=optimizer) as handle:
            for step in range(3):
                assert handle.step == step
                for first in (0, 3):
                    noisy = model(ids)
                    assert torch.equal(noisy, expected(ids, neftune(), first=first, step=step))
                noisy.sum().backward()
                optimizer.step()

    def test_the_schedule_follows_the_optimizer(self):
        model, ids = zeroed(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        noise = neftune(alpha=linear(8.0, 0.0).then(constant(2.0, 3))).bind(7)
        seen = []
        with attach(model, noise, optimizer=optimizer) as handle:
            for step in range(7):
                assert torch.equal(model(ids), expected(ids, noise, step=step))
                seen.append(handle.alpha)
                optimizer.step()
        assert seen == [8, 6, 4, 2, 2, 2, 2]

    def test_steps_by_hand(self):
        model, ids = zeroed(), batch()
        noise = neftune(alpha=linear(8.0, 0.0, 10))
        with attach(model, noise, optimizer="manual") as handle:
            for step in (0, 5, 2):
                handle.step = step
                assert torch.equal(model(ids), expected(ids, noise, step=step))

    def test_two_models_two_noises(self):
        models, ids = [zeroed(), zeroed()], batch()
        noises = [neftune(seed=1), neftune(3.0, seed=2)]
        handles = [attach(*pair) for pair in zip(models, noises, strict=True)]
        for first in (0, 2):
            for model, noise in zip(models, noises, strict=True):
                assert torch.equal(model(ids), expected(ids, noise, first=first))
        handles[0].remove()
        assert not models[0](ids).any()
        assert models[1](ids).any()

    def test_a_vector_of_ids_is_a_batch_of_one(self):
        model, ids = zeroed(), batch(1)
        with attach(model, neftune()):
            assert torch.equal(model(ids[0]), expected(ids, neftune())[0])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_in_the_dtype_of_the_table(self, dtype):
        model, ids = Embedder().to(dtype), batch()
        clean = model(ids).detach()
        with attach(model, neftune()):
            assert torch.equal(model(ids), add_noise(clean, neftune(), step=0))


class TestGradient:
    def test_is_exactly_one_and_flows_to_the_table(self):
        model, ids = Embedder(), batch()
        weights = torch.randn(2, 8, 8)
        (model(ids) * weights).sum().backward()
        clean, model.embed.weight.grad = model.embed.weight.grad, None
        for scale in ("neftune", "relative"):
            with attach(model, neftune(scale=scale)):
                (model(ids) * weights).sum().backward()
            assert torch.equal(model.embed.weight.grad, clean)
            model.embed.weight.grad = None

    def test_a_frozen_table_is_not_changed(self):
        model, ids = Embedder().requires_grad_(requires_grad=False), batch()
        before = model.embed.weight.clone()
        with attach(model, neftune()):
            assert noise_of(model, ids).any()
        assert torch.equal(model.embed.weight, before)

    def test_an_embedding_that_returns_its_table_keeps_it(self):
        class Whole(nn.Embedding):
            def forward(self, ids):
                return self.weight[: ids.shape[-1]][None]

        model = nn.Sequential(Whole(8, 4).requires_grad_(requires_grad=False))
        before = model[0].weight.clone()
        with attach(model, neftune()):
            assert not torch.equal(model(batch(1))[0], before)
        assert torch.equal(model[0].weight, before)

    def test_in_place_without_a_buffer(self):
        model, ids = Embedder(), batch()
        with attach(model, neftune()):
            noisy = model(ids)
        assert noisy.grad_fn.name() == "EmbeddingBackward0"


class TestWhich:
    def test_layer_by_name_or_itself(self):
        for layer in ("wpe", None):
            model = nn.ModuleDict({"wte": nn.Embedding(50, 8), "wpe": nn.Embedding(9, 8)})
            with attach(model, neftune(), layer=layer or model["wpe"]):
                assert torch.equal(model["wte"](batch()), model["wte"](batch()))
                ids = torch.tensor([[1, 2]])
                assert not torch.equal(model["wpe"](ids), model["wpe"](ids))

    def test_ambiguity_lists_the_candidates(self):
        model = nn.ModuleDict({"wte": nn.Embedding(50, 8), "wpe": nn.Embedding(9, 8)})
        with pytest.raises(
            ValueError, match=r"found 2 .* layer=.* 'wte' \(50, 8\), 'wpe' \(9, 8\)"
        ):
            attach(model, neftune())
        with pytest.raises(
            ValueError, match=r"got 'wet'; names like it: 'wte', .* embeddings: 'wte' \("
        ):
            attach(model, neftune(), layer="wet")
        with pytest.raises(ValueError, match=r"found no .* layer=, the module that .* its name$"):
            attach(nn.Linear(2, 2), neftune())
        with pytest.raises(ValueError, match="layer must be a module of the model"):
            attach(model, neftune(), layer=nn.Embedding(3, 3))
        assert type(model["wte"]) is nn.Embedding

    def test_every_module_that_shares_the_table(self):
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.left, self.right = nn.Embedding(50, 8), nn.Embedding(50, 8)
                self.head = nn.Linear(8, 50, bias=False)
                self.right.weight = self.head.weight = self.left.weight

        model, ids = Pair(), batch()
        with attach(model, neftune(), layer="left") as handle:
            left, right = model.left(ids), model.right(ids)
            assert handle.lookups == 2
        clean = model.left(ids)
        assert ((left - clean) - (right - clean)).abs().max() > 0.01
        assert type(model.head) is nn.Linear

    def test_where(self):
        ids, labels = batch(), batch()
        labels[:, :3] = -100
        for where, chosen in [
            ("prompt", labels == -100),
            ("completion", labels != -100),
            (lambda call: call["input_ids"] > 20, ids > 20),
            (lambda ids: ids > 20, ids > 20),
            (lambda ids, labels: (ids > 20) & (labels > 9), (ids > 20) & (labels > 9)),
        ]:
            model = zeroed()
            with attach(model, neftune(), where=where):
                noisy = model(ids, labels=labels)
            assert torch.equal(noisy, expected(ids, neftune(), where=chosen))
        with (
            attach(model, neftune(), where="prompt"),
            pytest.raises(ValueError, match=r"where needs labels .* got None"),
        ):
            model(ids)
        assert not model.eval()(ids).any()

    def test_tokens_take_the_place_of_the_masks_of_the_call(self):
        ids = torch.tensor([[3, 4, 0, 0], [5, 6, 7, 0]])
        model = zeroed()
        with attach(model, neftune(), tokens=lambda ids: {"mask": ids != 0}):
            noisy = model(ids, attention_mask=torch.ones_like(ids))
        assert torch.equal(noisy, expected(ids, neftune(), mask=ids != 0))
        segments = torch.tensor([[1, 1, 2, 2], [1, 2, 2, 2]])
        with attach(model, neftune(), tokens=lambda labels: {"segment_ids": labels}):
            noisy = model(ids, labels=segments)
        assert torch.equal(noisy, expected(ids, neftune(), segment_ids=segments))

    @pytest.mark.parametrize(
        ("tokens", "error", "message"),
        [
            (3, TypeError, "tokens must be a callable, got 3"),
            (lambda *ids: {}, TypeError, r"tokens must name its parameters, got \(\*ids\)"),
            (
                lambda wrong: {},
                ValueError,
                r"tokens must name its parameters among \[.*'ids'.*wrong",
            ),
            (lambda ids: {"masks": ids}, ValueError, r"unknown key 'masks' \(did you mean 'mask'"),
            (lambda ids: {"mask": ids[:1]}, ValueError, "mask must be of shape"),
        ],
    )
    def test_tokens_that_do_not_fit(self, tokens, error, message):
        model, ids = zeroed(), batch()
        with pytest.raises(error, match=message), attach(model, neftune(), tokens=tokens):
            model(ids)
        assert type(model.embed) is nn.Embedding

    def test_calls_per_step_in_place_of_an_optimizer(self):
        model, ids, noise = zeroed(), batch(), neftune(alpha=linear(8.0, 0.0, 4))
        with attach(model, noise, calls_per_step=2) as handle:
            for step in range(3):
                assert (handle.step, handle.alpha) == (step, 8.0 - 2 * step)
                for first in (0, 2):
                    assert torch.equal(model(ids), expected(ids, noise, first=first, step=step))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with pytest.raises(ValueError, match="calls_per_step must be None with an optimizer"):
            attach(model, noise, optimizer=optimizer, calls_per_step=2)

    def test_a_number_is_not_a_noise(self):
        with pytest.raises(TypeError, match=r"got 5.0; did you mean neftune\(alpha=5.0\)\?"):
            attach(Embedder(), 5.0)


class TestWrapped:
    def test_peft(self):
        peft = pytest.importorskip("peft")
        model, ids = llama(), batch()
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
        wrapped = peft.get_peft_model(model, config)
        with attach(wrapped, neftune(20.0)) as handle:
            loss = wrapped(input_ids=ids, labels=ids).loss
            assert handle.lookups == 1
            loss.backward()
            with wrapped.disable_adapter(), torch.no_grad():
                wrapped(input_ids=ids)
            assert handle.lookups == 1
        clean = wrapped(input_ids=ids, labels=ids).loss
        assert not torch.equal(loss, clean)

    def test_wrapped_after_attaching(self):
        peft = pytest.importorskip("peft")
        model, ids = llama(), batch()
        with attach(model, neftune(20.0)) as handle:
            wrapped = peft.get_peft_model(
                model, peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
            )
            wrapped(input_ids=ids, labels=ids).loss.backward()
            assert handle.lookups == 1

    def test_a_forward_on_the_instance_is_kept(self):
        """accelerate puts its device hooks there."""
        model, ids = zeroed(), batch()
        calls = []
        plain = model.embed.forward

        def instance(ids):
            calls.append(1)
            return plain(ids)

        model.embed.forward = instance
        with attach(model, neftune()):
            assert torch.equal(model(ids), expected(ids, neftune()))
        assert calls == [1]
        assert model.embed.forward is instance
        assert not model(ids).any()

    def test_data_parallel_is_refused(self):
        with pytest.raises(ValueError, match="model must not be a DataParallel"):
            attach(nn.DataParallel(Embedder()), neftune())


class TestEnd:
    def test_remove_leaves_the_model_as_it_was(self):
        model = llama()
        classes = [type(module) for module in model.modules()]
        before = [set(vars(module)) for module in model.modules()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        handle = attach(model, neftune(), optimizer=optimizer, where="prompt")
        handle.remove()
        handle.remove()
        optimizer.step()
        assert handle.step == 0
        with pytest.raises(RuntimeError, match=r"call attach\(\) again"), handle:
            pass
        assert "removed=True" in repr(handle)
        assert [type(module) for module in model.modules()] == classes
        assert [set(vars(module)) for module in model.modules()] == before
        attach(model, neftune()).remove()

    def test_an_exception_leaves_nothing_behind(self):
        model, ids = zeroed(), batch()
        with pytest.raises(RuntimeError, match="ours"), attach(model, neftune()):
            raise RuntimeError("ours")
        assert type(model.embed) is nn.Embedding
        with attach(model, neftune()), pytest.raises(IndexError):
            model(ids + 1000)
        assert not model(ids).any()

    def test_a_forward_that_fails_leaves_no_mask_behind(self):
        class Fragile(Embedder):
            def forward(self, input_ids, attention_mask=None, fail=False):
                if fail:
                    raise RuntimeError("ours")
                return self.embed(input_ids)

        model, ids = zeroed(Fragile()), batch()
        with attach(model, neftune()):
            with pytest.raises(RuntimeError, match="ours"):
                model(ids, torch.zeros_like(ids), fail=True)
            # Called by itself, the embedding knows of no mask.
            with pytest.warns(RuntimeWarning, match="outside of a call of its model"):
                assert torch.equal(model.embed(ids), expected(ids, neftune()))

    def test_twice_is_an_error_and_the_first_stays(self):
        model, ids = zeroed(), batch()
        with attach(model, neftune()):
            with pytest.raises(ValueError, match="attached to 'embed' already"):
                attach(model, neftune())
            assert torch.equal(model(ids), expected(ids, neftune()))

    def test_beside_a_layer_of_the_same_seed_and_stream_is_an_error(self):
        model = nn.Sequential(nn.Embedding(10, 8), EmbeddingNoise(neftune()))
        with pytest.raises(ValueError, match="at '1' already, and '0' would get the same"):
            attach(model, neftune(seed=2**64))
        for noise in (neftune(seed=1), neftune(stream="attached")):
            with attach(model, noise):
                model(batch() % 10)

    def test_beside_the_hook_of_transformers_is_an_error(self):
        from transformers.integrations.neftune import neftune_post_forward_hook  # noqa: PLC0415

        model = Embedder()
        model.embed.neftune_noise_alpha = 5.0
        model.embed.register_forward_hook(neftune_post_forward_hook)
        with pytest.raises(ValueError, match="NEFTune hook of transformers on 'embed'"):
            attach(model, neftune())


class TestAtomic:
    """Whatever fails half-way leaves the model and the optimizer as they were."""

    @pytest.mark.parametrize(
        "late",
        ["ForwardOverride", "find_callers", "_wrap", "register_step_post_hook"],
    )
    def test_a_failure(self, late, monkeypatch):
        model = llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

        def fail(*args, **kwargs):
            raise RuntimeError("half-way")

        if late == "ForwardOverride":  # that of the second module around the embedding
            made = []

            def second_fails(*args):
                made.append(args)
                return ForwardOverride(*args) if len(made) == 1 else fail()

            monkeypatch.setattr(listener, "ForwardOverride", second_fails)
        elif late == "_wrap":
            monkeypatch.setattr(listener.Listener, "_wrap", fail)
        elif late == "find_callers":
            monkeypatch.setattr(handle_module, "find_callers", fail)
        else:
            monkeypatch.setattr(optimizer, "register_step_post_hook", fail)
        classes = [type(module) for module in model.modules()]
        before = [set(vars(module)) for module in model.modules()]
        with pytest.raises(RuntimeError, match="half-way"):
            attach(model, neftune(), optimizer=optimizer, where="prompt")
        assert [type(module) for module in model.modules()] == classes
        assert [set(vars(module)) for module in model.modules()] == before
        assert not optimizer._optimizer_step_post_hooks
        monkeypatch.undo()
        attach(model, neftune(), optimizer=optimizer).remove()

    def test_a_forward_without_a_readable_signature(self):
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = zeroed()

            def forward(self, ids):
                return self.inner(ids)

        Outer.forward.__signature__ = "none"
        model, ids = Outer(), batch()
        with attach(model, neftune()):
            assert torch.equal(model(ids), expected(ids, neftune()))
        assert type(model.inner.embed) is nn.Embedding


class TestState:
    def test_what_a_handle_tells(self):
        model, ids = zeroed(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with attach(model, neftune(alpha=linear(8, 0, 4)), optimizer=optimizer) as handle:
            model(ids).sum().backward()
            optimizer.step()
            assert (handle.step, handle.alpha, handle.lookups) == (1, 6.0, 1)
            assert repr(handle).startswith(
                "Handle('embed', step=1, alpha=6, lookups=1, noise=Noise("
            )
            with handle.paused():
                assert not model(ids).any()
            assert handle.lookups == 1
            handle.step = 3
            assert torch.equal(model(ids), expected(ids, handle.noise, step=3))
            handle.step = 3  # the same step goes on
            assert torch.equal(model(ids), expected(ids, handle.noise, first=2, step=3))

    def test_a_resumed_run_goes_on_with_the_same_noise(self):
        ids, noise = batch(), neftune(alpha=linear(5.0, 1.0, 10))

        def run(calls, state=None):
            model = zeroed()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            with attach(model, noise, optimizer=optimizer) as handle:
                if state:
                    handle.load_state_dict(state)
                seen = []
                for call in calls:
                    seen.append(model(ids).detach().clone())
                    if call % 3 == 2:
                        optimizer.step()
                return seen, handle.state_dict()

        whole, _ = run(range(10))
        first, state = run(range(4))
        second, _ = run(range(4, 10), state)
        assert all(map(torch.equal, first + second, whole))
        assert state == {"embed": {"step": 1, "calls": 1, "samples": 2, "lookups": 4}}

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({}, "state is missing the key 'embed'"),
            ({"embed": {"step": 1}}, r"state\['embed'\] is missing the key 'calls'"),
            (
                {"embed": {**START, "step": -1}},
                r"state\['embed'\]\['step'\] must be at least 0, got -1",
            ),
            ({"embed": START, "wte": START}, "state has an unknown key 'wte'"),
        ],
    )
    def test_a_state_that_does_not_fit_changes_nothing(self, state, message):
        with attach(Embedder(), neftune()) as handle:
            with pytest.raises(ValueError, match=message):
                handle.load_state_dict(state)
            assert handle.state_dict() == {"embed": START}


class TestSilence:
    """It says so when a training step ran and the noise was never added."""

    def test_inputs_embeds(self):
        model, ids = llama(), batch()
        inputs = model.model.embed_tokens(ids).detach()
        with attach(model, neftune()), pytest.warns(RuntimeWarning, match="got no noise"):
            model(inputs_embeds=inputs)

    def test_inputs_embeds_after_lookups_and_a_state_that_had_fewer(self):
        model, ids = llama(), batch()
        inputs = model.model.embed_tokens(ids).detach()
        with attach(model, neftune()) as handle:
            saved = handle.state_dict()
            model(ids)
            with pytest.warns(RuntimeWarning, match="outside of a call of its model"):
                inputs_of_ours = model.model.embed_tokens(ids)
            model(inputs_embeds=inputs_of_ours)  # the lookup came before the call
            handle.load_state_dict(saved)
            with pytest.warns(RuntimeWarning, match="got no noise"):
                model(inputs_embeds=inputs)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_lookup_outside_of_any_call(self, compiled):
        model, ids = zeroed(), batch()
        mask = torch.ones_like(ids)
        mask[:, -3:] = 0
        look_up = torch.compile(lambda: model.embed(ids), backend="eager") if compiled else None
        with attach(model, neftune()):
            with pytest.warns(RuntimeWarning, match=r"its rows are taken as full. Pass attach\(.*"):
                (look_up or model.embed)(*([] if compiled else [ids]))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model.embed(ids)  # once is enough
        with warnings.catch_warnings(), attach(model, neftune(), tokens=lambda: {"mask": mask}):
            warnings.simplefilter("error")
            assert not model.embed(ids)[:, -3:].any()
        alone = nn.Sequential(nn.Embedding(50, 8))
        with warnings.catch_warnings(), attach(alone, neftune()):
            warnings.simplefilter("error")
            alone(ids)  # no call could tell anything

    def test_a_step_without_noise(self):
        model = nn.Sequential(nn.Embedding(50, 8))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with attach(model, neftune(), optimizer=optimizer):
            model.eval()(batch()).sum().backward()
            with pytest.warns(RuntimeWarning, match=r"\['0'\] got no noise"):
                optimizer.step()
            optimizer.step()  # once is enough

    def test_no_false_alarm(self):
        model, ids = llama(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with warnings.catch_warnings(), attach(model, neftune(), optimizer=optimizer) as handle:
            warnings.simplefilter("error")
            for _ in range(2):
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
            with torch.no_grad():
                model(input_ids=ids)
            with handle.paused():
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
        with warnings.catch_warnings(), attach(model, Noise(0.0), optimizer=optimizer):
            warnings.simplefilter("error")
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

    @pytest.mark.parametrize("at", ["output", "input"])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_clean_step(self, compiled, at):
        """Not in silence: of a clean step, the optimizer need not step in the context as well."""
        model, ids = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8)), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        layer = "1" if at == "input" else None
        with attach(model, neftune(), layer=layer, at=at, optimizer=optimizer) as handle:

            def clean():
                with handle.paused():
                    return model(ids)

            run = torch.compile(clean, backend="eager") if compiled else clean
            for _ in range(2):
                run().sum().backward()
                optimizer.step()
            assert handle.lookups == 0
            model.eval()(ids).sum().backward()
            with pytest.warns(RuntimeWarning, match="got no noise"):
                optimizer.step()

    def test_a_lookup_in_a_pause_before_the_call(self):
        model, ids = llama(), batch()
        with attach(model, neftune()) as handle:
            with handle.paused():
                inputs = model.model.embed_tokens(ids)
            model(inputs_embeds=inputs)
            with pytest.warns(RuntimeWarning, match="got no noise"):
                model(inputs_embeds=inputs)

    def test_two_threads_that_call_the_model(self):
        model, ids = llama(), batch()
        inputs = model.model.embed_tokens(ids).detach()
        looked_up = Barrier(2, timeout=60)

        def wait_for_the_other(*_):
            looked_up.wait()

        model.model.layers[0].register_forward_pre_hook(wait_for_the_other)
        calls = [lambda: model(ids)] * 2
        with ThreadPoolExecutor(2) as pool, attach(model, neftune()) as handle:
            list(pool.map(lambda call: call(), calls))
            assert handle.lookups == 2
            calls[0] = lambda: model(inputs_embeds=inputs)
            with pytest.warns(RuntimeWarning, match="got no noise"):
                list(pool.map(lambda call: call(), calls))


class Outer(nn.Module):
    """A model inside another one, which has embeddings of its own."""

    def __init__(self, *models):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.speakers = nn.Embedding(3, 8)


class Told(Embedder):
    def get_input_embeddings(self):
        return self.embed


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2)

    def get_input_embeddings(self):
        return self.patches


def test_the_only_model_inside_that_tells_its_embedding():
    with attach(Outer(Vision(), Told()), neftune()) as handle:
        assert list(handle.state_dict()) == ["embed"]
    with attach(Outer(Vision()), neftune()) as handle:
        assert list(handle.state_dict()) == ["speakers"]
    with pytest.raises(ValueError, match=r"found 3 embeddings .* 'models\.0\.embed'"):
        attach(Outer(Told(), Told()), neftune())
