"""TRL's trainers: what is trained on gets noise of the right size, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import tiny

trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402, TRL needs it
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402, as transformers does
from transformers import PreTrainedTokenizerFast  # noqa: E402

DIM = 32
ALPHA = 5.0
WORDS = [f"w{number}" for number in range(40)]

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL says is not our subject


def tokenizer():
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: number for number, word in enumerate([*special.values(), *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=special["eos_token"]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def text(start, length):
    return " ".join(WORDS[(start + 3 * n) % len(WORDS)] for n in range(length))


def llama(kind="LlamaForCausalLM", **options):
    torch.manual_seed(0)
    return tiny(
        kind, "LlamaConfig", vocab_size=len(WORDS) + 3, hidden_size=DIM, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip


class Lookups:
    """Every lookup of a model: its noise, what the model was told, and if it was trained on."""

    def __init__(self, model, trained=None):
        self.seen = []
        self._trained = trained
        self._told = {}
        model.register_forward_pre_hook(self._listen, with_kwargs=True)
        self.embedding = model.get_input_embeddings()
        self.embedding.register_forward_hook(self._note)

    def _listen(self, module, args, kwargs):
        self._told = dict(kwargs)

    def _note(self, module, args, output):
        (ids,) = args
        clean = nn.functional.embedding(ids, module.weight).detach()
        lookup = {"ids": ids, "noise": output.detach() - clean, "trained": False, **self._told}
        self.seen.append(lookup)
        if self._trained is not None:  # the embedding is frozen
            lookup["trained"] = self._trained()
        elif output.requires_grad:
            output.register_hook(lambda gradient: lookup.update(trained=True))

    @property
    def trained(self):
        return [each for each in self.seen if each["trained"]]

    @property
    def others(self):
        return [each for each in self.seen if not each["trained"]]


def documents(lookup):
    """Of every document: which tokens are its own, boolean [B, L]."""
    ids, mask = lookup["ids"], lookup.get("attention_mask")
    if (positions := lookup.get("position_ids")) is not None:
        numbers = (positions == 0).flatten().cumsum(0).reshape(ids.shape)
        if mask is not None:
            numbers = numbers * mask
    else:
        mask = torch.ones_like(ids) if mask is None else mask
        numbers = mask * (1 + torch.arange(len(ids)))[:, None]
    return [numbers == number for number in numbers.unique() if number > 0]


def check(lookups, steps, *, per_step=1, where=None):
    """Assert that what was trained on, and nothing else, got noise of the right size."""
    assert len(lookups.trained) == steps * per_step
    for lookup in lookups.others:
        assert not lookup["noise"].any()
    lengths = set()
    for lookup in lookups.trained:
        inside = torch.zeros_like(lookup["ids"], dtype=torch.bool)
        for document in documents(lookup):
            length = int(document.sum())
            lengths.add(length)
            inside |= document
            noised = document if where is None else document & where(lookup)
            size = lookup["noise"][noised].abs()
            limit = ALPHA / (length * DIM) ** 0.5
            assert size.max() <= limit * 1.001
            assert size.mean() == pytest.approx(limit / 2, rel=0.25)
            assert not lookup["noise"][document & ~noised].any()
        assert not lookup["noise"][~inside].any()
        assert (lookup["ids"][inside] != 0).all()
    return lengths


def run(folder, kind, config, rows, *, model=None, callback=None, trained=None, **options):
    model = model or llama()
    names = ("ref_model", "reward_funcs", "reward_processing_classes", "peft_config")
    made = {name: options.pop(name) for name in names if name in options}
    arguments = config(
        output_dir=str(folder), report_to=[], use_cpu=True, bf16=False, max_steps=2,
        per_device_train_batch_size=options.pop("per_device_train_batch_size", 2),
        save_strategy="no", disable_tqdm=True, logging_steps=1,
        dataloader_pin_memory=False, **options,
    )  # fmt: skip
    lookups = Lookups(model, trained)
    callback = callback or NoiseCallback(neftune(ALPHA))
    work = kind(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(), callbacks=[callback], **made,
    )  # fmt: skip
    assert work.model.get_input_embeddings() is lookups.embedding
    work.train()
    assert callback.handle.lookups == len(lookups.trained)
    return lookups, work


TEXTS = [{"text": text(n, 4 + 5 * n % 11)} for n in range(12)]
PAIRS = [
    {"prompt": text(n, 3 + n % 3), "completion": " " + text(n + 7, 4 + n % 5)} for n in range(12)
]
CHOICES = [
    {"prompt": text(n, 3), "chosen": text(n + 5, 4 + n % 4), "rejected": text(n + 9, 3 + n % 5)}
    for n in range(12)
]


def test_sft(tmp_path):
    lookups, work = run(tmp_path, trl.SFTTrainer, trl.SFTConfig, TEXTS)
    assert len(check(lookups, 2)) > 1
    assert all("noise_alpha" in each for each in work.state.log_history if "loss" in each)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "options",
    [
        {"padding_free": True, "max_length": None},
        {"packing": True, "max_length": 24},
        {"activation_checkpointing": True},
    ],
    ids=["padding-free", "packed", "checkpointing"],
)
def test_sft_of_other_layouts(tmp_path, options):
    lookups, _ = run(
        tmp_path, trl.SFTTrainer, trl.SFTConfig, TEXTS, per_device_train_batch_size=3, **options
    )
    assert len(check(lookups, 2)) > 1
    if "activation_checkpointing" not in options:
        assert all(len(each["ids"]) == 1 or "packing" in options for each in lookups.seen)
        assert any(len(documents(each)) > len(each["ids"]) for each in lookups.seen)


@pytest.mark.sweep
@pytest.mark.parametrize("where", ["completion", "prompt"])
@pytest.mark.parametrize("padding_free", [False, True])
def test_sft_of_completions(tmp_path, where, padding_free):
    lookups, _ = run(
        tmp_path, trl.SFTTrainer, trl.SFTConfig, PAIRS, padding_free=padding_free,
        max_length=None,
        completion_only_loss=True, callback=NoiseCallback(neftune(ALPHA), where=where),
    )  # fmt: skip
    answers = [each["labels"] != -100 for each in lookups.trained]
    assert all(each.any() and not each.all() for each in answers)
    completion = where == "completion"
    check(lookups, 2, where=lambda each: (each["labels"] != -100) == completion)


@pytest.mark.sweep
def test_sft_with_smoothed_labels(tmp_path):
    """TRL keeps the labels from the model, and calls it twice."""
    lookups, _ = run(
        tmp_path, trl.SFTTrainer, trl.SFTConfig, PAIRS, label_smoothing_factor=0.1,
        callback=NoiseCallback(neftune(ALPHA), where="completion"),
    )  # fmt: skip
    assert len(lookups.others) == 2
    assert all(each["noise"].any() for each in lookups.trained)
    for trained, other in zip(lookups.trained, lookups.others, strict=True):
        noised = trained["noise"].any(-1)
        assert torch.equal(noised, other["labels"] != -100)
        assert not other["noise"].any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"precompute_ref_log_probs": True}, marks=pytest.mark.sweep),
    ],
    ids=["plain", "precomputed"],
)
def test_dpo(tmp_path, options):
    reference = llama()
    clean = Lookups(reference)
    lookups, _ = run(
        tmp_path, trl.DPOTrainer, trl.DPOConfig, CHOICES, ref_model=reference, **options
    )
    assert len(check(lookups, 2)) > 1
    assert clean.seen
    assert not any(each["noise"].any() for each in clean.seen)


def in_completion(lookup):
    answer = lookup["labels"] != -100
    assert answer.any()
    assert not answer.all()
    return answer


@pytest.mark.sweep
def test_dpo_of_completions(tmp_path):
    lookups, _ = run(
        tmp_path, trl.DPOTrainer, trl.DPOConfig, CHOICES, ref_model=llama(),
        callback=NoiseCallback(neftune(ALPHA), where="completion"),
    )  # fmt: skip
    check(lookups, 2, where=in_completion)


@pytest.mark.sweep
def test_grpo_of_completions(tmp_path):
    lookups, _ = run(
        tmp_path, trl.GRPOTrainer, trl.GRPOConfig, [{"prompt": row["prompt"]} for row in PAIRS],
        num_generations=2, max_completion_length=5,
        reward_funcs=lambda completions, **_: [float(len(each)) for each in completions],
        callback=NoiseCallback(neftune(ALPHA), where="completion"),
    )  # fmt: skip
    check(lookups, 2, where=in_completion)


@pytest.mark.sweep
def test_a_reward_model_has_no_labels(tmp_path):
    with pytest.raises(ValueError, match="where needs labels in the model's call"):
        run(
            tmp_path, trl.RewardTrainer, trl.RewardConfig, CHOICES,
            model=llama("LlamaForSequenceClassification", num_labels=1),
            callback=NoiseCallback(neftune(ALPHA), where="completion"),
        )  # fmt: skip


@pytest.mark.sweep
def test_dpo_with_an_adapter(tmp_path):
    """The reference is the model itself, without the adapter."""
    peft = pytest.importorskip("peft")
    lookups, _ = run(
        tmp_path, trl.DPOTrainer, trl.DPOConfig, CHOICES,
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        activation_checkpointing=False, trained=torch.is_grad_enabled,
    )  # fmt: skip
    assert len(check(lookups, 2)) > 1
    assert len(lookups.others) == 2


@pytest.mark.sweep
def test_reward(tmp_path):
    lookups, _ = run(
        tmp_path, trl.RewardTrainer, trl.RewardConfig, CHOICES,
        model=llama("LlamaForSequenceClassification", num_labels=1),
    )  # fmt: skip
    assert len(check(lookups, 2)) > 1


@pytest.mark.sweep
def test_kto(tmp_path):
    reference = llama()
    clean = Lookups(reference)
    rows = [{**row, "label": number % 2 == 0} for number, row in enumerate(PAIRS)]
    lookups, _ = run(
        tmp_path, trl.KTOTrainer, trl.KTOConfig, rows, ref_model=reference,
        per_device_train_batch_size=4,
    )  # fmt: skip
    assert len(check(lookups, 2)) > 1
    assert clean.seen
    assert not any(each["noise"].any() for each in clean.seen)


@pytest.mark.sweep
@pytest.mark.parametrize("judge", ["a function", "a model"])
def test_grpo(tmp_path, judge):
    reward, more = llama("LlamaForSequenceClassification", num_labels=1), {}
    scored = Lookups(reward)
    if judge == "a model":
        more = {"reward_funcs": reward, "reward_processing_classes": tokenizer()}
    else:
        more = {"reward_funcs": lambda completions, **_: [float(len(each)) for each in completions]}
    lookups, _ = run(
        tmp_path, trl.GRPOTrainer, trl.GRPOConfig, [{"prompt": row["prompt"]} for row in PAIRS],
        num_generations=2, max_completion_length=5, num_iterations=2, **more,
    )  # fmt: skip
    check(lookups, 2)
    assert len(lookups.others) > 2
    assert bool(scored.seen) == (judge == "a model")
    assert not any(each["noise"].any() for each in scored.seen)
