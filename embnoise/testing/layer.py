"""``Layer``: a fresh layer in the hands of a check, which calls it.

All that a check sees of a framework goes through here: outputs are looked at before they are
measured, and every call is written down as the line that repeats it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embnoise._validation import dtype_name
from embnoise.testing.drivers import named, needs, signature_of
from embnoise.testing.failures import MisuseError, NotFiniteError, raised_by_layer
from embnoise.testing.inputs import Inputs, inputs_of

if TYPE_CHECKING:
    from embnoise.testing.subject import Subject

__all__ = ["Array", "Layer"]

Array = NDArray[np.float64]


class Layer:
    """A fresh layer, and the calls made to it.

    A layer that takes no ``step`` advances by being called: its training calls are its steps.
    """

    def __init__(self, subject: Subject, dim: int, alpha: float, seed: int, world: int) -> None:
        self.subject = subject
        self.alpha = alpha
        self.world = world
        self.calls = 0
        self.driver = subject.case.driver
        self.seed("make")
        self.native = subject.make(dim, alpha, seed)
        self.call: Callable[..., Any] = subject.case.call or self.driver.call
        self._signature = subject.case.call or signature_of(self.native)

    def parameters(self) -> list[str]:
        """The names of what is called."""
        try:
            return list(inspect.signature(self._signature).parameters)
        except (TypeError, ValueError):  # some builtins have none
            return []

    def takes(self, keyword: str) -> bool:
        """Whether the layer is given a keyword."""
        return bool(named(self._signature, {keyword: None}))

    def train(self, inputs: Inputs, step: int | None = None) -> Array:
        """The output in training mode, at the next step or at a later one."""
        return self.run(inputs, training=True, step=self.advance(inputs, step))

    def eval(self, inputs: Inputs) -> Array:
        """The output in evaluation mode."""
        return self.run(inputs, training=False, step=self.calls)

    def noise(self, inputs: Inputs, step: int | None = None) -> Array:
        """The noise of a training call, [B, L, d]."""
        return self.train(inputs, step) - self.clean(inputs)

    def clean(self, inputs: Inputs) -> Array:
        """The embeddings without noise."""
        if self.subject.case.inputs == "ids":
            return self.eval(inputs)
        native = self.driver.from_numpy(inputs.values, self.subject.dtype)
        return np.asarray(self.driver.to_numpy(native), np.float64)

    def units(self, inputs: Inputs, step: int | None = None) -> Array:
        """The noise over the magnitude that it should have; padding counts as 0."""
        at = self.calls if step is None else step
        noise = self.noise(inputs, step)
        magnitude = self.subject.magnitudes(
            inputs, self.clean(inputs), self.alpha, self.subject.claims.share(at)
        )
        return np.divide(
            noise, magnitude[..., None], out=np.zeros_like(noise), where=magnitude[..., None] > 0
        )

    def advance(self, inputs: Inputs, step: int | None) -> int:
        """Go to a step: by calling the layer, if it takes no step."""
        if step is None:
            step = self.calls
        if not self.takes("step"):
            self._call_until(step, inputs_of(self.subject.case.inputs, (1, 1, inputs.dim)))
        self.calls = step + 1
        return step

    def _call_until(self, step: int, inputs: Inputs) -> None:
        lines, missing = self.subject.lines, step - self.calls
        written = len(lines)
        while self.calls < step:
            self.run(inputs, training=True, step=self.calls)
            self.calls += 1
        if missing > 0:
            call = lines[-1].partition(" = ")[2]
            lines[written:] = [
                *(line for line in lines[written:] if line.startswith(("mask =", "x ="))),
                f"for _ in range({missing}):  # without a step it advances by being called",
                f"    {call}",
            ]

    def run(self, inputs: Inputs, *, training: bool, step: int) -> Array:
        """The output of one call, looked at and copied."""
        native = self.prepared(inputs)
        return self.checked(self.raw(inputs, native, training=training, step=step), inputs)

    def prepared(self, inputs: Inputs) -> Any:
        """The inputs as the framework's array."""
        dtype = None if self.subject.case.inputs == "ids" else self.subject.dtype
        return self.driver.from_numpy(inputs.values, dtype)

    def keywords(self, inputs: Inputs, *, training: bool, step: int) -> dict[str, Any]:
        """What the layer may be given besides its inputs."""
        keywords: dict[str, Any] = {"training": training, "step": step}
        for name, array in (("mask", inputs.mask), ("segment_ids", inputs.segments)):
            if self._told(name, inputs):
                keywords[name] = self.driver.from_numpy(array)
        return keywords

    def _told(self, name: str, inputs: Inputs) -> bool:
        """Whether there is padding, or packed rows, to tell of, or no default to leave it at."""
        special = {"mask": not inputs.mask.all(), "segment_ids": inputs.packed}[name]
        return special or needs(self._signature, name)

    def raw(self, inputs: Inputs, native: Any, *, training: bool, step: int) -> Any:
        """The output as the framework has it, of inputs as the framework has them."""
        if self.subject.claims.seeded is not True:  # else what is global does not matter: EN05
            self.seed(step)
        self._write(inputs, training=training, step=step)
        keywords = self.keywords(inputs, training=training, step=step)
        if self.subject.case.call:
            if hasattr(self.driver, "switch"):
                self.driver.switch(self.native, training)
            if hasattr(self.driver, "key"):
                keywords["key"] = self.driver.key
            keywords = named(self.subject.case.call, keywords)
        try:
            return self.call(self.native, native, **keywords)
        except Exception as error:
            mode = "training" if training else "evaluation"
            raise raised_by_layer(
                f"the layer, called with {self._shown(inputs)} in {mode} mode,", error
            ) from None

    def _shown(self, inputs: Inputs) -> str:
        if self.subject.case.inputs == "ids":
            return f"ids of shape {inputs.values.shape}"
        return f"embeddings of shape {inputs.values.shape} and dtype {self.subject.dtype}"

    def checked(self, output: Any, inputs: Inputs) -> Array:
        """An output's values, if it is one."""
        batch, width, dim = inputs.shape
        expected = (batch, width, dim)
        if not hasattr(output, "shape") or not hasattr(output, "dtype"):
            kind = "None" if output is None else f"a {type(output).__name__}"
            raise MisuseError(
                f"the layer returned {kind}; it must return an array of shape {expected} (with "
                "call= you can pick it out)"
            )
        if tuple(output.shape) != expected:
            raise MisuseError(
                f"the layer returned an array of shape {tuple(output.shape)} for inputs of shape "
                f"{inputs.values.shape}; it must be {expected}"
            )
        if not dtype_name(output).startswith(("float", "bfloat")):
            raise MisuseError(
                f"the layer returned an array of dtype {dtype_name(output)}; it must be of "
                "a floating-point dtype"
            )
        try:
            values = np.asarray(self.driver.to_numpy(output), np.float64)
        except Exception:
            raise MisuseError(
                f"the layer returned a {type(output).__module__}.{type(output).__name__}, which "
                f"the driver {self.driver.name!r} cannot read: is it a layer of another framework?"
            ) from None
        wrong = values.size - int(np.isfinite(values).sum())
        if wrong:
            raise NotFiniteError(
                f"the layer returned {wrong} values of {values.size} that are NaN or infinite, for "
                f"finite inputs of shape {inputs.values.shape} and dtype {self.subject.dtype}. "
                "Likely: a division by a length of 0 (a row that is all padding), or an overflow."
            )
        return values

    def seed(self, moment: int | str) -> None:
        """Set the framework's global random state to that of a step's calls."""
        digest = hashlib.sha256(f"{self.world}/{moment}".encode()).digest()
        state = int.from_bytes(digest[:4], "little") % 2**31
        self.subject.lines.append(f"driver.seed({state})")
        self.driver.seed(state)

    def _write(self, inputs: Inputs, *, training: bool, step: int) -> None:
        kind = "" if self.subject.case.inputs == "ids" else f", {self.subject.dtype!r}"
        given = [f"training={training}"]
        if self.takes("mask") and self._told("mask", inputs):
            given.append("mask=driver.from_numpy(mask)")
        if self.takes("step"):
            given.append(f"step={step}")
        documents = "mask.astype(int)"
        if inputs.packed:
            documents = f"np.array({inputs.segments.tolist()})"
        if self.takes("segment_ids") and self._told("segment_ids", inputs):
            given.append(f"segment_ids=driver.from_numpy({documents})")
        call = "call" if self.subject.case.call else "driver.call"
        self.subject.outputs += 1
        if not inputs.mask.all() or "mask" in " ".join(given):
            self.subject.write(f"mask = {inputs.mask_source}")
        self.subject.write(f"x = driver.from_numpy({inputs.source}{kind})")
        self.subject.lines.append(
            f"y{self.subject.outputs} = driver.to_numpy({call}(layer, x, {', '.join(given)}))"
        )
