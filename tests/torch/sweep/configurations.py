"""Tiny configurations of the model types of transformers, derived by rules from their fields.

A rule is a pattern for the name of a field and the largest value that it may have.
Sub-configurations are shrunk in the same way. What the rules do not get right is in
``corrections.py``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tests.torch.sweep.corrections import CORRECTIONS

VOCABULARY = 128
FIRST_ID, FIRST_SPECIAL = 10, 100
"""The ids of batches begin at the one; those of images and the like are moved to the other."""
HIDDEN, HEADS, HEAD_DIM, LAYERS, POSITIONS = 64, 4, 16, 2, 64

RULES: list[tuple[str, int]] = [
    (r"type_vocab_size", 2),
    (r"(.*_)?vocab_size(_.*)?|.*vocabulary_size|n_words", VOCABULARY),
    (r"max_2d_position_embeddings|.*_shape_size", 1024),
    (r".*position_embeddings|n_positions|.*_positions|n_ctx|.*context_length", POSITIONS),
    (r"max_seq_len", POSITIONS),
    (r"(.*_)?num_(key_value|kv|key)(_attention)?_heads", 2),
    (r"(.*_)?(heads|n_head|num_attention_heads.*)", HEADS),
    (r"qk_rope_head_dim", 8),
    (r"(.*_)?(head_dim|d_kv|d_head|dim_head|head_size)|rotary_dim", HEAD_DIM),
    (r"(.*_)?(ffn_dim|d_ff|dim_ff|dff|intermediate_size.*|mlp_dim|n_inner)", HIDDEN),
    (r".*(ffn_hidden_size|linear_units|feed_?forward_(size|dim)|dim_feedforward)", HIDDEN),
    (r"(.*_)?(hidden_size.*|d_model|n_embd|embed_dim|emb_dim|hidden_dim)", HIDDEN),
    (r"(.*_)?(embedding_size|embedding_dim|output_dim|proj_dim|projection_dim)|dim", HIDDEN),
    (r"lru_width|entity_emb_size|pooler_output_size|prompt_mid_dim", HIDDEN),
    (r"classifier_proj_size|upsample_groups|condition_dim", HIDDEN),
    (r"n_groups?|topk_group", 2),
    (r"(.*_)?(layers|n_layer|depth|num_blocks|num_hidden_groups|num_encoder_blocks)", LAYERS),
    (r"(.*_)?(num_experts|n_routed_experts|num_local_experts)", 4),
    (r"(.*_)?(experts_per_tok|moe_topk|top_k_experts|moe_k)", 2),
    (r"(.*_)?lora_rank", 16),
    (r"first_k_dense_replace", 1),
]

UNSET = {"vocab_size": VOCABULARY, "head_dim": HEAD_DIM, "n_routed_experts": 4}
"""Values for fields without a default that not every model can do without."""

_TOKEN = re.compile(r".*(_token_id|_token_index|_id|_index|_idx)s?")


def tiny_config(cls: Any, model_type: str, given: dict[str, Any] | None = None) -> Any:
    """A tiny configuration of a class.

    Args:
        cls: The class.
        model_type: The type that it is made for; its corrections go before those of the class.
        given: What the rules start from in place of the class's defaults.
    """
    given = given or {}
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    } | given
    corrections = {**CORRECTIONS.get(cls.model_type, {}), **CORRECTIONS.get(model_type, {})}
    if defaults.get("kv_lora_rank") and "num_key_value_heads" in defaults:
        corrections.setdefault("num_key_value_heads", HEADS)
    special = iter(range(FIRST_SPECIAL, VOCABULARY))
    parts = {
        **getattr(cls, "sub_configs", {}),
        **(getattr(cls, "sub_configs_defaults", None) or {}),
    }
    fields = {}
    for name, default in defaults.items():
        value = default
        if name == "image_size" and isinstance(patch := defaults.get("patch_size"), int):
            value = patch * max(2, 28 // patch)
        value = _shrunk(name, value, special)
        if name not in parts and (value != default or name in given):
            fields[name] = value
    for name, spec in parts.items():
        corrected = corrections.get(name, {})
        if isinstance(corrected, dict) and (made := _part(spec, given.get(name), corrected)):
            fields[name] = made
            corrections.pop(name, None)
    return cls(**{**fields, **corrections})


def _part(spec: Any, given: dict[str, Any] | None, corrected: dict[str, Any]) -> Any:
    """A tiny sub-configuration; ``None`` if there is none by default."""
    from transformers import CONFIG_MAPPING, AutoConfig  # noqa: PLC0415

    cls, kind = getattr(spec, "config_class", spec), getattr(spec, "model_type", None)
    options = {**(getattr(spec, "init_kwargs", None) or {}), **(given or {}), **corrected}
    kind = options.get("model_type", kind)
    if cls is AutoConfig or "model_type" in options:
        cls = CONFIG_MAPPING[kind] if kind else None
    return cls and tiny_config(cls, "", options)


def _shrunk(name: str, value: Any, special: Iterator[int]) -> Any:
    """The value of a field by the rules; ``special`` are ids for images and the like."""
    if value is None:
        return UNSET.get(name)
    if name == "use_cache":
        return False
    if isinstance(value, float) and "drop" in name:
        return 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        if _TOKEN.fullmatch(name):
            return value if value < FIRST_ID else next(special)
        largest = (size for pattern, size in RULES if re.fullmatch(pattern, name))
        return min(value, next(largest, value))
    return value
