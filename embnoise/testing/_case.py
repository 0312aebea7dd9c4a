"""``Case``: a layer to test and its claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embnoise.testing.claims import Claims
from embnoise.testing.drivers import DriverBase

__all__ = ["Case"]


@dataclass(frozen=True, eq=False)
class Case:
    """A layer to test and its claims; made by ``case``, which documents and checks the fields."""

    name: str
    make_layer: Callable[..., Any]
    driver: DriverBase
    inputs: str
    call: Callable[..., Any] | None
    claims: Claims
    expected_failures: Mapping[str, str] = field(default_factory=dict)
