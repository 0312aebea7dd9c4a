"""What the rules of ``configurations.py`` do not get right, by model type of the configuration."""

from __future__ import annotations

from typing import Any


def _mrope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary positions of several kinds, whose sections fill half of a head."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}
    return {"rope_parameters": rope}


_VQ = {"base_channels": 32, "latent_channels": 32, "embed_dim": 32}
_VIBE = {"num_filters": 2, "depths": [1] * 7}
_SHARED_WINDOW = {"attention_window": 8}

CORRECTIONS: dict[str, dict[str, Any]] = {
    "blip-2": {"image_token_id": 100},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "chameleon": {"vocabulary_map": {"<image>": 100}},
    "chameleon_vqgan": _VQ,
    "clvp_encoder": {"num_attention_heads": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _mrope(2, 3, 3)["rope_parameters"]}
    },
    "cosmos3_edge_text": _mrope(2, 3, 3),
    "dac": {"encoder_hidden_size": 4},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "dots1": {"n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": {"vocabulary_map": {"<image>": 100, "<|extra_200|>": 101}},
    "emu3_vqgan": {"base_channels": 32, "latent_channels": 4, "embed_dim": 4},
    "ernie4_5_vl_moe_text": _mrope(3, 3, 2),
    "esm": {"pad_token_id": 1, "mask_token_id": 4},
    "florence_vision": {
        "embed_dim": [16, 16, 16, 16],
        "num_heads": [2] * 4,
        "num_groups": [2] * 4,
        "depths": [1] * 4,
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 16}},
    "fun_asr_nano_adaptor": {"intermediate_size": 16},
    "funnel": {"d_inner": 64, "block_sizes": [1, 1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4v_moe_text": _mrope(1, 1, 2, partial_rotary_factor=0.5),
    "glm4v_text": _mrope(2, 3, 3),
    "glm_image_text": _mrope(2, 3, 3),
    "glm_ocr_text": _mrope(2, 3, 3),
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite4_vision": {"deepstack_layer_map": [(0, 0)], "downsample_rate": "1/2"},
    "grounding-dino": {"num_queries": 8, "backbone_config": {"out_indices": [1, 2]}},
    "hunyuan_vl_text": _mrope(2, 2, 2, 2),
    "instructblip": {"image_token_id": 100},
    "instructblipvideo": {"video_token_id": 100},
    "janus_vqgan": {**_VQ, "embed_dim": 8},
    "kosmos-2": {"latent_query_num": 2},
    "layoutlmv3": {"input_size": 32, "coordinate_size": 10, "shape_size": 12},
    "led": _SHARED_WINDOW,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 96},
    "longcat_flash": {"head_dim": 8},
    "longformer": _SHARED_WINDOW,
    "mamba2": {"num_heads": 8},
    "mimi": {"num_filters": 8, "upsample_groups": 64},
    "mm-grounding-dino": {"num_queries": 8, "backbone_config": {"out_indices": [1, 2]}},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "molmo2_vision": {"image_size": [28, 28]},
    "muse_spark_audio": {
        "num_hidden_layers": 4,
        "hidden_sizes": [16, 16, 16, 16],
        "depths": [1, 1, 1, 1],
    },
    "nemotron": {"num_key_value_heads": 2},
    "owlv2_vision_model": {"image_size": 32},
    "owlvit_vision_model": {"image_size": 64},
    "paddleocr_vl_text": _mrope(2, 3, 3),
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 1},
    "qwen2_5_omni_text": _mrope(2, 3, 3),
    "qwen2_5_omni_thinker": {"vision_start_token_id": 120},
    "qwen2_5_vl_text": _mrope(2, 3, 3),
    "qwen2_vl_text": _mrope(2, 3, 3),
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 120},
    "reformer": {
        "axial_pos_embds_dim": (32, 32),
        "axial_pos_shape": (3, 4),
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
    },
    "speecht5": {"apply_spec_augment": False},
    "step3p5": {"sliding_window": 8},
    "swin": {
        "embed_dim": 24,
        "image_size": 28,
        "window_size": 7,
        "depths": [1, 1],
        "num_heads": [2, 2],
    },
    "vibevoice_acoustic_tokenizer": _VIBE,
    "vibevoice_acoustic_tokenizer_decoder": _VIBE,
    "vibevoice_acoustic_tokenizer_encoder": _VIBE,
    "vits": {"upsample_initial_channel": 32, "flow_size": 32},
    "wav2vec2": {"apply_spec_augment": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}
