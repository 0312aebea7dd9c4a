"""Tiny models of the types of transformers that look up tokens."""

from __future__ import annotations

import functools
import inspect

import torch
from torch import nn

from tests.torch.sweep.configurations import tiny_config

TASKS = (
    "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM",
    "TEXT_TO_WAVEFORM", "MASKED_LM", "CAUSAL_LM", "TEXT_ENCODING", "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "VISUAL_QUESTION_ANSWERING", "PRETRAINING", "TEXT_TO_SPECTROGRAM", "RETRIEVAL",
    "DOCUMENT_QUESTION_ANSWERING", "TABLE_QUESTION_ANSWERING", "QUESTION_ANSWERING",
    "ZERO_SHOT_OBJECT_DETECTION",
)  # fmt: skip
"""The auto classes, the most specific first; the bare model comes last."""


@functools.cache
def class_names() -> dict[str, str]:
    """The class of every model type, by the first task that has one."""
    from transformers.models.auto import modeling_auto  # noqa: PLC0415, other tests do without it

    names: dict[str, str] = {}
    for task in [*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS), "MODEL_MAPPING_NAMES"]:
        for model_type, name in getattr(modeling_auto, task).items():
            names.setdefault(model_type, name if isinstance(name, str) else name[0])
    return {**names, **CLASSES}


CLASSES = {"splinter": "SplinterModel"}
"""Where the first task asks for more than tokens."""


def class_of(model_type: str) -> type[nn.Module]:
    """The class of a model type."""
    import transformers  # noqa: PLC0415

    return getattr(transformers, class_names()[model_type])


def looks_tokens_up(model_type: str) -> bool:
    """Whether a type takes token ids; a type whose class is not there is taken to."""
    try:
        parameters = inspect.signature(class_of(model_type).forward).parameters
    except (AttributeError, ImportError):
        return True
    return not {"input_ids", "decoder_input_ids"}.isdisjoint(parameters)


def build(model_type: str) -> nn.Module:
    """A tiny model in training mode, the same each time."""
    from transformers import CONFIG_MAPPING  # noqa: PLC0415

    config = tiny_config(CONFIG_MAPPING[model_type], model_type)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return class_of(model_type)(config).train()
