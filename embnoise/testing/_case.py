"""``Case``: a layer to test and its claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embnoise.testing.claims import Claims
from embnoise.testing.drivers import DriverBase
from embnoise.testing.inputs import Inputs, inputs_of

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
    padding_id: int = 0
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that the driver declares for inputs of this kind."""
        return self.driver.ids_dtypes if self.inputs == "ids" else self.driver.dtypes

    def batch(self, shape: tuple[int, int, int], **options: Any) -> Inputs:
        """A batch of the kind that the layer takes; options are those of ``inputs_of``."""
        return inputs_of(self.inputs, shape, padding_id=self.padding_id, **options)
