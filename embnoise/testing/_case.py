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
    """A layer to test and its claims. ``case`` makes one, and checks what it is given.

    Attributes:
        name: The name in tests and reports.
        make_layer: ``make_layer(*, dim, alpha, seed)`` returns a fresh layer.
        driver: The framework's driver.
        inputs: What the layer takes: ``"embeddings"`` or ``"ids"``.
        call: ``call(layer, inputs, *, training, mask, step, segment_ids)``, or ``None`` for a layer
            that is called with these keywords itself.
        claims: What the layer claims.
        padding_id: The id of padding, for ``"ids"``.
        expected_failures: Reasons for the checks that are known to fail, by code, or by code and
            dtype.
    """

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
