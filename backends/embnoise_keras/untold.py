"""What may be wrong with the noise of lookups, of which the calls around them tell too little."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from embnoise.backend import Noise, TokenFunctions, uses_length
from embnoise_keras._compat import known_value
from embnoise_keras._compat_graph import GraphCall
from embnoise_keras.comparisons import Comparisons
from embnoise_keras.inputs import Place, label, shape_of
from embnoise_keras.known_values import are_column, is_inverted, is_of_other_ids
from embnoise_keras.model_call import ModelCall
from embnoise_keras.unknown_inputs import documents_among, mask_of_scores, unknown_mask

__all__ = ["Untold"]

_FIRST = 8
"""In how many lookups values are read that are only looked at. Each read waits for a GPU."""


class Untold:
    """The warnings and errors of the lookups of a layer, each warning once.

    Args:
        layer: The layer.
        noise: Its noise.
        functions: The user's functions that describe the tokens.
        comparisons: What the graphs of the layers around it compare their inputs with, by the
            identity of those layers.
    """

    def __init__(
        self,
        layer: Any,
        noise: Noise,
        functions: TokenFunctions,
        comparisons: Mapping[int, Comparisons],
    ) -> None:
        self._name = repr(layer.name)
        self._knows_zero = bool(getattr(layer, "mask_zero", False))
        self._counts = uses_length(noise)
        self._where_names = functions.where_names
        self._comparisons = comparisons
        self._warned: set[str] = set()
        self._looks_at_values = _FIRST  # in how many more lookups values are read
        self._looks_at_documents = _FIRST if self._counts and noise.length == "tokens" else 0

    def _warn(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(f"embnoise: {message}", RuntimeWarning, stacklevel=2)

    def warn_of_unknown(
        self, ids: Any, calls: list[ModelCall], graph: list[GraphCall | None]
    ) -> None:
        """Warn of what may tell the padding of ids, but is not known to."""
        said = [mask_of_scores(call.inputs) for call in calls]
        named = {part for call in calls for place in call.inputs.leaves for part in place}
        pairs = zip(calls, graph, strict=True)
        known = [(self._comparisons[id(call.layer)], each) for call, each in pairs if each]
        if self._where_names <= {"ids", *named}:  # others may stand for any of them
            said += [
                unknown_mask(call.inputs, ids, calls[-1].looked_up, self._where_names)
                for call in calls
            ]
            said += [comparisons.of_others(each, self._where_names) for comparisons, each in known]
        said += [comparisons.unknown(each) for comparisons, each in known]
        found = next(filter(None, said), None)
        if found:
            self._warn(
                "mask",
                f"{found}, so it does not tell the padding of what {self._name} looked up, whose "
                "rows are taken as full. Pass tokens= to attach, such as tokens=lambda ids: "
                "{'mask': ids != 0}, with 'segment_ids' for packed rows, or tokens=lambda ids: {} "
                "if they are full",
            )

    def warn_of_likelier(self, place: Place, mask: Any) -> None:
        """Warn that a mask was taken that more likely belongs to the ids at ``place``."""
        self._warn(
            "whose",
            f"a mask of shape {shape_of(mask)} among the model's inputs is taken as that of what "
            f"{self._name} looked up, but may be that of {label(place)}. Pass tokens= to attach, "
            "such as tokens=lambda ids: {'mask': ids != 0}",
        )

    def look_at_values(
        self, ids: Any, mask: Any, calls: list[ModelCall], *, computed: bool
    ) -> None:
        """Compare ids with their mask, in the first lookups of which the values are known.

        Args:
            ids: What was looked up, [B, L].
            mask: The mask among the inputs of the calls.
            calls: The running calls.
            computed: Whether the model computed the ids.

        Raises:
            ValueError: The mask is nonzero for padding alone.
        """
        if not self._looks_at_values or not (computed or self._knows_zero):
            return
        looked_up, told = known_value(ids), known_value(mask)
        if looked_up is None or told is None or looked_up.shape != told.shape:
            return
        self._looks_at_values -= 1
        if self._knows_zero and is_inverted(told, looked_up):
            raise ValueError(
                "found a mask among the model's inputs that is nonzero where "
                f"{self._name} looked up 0, its id of padding, and nowhere else; a mask must be "
                "nonzero for real tokens. Pass the model its opposite, or tokens=, such as "
                "tokens=lambda ids: {'mask': ids != 0}"
            )
        leaves = [each for call in calls for each in call.inputs.leaves.values()]
        given = [known_value(each) for each in leaves if shape_of(each) == shape_of(ids)]
        if computed and is_of_other_ids(told, looked_up, [x for x in given if x is not None]):
            self._warn(
                "mask",
                f"{self._name} looked up token ids that the model computed, several where the mask "
                "among its inputs tells padding, as if they were in another order. The mask is "
                "taken as it is: pass tokens= to attach, such as tokens=lambda ids: "
                "{'mask': ids != 0}",
            )

    def warn_of_documents(self, ids: Any, mask: Any, calls: list[ModelCall]) -> None:
        """Warn of what tells that several documents are in a row, so that L is too large.

        Args:
            ids: What was looked up.
            mask: Their mask, if there is one.
            calls: The running calls.
        """
        if not self._looks_at_documents or self._warned & {"documents", "mask"}:
            return
        self._looks_at_documents -= 1
        for call in calls:
            place = documents_among(call.inputs, ids, calls[-1].looked_up, mask)
            if place is None:
                continue
            self._warn(
                "documents",
                f"{label(place)} may tell several documents in a row, but each row that "
                f"{self._name} looked up is taken as one. Pass tokens= to attach: for packed rows, "
                "such as tokens=lambda documents: {'segment_ids': documents}; if rows are whole, "
                "such as tokens=lambda ids: {'mask': ids != 0}",
            )
            return

    def check_rows(self, ids: Any, calls: list[ModelCall], sources: Iterable[Place]) -> None:
        """Raise if ids are one token of each of the rows that the model was called with.

        Without values, warn if the model looks up one token of each row several times in a call.

        Args:
            ids: What was looked up.
            calls: The running calls.
            sources: Where ids, or what they were computed from, are among the inputs of the last.

        Raises:
            ValueError: They are a column of its inputs, so that nothing tells their L.
        """
        shape = shape_of(ids)
        if not self._counts or shape[1:] != (1,):
            return
        inputs = calls[-1].inputs
        given = [inputs.leaves[place] for place in sources] or [
            each
            for place, each in inputs.leaves.items()
            if "int" in str(getattr(each, "dtype", "")) and "len" not in str(place[-1])
        ]
        shapes = [shape_of(each) for each in given]
        if any(len(each) == 1 or each[1:] == (1,) for each in shapes):
            return  # they may be what was looked up
        given = [each for each in given if len(shape_of(each)) == 2]
        looked_up = known_value(ids) if self._looks_at_values else None
        if looked_up is not None:
            self._looks_at_values -= 1
            rows = [known_value(each) for each in given]
            if any(are_column(looked_up, each) for each in rows if each is not None):
                raise ValueError(
                    f"{self._name} looked up ids of shape {shape}, which are one token of each row "
                    "that the model was called with, so nothing tells their L: look up whole rows, "
                    "or pass neftune(length=L)"
                )
        alike = [each for each in calls[-1].looked_up if shape_of(each) == shape]
        if alike and any(shape_of(each)[:1] == shape[:1] for each in given):
            self._warn(
                "rows",
                f"{self._name} looks up one token of each row at a time, of shape {shape}, so L is "
                "1, and the noise is too large if they belong to longer rows: look up whole rows, "
                "or pass neftune(length=L)",
            )
