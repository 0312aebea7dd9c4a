"""The embedding table of a ``.safetensors`` file, read without the rest of it.

The file is 8 bytes with the length of a header, the header, JSON with the dtype, the shape and the
offsets of each tensor, and the bytes of the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._validation import did_you_mean

__all__ = ["read_table", "table_name"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_EMBEDDING = re.compile(
    r"(^|[./])(embed_tokens|word_embeddings|wte|tok_embeddings|shared|token_embedding|embedder|"
    r"embeddings?|embed)([./](weight|embeddings?|embedding|input_embedding))?([./]value)?$"
)
"""What the token embeddings of models are called."""


def table_name(shapes: Mapping[str, tuple[int, ...]], layer: str | None) -> str:
    """The name of the embedding table among arrays.

    Args:
        shapes: The shape of each array by name.
        layer: The name, or that of its module, if there are several.

    Raises:
        ValueError: None has that name, or looks like an embedding table, or several do.
    """
    tables = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    if layer is not None:
        found = [name for name in shapes if re.split(f"^{re.escape(layer)}(?=[./]|$)", name)[1:]]
        if len(found) != 1:
            raise ValueError(
                f"--layer must name one array, got {layer!r}{did_you_mean(layer, tables)}, which "
                f"matches {len(found)}"
            )
        return found[0]
    found = [name for name in tables if _EMBEDDING.search(name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{name!r} {tables[name]}" for name in (found or tables)) or "none"
    raise ValueError(
        f"found {len(found) or 'no'} arrays that are called like a token embedding; pass --layer. "
        f"Candidates: {listed}"
    )


def read_table(path: Path, layer: str | None) -> tuple[str, NDArray[Any]]:
    """The embedding table of a file, and its name; bfloat16 is read as float32.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file, or its table is not found or not floating-point.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 0 < length <= size - 8:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} is no .safetensors file: {error}") from None
        name = table_name(shapes, layer)
        kind, (start, end) = header[name]["dtype"], header[name]["data_offsets"]
        if kind not in _DTYPES:
            raise ValueError(
                f"--layer must name a floating-point table, and {name!r} of {str(path)!r} has the "
                f"dtype {kind}"
            )
        file.seek(8 + length + start)
        data = file.read(end - start)
    if len(data) != end - start:
        raise ValueError(f"{str(path)!r} ends before its tensor {name!r} does")
    table: NDArray[Any] = np.frombuffer(data, _DTYPES[kind]).reshape(shapes[name])
    if kind == "BF16":  # the upper half of float32
        table = (table.astype(np.uint32) << 16).view(np.float32)
    return name, table
