"""Ids that are not text: padding, prompts, and the placeholders of images, videos and audio.

A multimodal model looks a placeholder up and puts the features of an image in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["SpecialIds", "special_ids_of"]

_PLACEHOLDER = re.compile(r"(image|video|audio|speech)_(token_(id|index)|patch_id)")


class SpecialIds(NamedTuple):
    """The special ids of a model, from its ``config``."""

    placeholders: tuple[int, ...] = ()
    """The ids whose embeddings the model replaces."""
    padding: int | None = None
    """The id of padding, if it is known."""
    padding_shows_at: tuple[int, ...] = ()
    """The columns, first and last, where that id can be nothing else, such as the end of a text."""
    vocabulary: int | None = None
    """How many ids the vocabulary has, if that is known. A model's own prompts may be above it."""

    def begin_or_end(self, ids: Tensor, mask: Tensor | None = None) -> bool:
        """Whether some row of ids begins or ends with padding, as far as that is known.

        Args:
            ids: [B, L] or [L].
            mask: What is known to be no padding, of the same shape or its transpose.
        """
        if self.padding is None or ids.numel() == 0:
            return False
        padding = torch.eq(ids, self.padding)
        if mask is not None and mask.shape == ids.shape:
            padding &= mask != 0
        return bool(padding[..., list(self.padding_shows_at)].any())

    def may_begin_or_end(self, ids: Tensor) -> bool:
        """Whether some row of ids may begin or end with padding, whatever else its id means.

        Args:
            ids: [B, L].
        """
        if self.padding is None:
            return ids.numel() > 0
        return self._replace(padding_shows_at=self.padding_shows_at or (0, -1)).begin_or_end(ids)

    def are_tokens(self, ids: Tensor) -> Tensor:
        """Boolean, false where an id that a model adds to its rows is padding or a prompt."""
        found = torch.ones_like(ids, dtype=torch.bool)
        if self.padding is not None:
            found &= ids != self.padding
        if self.vocabulary is not None:
            found &= ids < self.vocabulary
        return found

    def are_placeholders(self, ids: Tensor) -> Tensor:
        """Boolean, true where an id is a placeholder."""
        found = torch.zeros_like(ids, dtype=torch.bool)
        for each in self.placeholders:
            found |= ids == each
        return found

    def are_dummies(self, ids: Tensor) -> Tensor:
        """Boolean, true for ids that a model looks up in place of ones that are not in its table.

        A placeholder that becomes an id of some meaning, of a discrete image token, is no dummy.
        """
        found = ids == 0
        return found if self.padding is None else found | (ids == self.padding)


def special_ids_of(model: nn.Module, embedding: nn.Module, *, placeholders: bool) -> SpecialIds:
    """The special ids of an embedding in a model.

    Args:
        model: The ``config`` of the outermost module around the embedding that has one is
            searched, and the configs in that.
        embedding: Its ``padding_idx`` is used if the config has no ``pad_token_id``.
        placeholders: Whether placeholders are to be treated like other tokens.
    """
    found: dict[int, None] = {}
    padding: int | None = None
    others: dict[str, Any] = {}
    around = _with_config(model, embedding)
    for name, value in _entries(getattr(around, "config", None)):
        if name.endswith("_token_id") and name != "pad_token_id":
            others.setdefault(name, value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            continue
        if _PLACEHOLDER.fullmatch(name) and not placeholders:
            found[value] = None
        elif name == "pad_token_id" and padding is None:
            padding = value
    vocabulary = getattr(getattr(around, "config", None), "vocab_size", None)
    known = SpecialIds(tuple(found), vocabulary=vocabulary if isinstance(vocabulary, int) else None)
    own = getattr(embedding, "padding_idx", None)
    padding = own if padding is None else padding
    is_own = own is None and _is_input_table(around, embedding)  # as that of T5
    if padding is None or not (own == padding or is_own):
        return known._replace(padding=padding)  # a table of something else, perhaps
    return known._replace(padding=padding, padding_shows_at=_padding_shows_at(padding, others))


def _padding_shows_at(padding: int, others: dict[str, Any]) -> tuple[int, ...]:
    """The columns where padding can be nothing else, given the other special tokens."""
    same = {
        name for name, ids in others.items() if padding in (ids if isinstance(ids, list) else [ids])
    }
    if same - {"decoder_start_token_id"}:
        return ()
    return (-1,) if same else (0, -1)


def _with_config(model: nn.Module, embedding: nn.Module) -> nn.Module | None:
    """The outermost module around an embedding that has a ``config``."""
    for module in model.modules():
        if hasattr(module, "config") and any(each is embedding for each in module.modules()):
            return module
    return None


def _is_input_table(model: Any, embedding: nn.Module) -> bool:
    """Whether an embedding has the table of what a model of transformers is given."""
    if not hasattr(model, "get_input_embeddings"):
        return False
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return False
    return table is not None and table is getattr(embedding, "weight", None)


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a config, those of the configs in it last."""
    nested = []
    for name, value in getattr(config, "__dict__", {}).items():
        if hasattr(value, "to_dict"):
            nested.append(value)
        else:
            yield name, value
    for each in nested:
        yield from _entries(each)
