"""``LayerUnderTest``: a fresh layer and the calls that a check makes to it.

All that a check sees of a framework goes through here: an output is validated before it is
measured, and every call is recorded in the transcript.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from embnoise._validation import dtype_name
from embnoise.testing._case import Case
from embnoise.testing.diagnosis import cause_of_infinity
from embnoise.testing.drivers import DriverBase
from embnoise.testing.failures import (
    ERRORS,
    NotClaimedError,
    NotFiniteError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.findings import Findings
from embnoise.testing.framework_arrays import (
    GIVEN,
    array_of,
    array_source,
    given_array,
    given_source,
)
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.magnitudes import claimed_magnitudes
from embnoise.testing.signatures import (
    KEYWORDS,
    is_opaque,
    named,
    needs,
    parameters_of,
    signature_of,
)
from embnoise.testing.transcript import Transcript

__all__ = ["LayerUnderTest", "seed_globally"]

_MISSING = re.compile("missing .* required .*argument.*")
_UNEXPECTED = re.compile("unexpected keyword argument '(mask|step|segment_ids|training)'")


def seed_globally(
    driver: DriverBase, transcript: Transcript, world: int, moment: int | str
) -> None:
    """Seed the framework's global random state for one moment of a layer's life.

    Args:
        driver: The framework's driver.
        transcript: Where to record it.
        world: Determines the states of all moments.
        moment: ``"make"``, or the step of a call.
    """
    digest = hashlib.sha256(f"{world}/{moment}".encode()).digest()
    state = int.from_bytes(digest[:4], "little") % 2**31
    transcript.write(f"driver.seed({state})")
    driver.seed(state)


class LayerUnderTest:
    """A fresh layer and the calls made to it.

    A layer that takes no ``step`` advances by being called: its training calls are its steps.

    Args:
        native: The layer, as the driver made it.
        case: What is tested.
        dtype: The dtype of the embeddings.
        transcript: Where to record the calls.
        alpha: The layer's alpha.
        world: Determines the framework's global random state at each step.
        name: The layer's name in the transcript.
        reference: A layer with alpha = 0, which shows the embeddings without noise of a layer that
            embeds ids. Default: the layer itself in evaluation mode.
        findings: The keywords that the layer is known to refuse or to require; a call may add to
            them.
    """

    def __init__(
        self,
        native: Any,
        *,
        case: Case,
        dtype: str,
        transcript: Transcript,
        alpha: float,
        world: int,
        name: str,
        reference: LayerUnderTest | None = None,
        findings: Findings,
    ) -> None:
        self.native = native
        self.reference = reference
        self._findings = findings
        self.case = case
        self.driver = case.driver
        self.dtype = dtype
        self.transcript = transcript
        self.alpha = alpha
        self.world = world
        self.name = name
        self.calls = 0
        self._clean: tuple[Inputs, Array] | None = None
        self._call = case.call or self.driver.call
        self._call_source = "call" if case.call else "driver.call"
        self._signature = case.call or signature_of(native)
        self.parameters = parameters_of(self._signature)
        """The parameters of the layer, or of the user's ``call``, by name."""
        self._gets = {*named(self._signature, dict.fromkeys((*KEYWORDS, "key")))}
        self._needs = {name for name in GIVEN if needs(self._signature, name)}

    def takes(self, keyword: str) -> bool:
        """Whether the layer names a keyword."""
        return keyword in self.parameters

    def gets(self, keyword: str) -> bool:
        """Whether the layer is given a keyword, which it names or takes as any other."""
        return keyword in self._gets - self._findings.refused

    def compile(self) -> None:
        """Compile the layer's calls from now on."""
        self._call = self.driver.compile(self._call)
        self.transcript.set("compiled", f"driver.compile({self._call_source})")
        self._call_source = "compiled"

    def transform(self, name: str) -> None:
        """Compute the layer's calls under a transformation from now on."""
        self._call = self.driver.transform(name, self._call)
        self.transcript.set("transformed", f"driver.transform({name!r}, {self._call_source})")
        self._call_source = "transformed"

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
        if self.case.inputs == "ids" and self.reference is None:
            return self.eval(inputs)
        if self._clean is None or self._clean[0] is not inputs:
            if self.reference is not None:
                values = self.reference.eval(inputs)
            else:
                values = np.asarray(self.driver.to_numpy(self.prepared(inputs)), np.float64)
            self._clean = inputs, values
        return self._clean[1]

    def units(self, inputs: Inputs, step: int | None = None) -> Array:
        """The noise divided by its claimed magnitude; 0 for padding."""
        at = self.calls if step is None else step
        output, clean = self.train(inputs, step), self.clean(inputs)
        noise = output - clean
        claims = self.case.claims
        magnitudes = claimed_magnitudes(claims, inputs, clean, self.alpha * claims.share(at))
        magnitudes = magnitudes[..., None]
        return np.divide(noise, magnitudes, out=np.zeros_like(noise), where=magnitudes > 0)

    def advance(self, inputs: Inputs, step: int | None) -> int:
        """Go to a step, by calling the layer if it takes no step; returns the step."""
        if step is None:
            step = self.calls
        if not self.takes("step"):
            self._call_until(step, self.case.batch((1, 1, inputs.dim)))
        self.calls = step + 1
        return step

    def _call_until(self, step: int, inputs: Inputs) -> None:
        if self.calls >= step:
            return
        self._record_arrays(inputs)
        self.transcript.loop(
            step - self.calls,
            self._source(inputs, training=True, step=self.calls),
            comment="without a step it advances by being called",
        )
        with self.transcript.paused():
            while self.calls < step:
                self.run(inputs, training=True, step=self.calls)
                self.calls += 1

    def run(self, inputs: Inputs, *, training: bool, step: int) -> Array:
        """The output of one call, validated and copied."""
        native = self.prepared(inputs)
        return self.checked(self.raw(inputs, native, training=training, step=step), inputs)

    def prepared(self, inputs: Inputs) -> Any:
        """The inputs as the framework's array."""
        dtype = None if self.case.inputs == "ids" else self.dtype
        return array_of(self.driver, inputs, inputs.values, dtype)

    def raw(
        self,
        inputs: Inputs,
        native: Any,
        *,
        training: bool,
        step: int,
        arrays: Mapping[str, Any] | None = None,
    ) -> Any:
        """The framework's own output for the framework's own inputs.

        Args:
            inputs: The batch.
            native: Its values as the framework's array.
            training: Whether the layer is in training mode.
            step: The step.
            arrays: The framework's ``mask`` and ``segment_ids``, if they are not to be made anew.
        """
        if self.case.claims.seeded is not True:  # else EN05 shows that the global state is not used
            self.seed(step)
        if self.case.call and self.driver.overrides("switch"):
            self.transcript.write(f"driver.switch({self.name}, {training})")
        self._record_arrays(inputs)
        source = self._source(inputs, training=training, step=step)
        self.transcript.call(f"driver.to_numpy({source})")
        return self.call(inputs, native, training=training, step=step, arrays=arrays)

    def record_gradient(
        self, inputs: Inputs, weights: str, *, of: str, training: bool, step: int
    ) -> None:
        """Record the gradient of one call, given Python for the weights of its output."""
        self._record_arrays(inputs)
        self.transcript.set("weights", weights)
        call = self._source(inputs, layer="layer", x="x", training=training, step=step)
        self.transcript.write(
            f"gradients = driver.gradient(lambda layer, x: {call}, {self.name}, "
            f"{self._native_source(inputs)}, driver.from_numpy(weights, {self.dtype!r}), of={of!r})"
        )

    def arrays(self, inputs: Inputs) -> dict[str, Any]:
        """The framework's ``mask`` and ``segment_ids``, those that the layer is given."""
        return {
            name: given_array(self.driver, inputs, name)
            for name in GIVEN
            if self._is_given(name, inputs)
        }

    def call(
        self,
        inputs: Inputs,
        native: Any,
        *,
        training: bool,
        step: int,
        layer: Any = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> Any:
        """As ``raw``, without seeding or recording.

        Args:
            inputs: The batch.
            native: Its values as the framework's array.
            training: Whether the layer is in training mode.
            step: The step.
            layer: A copy of the layer, such as one that is being traced. Default: the layer.
            arrays: As for ``raw``.
        """
        layer = self.native if layer is None else layer
        keywords: dict[str, Any] = {"training": training, "step": step}
        keywords |= self.arrays(inputs) if arrays is None else arrays
        if self.case.call:
            self.driver.switch(layer, training)
            if self.driver.key is not None:
                keywords["key"] = self.driver.key
            keywords = named(self.case.call, keywords)
        for refused in self._findings.refused:
            keywords.pop(refused, None)
        try:
            return self._call(layer, native, **keywords)
        except NotClaimedError:  # by the driver's transformation, not by the layer
            raise
        except ERRORS as error:
            refused = self._refused_in(error)
            if refused in keywords:
                self._findings.refused.add(refused)
                return self.call(inputs, native, training=training, step=step, layer=layer)
            if missing := self._missing_in(error) - keywords.keys():
                self._findings.required |= missing
                return self.call(inputs, native, training=training, step=step, layer=layer)
            mode = "training" if training else "evaluation"
            raise raised_by_layer(
                f"the layer, called with {self._shown(inputs)} in {mode} mode,", error
            ) from None

    def _refused_in(self, error: BaseException) -> str:
        """The keyword that a layer refused which its signature takes, as it takes any; or ""."""
        found = _UNEXPECTED.search(str(error))
        if isinstance(error, TypeError) and found and is_opaque(self._signature):
            return "" if found[1] == "training" else found[1]
        return ""

    def _missing_in(self, error: BaseException) -> set[str]:
        """The arrays that a layer requires although its signature takes any."""
        found = _MISSING.search(str(error))
        if isinstance(error, TypeError) and found and is_opaque(self._signature):
            return {name for name in GIVEN if f"'{name}'" in found[0]}
        return set()

    def seed(self, moment: int | str) -> None:
        """Seed the framework's global random state for a step."""
        seed_globally(self.driver, self.transcript, self.world, moment)

    def _is_given(self, name: str, inputs: Inputs) -> bool:
        """Whether the mask or the segment ids say something, or must be given anyway."""
        special = {"mask": not inputs.mask.all(), "segment_ids": inputs.packed}[name]
        return special or name in inputs.told or name in self._needs | self._findings.required

    def may_lack(self, name: str) -> bool:
        """Whether the layer takes the mask or the segment ids, and is called without them too."""
        return self.gets(name) and name not in self._needs | self._findings.required

    def _record_arrays(self, inputs: Inputs) -> None:
        if not inputs.mask.all() or (self.gets("mask") and self._is_given("mask", inputs)):
            self.transcript.set("mask", inputs.mask_source)
        if self.gets("segment_ids") and self._is_given("segment_ids", inputs):
            self.transcript.set("segment_ids", inputs.segments_source)
        self.transcript.set("x", inputs.source)

    def _source(
        self,
        inputs: Inputs,
        *,
        training: bool,
        step: int,
        layer: str | None = None,
        x: str | None = None,
    ) -> str:
        """Python for one call; ``layer`` and ``x`` are its arguments, by default the recorded."""
        given = [layer or self.name, x or self._native_source(inputs)]
        if not self.case.call or self.gets("training"):
            given.append(f"training={training}")
        given += [
            f"{name}={given_source(inputs, name)}"
            for name in GIVEN
            if self.gets(name) and self._is_given(name, inputs)
        ]
        if self.gets("step"):
            given.append(f"step={step}")
        if self.case.call and self.takes("key") and self.driver.key is not None:
            given.append("key=driver.key")
        return f"{self._call_source}({', '.join(given)})"

    def _native_source(self, inputs: Inputs) -> str:
        """Python for the inputs as the framework's array."""
        return array_source(inputs, "x", None if self.case.inputs == "ids" else self.dtype)

    def _shown(self, inputs: Inputs) -> str:
        if self.case.inputs == "ids":
            return f"ids of shape {inputs.values.shape}"
        return f"embeddings of shape {inputs.values.shape} and dtype {self.dtype}"

    def checked(self, output: Any, inputs: Inputs) -> Array:
        """The values of an output.

        Raises:
            UntestableError: It is not a floating-point array of the right shape.
            NotFiniteError: It has NaN or infinite values.
        """
        expected = inputs.shape
        if not hasattr(output, "shape") or not hasattr(output, "dtype"):
            kind = "None" if output is None else f"a {type(output).__name__}"
            raise UntestableError(
                f"the layer returned {kind}; it must return an array of shape {expected} (use "
                "call= to pick the array out)"
            )
        if tuple(output.shape) != expected:
            raise UntestableError(
                f"the layer returned an array of shape {tuple(output.shape)} for inputs of shape "
                f"{inputs.values.shape}; it must be {expected}"
            )
        if not dtype_name(output).startswith(("float", "bfloat")):
            raise UntestableError(
                f"the layer returned an array of dtype {dtype_name(output)}; it must be of "
                "a floating-point dtype"
            )
        try:
            values = np.asarray(self.driver.to_numpy(output), np.float64)
        except UntestableError as error:  # which names to_numpy, of the driver
            raise UntestableError(
                f"the layer returned a {type(output).__module__}.{type(output).__name__}, which "
                f"the driver {self.driver.name!r} cannot read: is it a layer of another framework? "
                f"({error})"
            ) from None
        wrong = values.size - int(np.isfinite(values).sum())
        if wrong:
            raise NotFiniteError(
                f"the layer returned {wrong} of {values.size} values that are NaN or infinite, for "
                f"finite inputs of shape {inputs.values.shape} and dtype {self.dtype}. "
                f"Likely: {cause_of_infinity(inputs.mask, inputs.dim)}."
            )
        return values
