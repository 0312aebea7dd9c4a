"""The backbones of keras-hub that look up tokens, from tiny configurations."""

import inspect

import keras
import keras_hub

# Arguments that many take, by name.
SIZES = {
    "vocabulary_size": 20,
    "vocab_size": 20,
    "num_layers": 1,
    "num_heads": 2,
    "num_attention_heads": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "hidden_size": 16,
    "embedding_dim": 16,
    "head_dim": 8,
    "head_size": 8,
    "intermediate_dim": 32,
    "moe_intermediate_dim": 16,
    "shared_expert_intermediate_dim": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 8,
    "top_k": 1,
    "image_size": 16,
}
SIDE = {
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ["full_attention"],
}
SIDES = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIDE.items()}
T5GEMMA = {
    **SIDES,
    "dropout_rate": 0.0,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 1.0,
    "attention_bias": False,
    "hidden_activation": "gelu_approximate",
}
# What is said otherwise, by the class's name.
OPTIONS = {
    "EdRecBackbone": {"num_layers_enc": 1, "num_layers_dec": 1},
    "Gemma4Backbone": {"hidden_size_per_layer_input": 4},
    "MoonshineBackbone": {
        "filter_dim": 16,
        "encoder_num_layers": 1,
        "decoder_num_layers": 1,
        "encoder_num_heads": 2,
        "decoder_num_heads": 2,
    },
    "PaliGemmaBackbone": {
        "vit_patch_size": 4,
        "vit_num_heads": 2,
        "vit_hidden_dim": 16,
        "vit_num_layers": 1,
    },
    "RWKV7Backbone": {"gate_lora": 4, "mv_lora": 4, "aaa_lora": 4, "decay_lora": 4},
    "SmolLM3Backbone": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True],
        "layer_types": ["full_attention"],
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 8,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
    },
    "T5GemmaBackbone": T5GEMMA,
    "T5Gemma2Backbone": T5GEMMA,
}


def required(cls):
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [
        each.name
        for each in parameters
        if each.default is each.empty
        and each.kind == each.POSITIONAL_OR_KEYWORD
        and each.name != "self"
    ]


def options_of(cls):
    """A tiny configuration; ``None`` of a class that looks up no tokens, or needs a part built."""
    known = SIZES | OPTIONS.get(cls.__name__, {})
    names = required(cls)
    if not {"vocabulary_size", "vocab_size"} & set(names) or not set(names) <= set(known):
        return None
    return {name: known[name] for name in names} | OPTIONS.get(cls.__name__, {})


def _classes():
    found = [getattr(keras_hub.models, name) for name in sorted(dir(keras_hub.models))]
    return {
        cls.__name__: cls
        for cls in found
        if inspect.isclass(cls)
        and cls.__name__.endswith("Backbone")
        and cls is not keras_hub.models.Backbone
        and options_of(cls) is not None
    }


BACKBONES = _classes()


def build(name):
    keras.utils.set_random_seed(0)
    return BACKBONES[name](**options_of(BACKBONES[name]))
