"""What model types are called with besides tokens: images, sounds, boxes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

ROWS, WIDTH = 3, 12


def parameters_of(model: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of a model's forward."""
    return dict(inspect.signature(model.forward).parameters)


def needed(model: nn.Module) -> dict[str, Any]:
    """The arguments that a call cannot do without."""
    extra = EXTRA.get(model.config.model_type, ())
    found = {
        name: make(model)
        for name, make in INPUTS.items()
        if (parameter := parameters_of(model).get(name)) is not None
        and (
            name in extra
            or name == model.main_input_name
            or parameter.default is inspect.Parameter.empty
        )
    }
    for name, make in OF_TYPE.get(model.config.model_type, {}).items():
        found[name] = make(model)
    return found


PARTS = (
    "vision_config",
    "audio_config",
    "backbone_config",
    "encoder_config",
    "encoder",
    "image_config",
)


def part(model: nn.Module, *attributes: str) -> Any:
    """The configuration, or the part of it, that has one of these attributes."""
    parts = [getattr(model.config, name, None) for name in PARTS]
    for config in (*parts, model.config):
        if any(hasattr(config, name) for name in attributes):
            return config
    return model.config


def images(model: nn.Module) -> Tensor:
    """[B, C, H, W]."""
    config = part(model, "image_size", "num_channels")
    size = getattr(config, "image_size", None) or 28
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.zeros(ROWS, getattr(config, "num_channels", 3), height, width)


def videos(model: nn.Module) -> Tensor:
    """[B, T, C, H, W]."""
    count = getattr(part(model, "num_frames"), "num_frames", 1)
    return images(model)[:, None].repeat(1, count, 1, 1, 1)


def one_image(model: nn.Module) -> Tensor:
    """[B, 1, C, H, W]."""
    return images(model)[:, None]


def patches(model: nn.Module) -> Tensor:
    """[B, 4, C * P * P]."""
    config = part(model, "patch_size")
    return torch.zeros(ROWS, 4, config.num_channels * config.patch_size**2)


def bins_of(model: nn.Module) -> int:
    config = part(model, "num_mel_bins", "input_feat_per_channel", "feature_size")
    for name in ("num_mel_bins", "input_feat_per_channel", "feature_size"):
        if hasattr(config, name):
            return getattr(config, name)
    return 80


def spectrogram(model: nn.Module) -> Tensor:
    """[B, bins, time]."""
    return torch.zeros(ROWS, bins_of(model), 128)


def spectrogram_by_time(model: nn.Module) -> Tensor:
    """[B, time, bins]."""
    return torch.zeros(ROWS, 128, bins_of(model))


def sound(model: nn.Module) -> Tensor:
    """[B, samples]."""
    return torch.zeros(ROWS, 4000)


def boxes(model: nn.Module) -> Tensor:
    """[B, L, 4]."""
    return torch.zeros(ROWS, WIDTH, 4, dtype=torch.long)


def flattened_patches(model: nn.Module) -> Tensor:
    """Rows and columns from 1, and the patches."""
    hidden = model.config.vision_config.patch_embed_hidden_size
    return torch.cat([torch.ones(ROWS, 4, 2), torch.zeros(ROWS, 4, hidden)], -1)


INPUTS: dict[str, Any] = {
    "pixel_values": images,
    "pixel_values_videos": videos,
    "input_features": spectrogram,
    "input_values": sound,
    "bbox": boxes,
    "flattened_patches": flattened_patches,
}
"""Arguments by name, for the types that cannot do without."""

_IMAGES = (
    "altclip", "chinese_clip", "clip", "clipseg", "metaclip_2", "siglip", "vilt", "aimv2",
    "bridgetower", "groupvit", "vision-text-dual-encoder", "flava", "grounding-dino",
    "mm-grounding-dino", "owlvit", "owlv2", "sam3", "omdet-turbo",
)  # fmt: skip

EXTRA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_IMAGES, ("pixel_values",)),
    "bros": ("bbox",),
    "clvp": ("input_features",),
    "speech-encoder-decoder": ("input_values",),
}
"""Arguments that a type cannot do without although its signature has a default."""

_BY_TIME = {"input_features": spectrogram_by_time}

OF_TYPE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "speech_to_text",
            "canary",
            "cohere_asr",
            "parakeet_rnnt",
            "parakeet_tdt",
            "nemotron_asr_streaming",
            "nemotron3_5_asr",
        ),
        _BY_TIME,
    ),
    "diffusion_gemma": {
        "decoder_input_ids": lambda model: 10 + torch.arange(ROWS * 8).reshape(ROWS, 8) % 20,
        "decoder_attention_mask": lambda model: None,
    },
    "flava": {"return_loss": lambda model: False},
    "idefics": {
        "pixel_values": one_image,
        "image_attention_mask": lambda model: torch.ones(ROWS, WIDTH, 1, dtype=torch.long),
    },
    "instructblip": {"qformer_input_ids": lambda model: torch.ones(ROWS, 5, dtype=torch.long)},
    "instructblipvideo": {
        "pixel_values": videos,
        "qformer_input_ids": lambda model: torch.ones(ROWS, 5, dtype=torch.long),
    },
    "kosmos-2": {
        "pixel_values": images,
        "image_embeds_position_mask": lambda model: (torch.arange(WIDTH) < 2).expand(ROWS, -1),
    },
    "layoutlmv3": {
        "bbox": boxes,
        "pixel_values": lambda model: torch.zeros(ROWS, 3, *[model.config.input_size] * 2),
    },
    "lxmert": {
        "visual_feats": lambda model: torch.zeros(ROWS, 4, model.config.visual_feat_dim),
        "visual_pos": lambda model: torch.zeros(ROWS, 4, 4),
    },
    "molmo2": {"mm_token_type_ids": lambda model: torch.zeros(ROWS, WIDTH, dtype=torch.long)},
    "pe_audio": {"input_values": lambda model: torch.zeros(ROWS, 1, 4000)},
    "pi0": {
        "pixel_values": one_image,
        "pixel_attention_mask": lambda model: torch.ones(ROWS, 1, dtype=torch.bool),
        "state": lambda model: torch.zeros(ROWS, model.config.max_state_dim),
        "actions": lambda model: torch.zeros(
            ROWS, model.config.chunk_size, model.config.max_action_dim
        ),
    },
    "siglip2": {
        "pixel_values": patches,
        "spatial_shapes": lambda model: torch.full((ROWS, 2), 2),
        "pixel_attention_mask": lambda model: torch.ones(ROWS, 4, dtype=torch.long),
    },
    "udop": {"bbox": lambda model: torch.zeros(ROWS, WIDTH, 4)},
    "voxtral_realtime": {
        "input_features": lambda model: torch.zeros(ROWS, bins_of(model), 8 * WIDTH)
    },
    "xclip": {"pixel_values": videos},
}
"""Arguments of one type, by how they are made."""
