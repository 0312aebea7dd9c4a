"""Compiled, the layer does what it does uncompiled."""

from __future__ import annotations

import numpy as np

from embnoise.testing.failures import BrokenError, MisuseError, UnclaimedError
from embnoise.testing.registry import check
from embnoise.testing.subject import Subject


@check("EN22", claimed=lambda claims: None if claims.compiled else "compiled=False")
def compiled_equals_eager(subject: Subject) -> None:
    """Under the framework's compiler the noise is that of uncompiled calls, step for step.

    Of a layer that follows a global seed only this is asked: no noise in evaluation, noise in
    training after it, and another at each step. A layer fails it whose noise is drawn while
    tracing and frozen, or that is compiled once for both modes.
    """
    compile_ = subject.able("compile")
    inputs = subject.batch()
    start = subject.first_step()
    steps = [step for step in range(start, start + 20) if subject.claims.share(step) > 0][:2]
    eager = subject.layer()
    clean = eager.eval(inputs)
    expected = [eager.train(inputs, step) - clean for step in steps]
    subject.anew()
    layer = subject.layer()
    subject.lines.append("# the calls below are compiled: driver.compile(driver.call)")
    layer.call = compile_(layer.call)
    try:
        without = layer.eval(inputs)
        found = [layer.train(inputs, step) - without for step in steps]
    except MisuseError as error:
        raise BrokenError(f"under the compiler {error}", "it cannot be traced") from None
    subject.expect(
        np.allclose(without, clean, rtol=2.0**-20, atol=0),
        "compiled, evaluation mode gives other embeddings than uncompiled",
        "the mode is read once, while tracing",
    )
    subject.expect(
        all(bool(noise.any()) for noise in found),
        "compiled, there is no noise in training mode after a call in evaluation mode",
        "the compiled code is that of evaluation mode: what switches the noise on (a hook, a "
        "flag) is not looked at again",
    )
    if len(found) < 2:
        raise UnclaimedError("the schedule is above 0 at one step only")
    magnitudes = [subject.claims.share(step) for step in steps]
    first, second = (noise / share for noise, share in zip(found, magnitudes, strict=True))
    subject.expect(
        bool(abs(first - second).max() > 2.0**-12 * abs(first).max()),
        f"compiled, steps {steps[0]} and {steps[1]} have the same noise",
        "the noise is drawn while tracing (by Python or NumPy, or from a state that is a "
        "constant to the compiler) and frozen into the compiled code. In JAX pass the step or the "
        "key in, or keep it in an nnx.Variable; in Keras draw with a SeedGenerator, or count in a "
        "weight",
    )
    if subject.claims.seeded is True:
        size = float(abs(np.array(expected)).max()) + float(abs(clean).max())
        moved = max(float(abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        subject.expect(
            moved <= 2.0**-18 * size,
            f"compiled, the noise of the same seed and steps differs, by up to {moved:.3g} (the "
            f"largest |noise| is {size:.3g})",
            "the compiled code draws from another generator, or counts its steps in another way",
        )
