"""What each model type is called with: token ids, masks, and what its forward cannot do without."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.torch.sweep.inputs import ROWS, WIDTH, needed, parameters_of

DECODER_WIDTH = 8
LENGTHS, DECODER_LENGTHS = (12, 7, 4), (8, 5, 3)
"""Of three rows: as long as the row, and shorter. ROWS differs from both widths."""


class Side(NamedTuple):
    """What is looked up on one side of a model, and what is known of its tokens."""

    ids: Tensor
    tokens: dict[str, Tensor]


def padded(lengths: tuple[int, ...], width: int, side: str, pad: int, seed: int) -> Side:
    """Random ids in rows of these lengths, padded on the right or on the left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 30, (len(lengths), width), generator=generator)
    column, length = torch.arange(width), torch.tensor(lengths)[:, None]
    mask = column < length if side == "right" else column >= width - length
    return Side(ids.where(mask, pad), {"mask": mask.long()})


def pad_of(model: nn.Module) -> int:
    """The id that fills rows; models without one take 0."""
    try:
        pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    except ValueError:  # several texts
        pad = None
    return max(pad or 0, 0)


UNUSED = {
    "blip-2": "decoder_input_ids",
    "instructblip": "decoder_input_ids",
    "instructblipvideo": "decoder_input_ids",
    "pp_formulanet": "input_ids",
}
"""Ids that a signature takes and the model, at least this one, does not look up."""


MASK_BY_KEYWORD = {"vibevoice"}
"""Types that take the mask among their ``**kwargs``."""


def call_of(model: nn.Module, padding: str) -> tuple[dict[str, Any], dict[str, Side]]:
    """The arguments of a training call, and its sides by the argument with their ids."""
    parameters = parameters_of(model)
    pad = pad_of(model)
    call: dict[str, Any] = {}
    sides = {}
    for name, mask_name, lengths, width, seed in (
        ("input_ids", "attention_mask", LENGTHS, WIDTH, 0),
        ("decoder_input_ids", "decoder_attention_mask", DECODER_LENGTHS, DECODER_WIDTH, 1),
    ):
        if name in parameters and name != UNUSED.get(model.config.model_type):
            side = sides[name] = padded(lengths, width, padding, pad, seed)
            call[name] = side.ids
            if mask_name in parameters or model.config.model_type in MASK_BY_KEYWORD:
                call[mask_name] = side.tokens["mask"]
    call.update(needed(model))
    if "decoder_attention_mask" in call and call["decoder_attention_mask"] is None:
        sides["decoder_input_ids"] = Side(call["decoder_input_ids"], {})  # it is all real
    return call, sides


DOCUMENTS = ((12,), (7, 5), (4, 5, 3))
"""The lengths of the documents of three packed rows."""


def takes_positions(model: nn.Module) -> bool:
    """Whether rows may be packed by ``position_ids``: of one text, in its one decoder."""
    parameters = parameters_of(model)
    return "position_ids" in parameters and "decoder_input_ids" not in parameters


def packed_call_of(
    model: nn.Module, kinds: int | None = None
) -> tuple[dict[str, Any], dict[str, Side]]:
    """The arguments of a training call with packed rows, without padding and without a mask.

    Args:
        model: The model.
        kinds: How many kinds of positions there are; by default they are [B, L].
    """
    call, _ = call_of(model, "right")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 30, (ROWS, WIDTH), generator=generator)
    positions = [torch.cat([torch.arange(n) for n in lengths]) for lengths in DOCUMENTS]
    segments = [
        torch.cat([torch.full((n,), number) for number, n in enumerate(lengths, 1)])
        for lengths in DOCUMENTS
    ]
    call.pop("attention_mask", None)
    position_ids = torch.stack(positions)
    if kinds is not None:
        position_ids = position_ids.expand(kinds, -1, -1)
    call.update(input_ids=ids, position_ids=position_ids)
    return call, {"input_ids": Side(ids, {"segment_ids": torch.stack(segments)})}
