"""Tiny models, one of each kind that ``attach`` is to work on."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

VOCABULARY = 50

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {name: size for name, size in _SIZES.items() if name != "num_key_value_heads"}


def tiny(model, config, **options):
    import transformers  # noqa: PLC0415, other tests do without it

    return getattr(transformers, model)(getattr(transformers, config)(**options)).train()


def llama(**options):
    torch.manual_seed(0)
    return tiny("LlamaForCausalLM", "LlamaConfig", **{**_SIZES, **options})


def mistral():
    return tiny("MistralForCausalLM", "MistralConfig", **_SIZES)


def gpt2():
    return tiny(
        "GPT2LMHeadModel", "GPT2Config",
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def gemma():
    return tiny("GemmaForCausalLM", "GemmaConfig", **_SIZES, head_dim=8)


def gemma2():
    return tiny("Gemma2ForCausalLM", "Gemma2Config", **_SIZES, head_dim=8)


def gemma3():
    """Its embedding multiplies what it looks up."""
    return tiny("Gemma3ForCausalLM", "Gemma3TextConfig", **_SIZES, head_dim=8, sliding_window=32)


def t5():
    return tiny(
        "T5ForConditionalGeneration", "T5Config",
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, dropout_rate=0.0,
    )  # fmt: skip


def bart():
    return tiny(
        "BartForConditionalGeneration", "BartConfig",
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2, dropout=0.0,
    )  # fmt: skip


def bert(**options):
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny("BertForMaskedLM", "BertConfig", **{**_BERT, **without_dropout, **options})


DECODERS = {"llama": llama, "mistral": mistral, "gpt2": gpt2, "gemma": gemma, "gemma3": gemma3}
ENCODER_DECODERS = {"t5": t5, "bart": bart}
MODELS = {**DECODERS, **ENCODER_DECODERS, "bert": bert}


def batch(rows=2, length=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


class Embedder(nn.Module):
    """An embedding alone, called with the names that the models of transformers use."""

    def __init__(self, dim=8):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)

    def forward(self, input_ids, attention_mask=None, position_ids=None, labels=None, **kwargs):
        return self.embed(input_ids)


def noise_of(model, ids, **call):
    """What the attached noise adds in one training call of an Embedder."""
    return model(ids, **call).detach() - nn.functional.embedding(ids, model.embed.weight).detach()


def zeroed(model=None):
    """An Embedder whose table is zero, so that it returns the noise, exactly."""
    model = model or Embedder()
    nn.init.zeros_(model.embed.weight)
    return model


class Block(nn.Module):
    """A block that returns a tuple, and notes what it sees and returns."""

    def __init__(self, dim=8):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.seen = []

    def forward(self, hidden_states, scale=1.0):
        self.seen.append(hidden_states.detach().clone())
        return scale * self.linear(hidden_states).tanh(), "more"


class Stack(nn.Module):
    """Blocks, perhaps each of them under gradient checkpointing."""

    def __init__(self, blocks=3, reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.reentrant = reentrant

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for block in self.blocks:
            if self.reentrant is None:
                x, _ = block(hidden_states=x)
            else:
                x, _ = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


def noisy_lookups(model, noise, call, **options):
    """What every embedding with noise looked up, clean and noisy, in one training call.

    Returns:
        A dict of lists of pairs of tensors, by the name of the embedding.
    """
    from embnoise_torch import attach  # noqa: PLC0415, the models need it not

    seen, hooks = {}, []
    with attach(model, noise, **options) as handle:
        for name in handle.state_dict():
            module = model.get_submodule(name)

            def note(module, args, output, name=name):
                output = output[0] if isinstance(output, tuple) else output
                with torch.no_grad():
                    clean = module(*args)
                clean = clean[0] if isinstance(clean, tuple) else clean
                seen.setdefault(name, []).append((clean, output.detach().clone()))

            hooks.append((module, note))
        hooks = [
            module.register_forward_hook(
                lambda module, args, output, note=note: (
                    note(module, args, output) if torch.is_grad_enabled() else None
                )
            )
            for module, note in hooks
        ]
        call(model)
    for hook in hooks:
        hook.remove()
    return seen
