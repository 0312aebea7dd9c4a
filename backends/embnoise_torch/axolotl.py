"""Noise in axolotl, from its YAML file."""

from __future__ import annotations

from typing import Any, Literal

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, model_validator

from embnoise.backend import Noise, read_noise
from embnoise_torch.transformers import NoiseCallback

__all__ = ["NoiseArgs", "NoiseConfig", "NoisePlugin"]


class NoiseConfig(BaseModel, extra="forbid"):
    """The arguments of ``NoiseCallback``, as axolotl's YAML file has them under ``embnoise:``.

    Attributes:
        noise: The arguments of ``Noise``, or the name of a JSON file that describes one.
        layer: As for ``attach``.
        where: As for ``attach``.
        placeholders: As for ``attach``.

    Raises:
        ValidationError: A wrong value, or a key that is not known.
    """

    noise: dict[str, Any] | str
    layer: str | list[str] | None = None
    where: Literal["all", "prompt", "completion"] = "all"
    placeholders: bool = False

    @model_validator(mode="after")
    def _check(self) -> NoiseConfig:
        """What is wrong with the noise is said before a model is loaded."""
        try:
            self.callback()
        except (OSError, TypeError) as error:  # which pydantic does not expect
            raise ValueError(str(error)) from None
        return self

    def callback(self) -> NoiseCallback:
        """The callback that adds this noise."""
        if isinstance(self.noise, str):
            noise = read_noise(self.noise)
        else:
            noise = Noise.from_dict({"embnoise": 1, **self.noise})
        return NoiseCallback(
            noise, layer=self.layer, where=self.where, placeholders=self.placeholders
        )


class NoiseArgs(BaseModel):
    """What the plug-in adds to axolotl's configuration."""

    embnoise: NoiseConfig


class NoisePlugin(BasePlugin):  # type: ignore[misc]  # axolotl may be missing
    """Adds a ``NoiseCallback`` to axolotl's trainer.

    In the YAML file:

        plugins:
          - embnoise_torch.axolotl.NoisePlugin
        embnoise:
          noise: {alpha: 5.0}
    """

    def get_input_args(self) -> str:
        """The class of what the plug-in adds to axolotl's configuration."""
        return f"{__name__}.{NoiseArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[NoiseCallback]:
        """The callback, for the trainer that axolotl is about to make."""
        return [NoiseConfig(**cfg.embnoise).callback()]
