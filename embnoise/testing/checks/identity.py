"""When the layer must do nothing, it does nothing."""

from __future__ import annotations

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.registry import check
from embnoise.testing.subject import Subject

LIKELY = (
    "noise is added in evaluation mode too: the layer does not look at its mode, or cannot be told "
    "of it (it is no module of its framework, and no parameter is named training)"
)


@check("EN02", dtypes="all")
def eval_is_identity(subject: Subject) -> None:
    """In evaluation mode the output is the input, bit for bit; of ids, a lookup without noise.

    A layer fails it that adds noise whatever its mode is, or scales what it does not noise. Of a
    layer that embeds ids, two calls must agree, and so must rows of equal ids.
    """

    def body(batch: Batch) -> None:
        inputs = batch.inputs(subject, "normal")
        layer = subject.layer(dim=batch.dim, alpha=batch.scaled(subject))
        first = layer.eval(inputs)
        if subject.case.inputs == "embeddings":
            expected = layer.clean(inputs)
        else:
            expected = layer.run(inputs, training=False, step=1)
        moved = float(abs(first - expected).max(initial=0))
        subject.expect(
            first.tobytes() == expected.tobytes(),
            f"evaluation mode changes the embeddings, by up to {moved:.3g} (B, L, d = "
            f"{inputs.shape})",
            LIKELY,
        )

    over_batches(subject, body)
    if subject.case.inputs == "ids":
        _equal_rows(subject)


def _equal_rows(subject: Subject) -> None:
    subject.anew()
    inputs = subject.batch()
    inputs.values[1:] = inputs.values[0]
    output = subject.layer().eval(inputs)
    subject.expect(
        bool((output == output[:1]).all()),
        "in evaluation mode rows of equal ids have different embeddings",
        LIKELY,
    )


@check("EN03", dtypes="all")
def alpha_zero_is_identity(subject: Subject) -> None:
    """With alpha = 0 the output in training mode is the input, bit for bit.

    A layer fails it whose amplitude does not come from alpha alone, or that takes 0 for "not given"
    (``alpha or 5.0``).
    """

    def body(batch: Batch) -> None:
        inputs = batch.inputs(subject, "normal")
        layer = subject.layer(dim=batch.dim, alpha=0.0)
        noise = layer.noise(inputs)
        moved = float(abs(noise).max(initial=0))
        subject.expect(
            moved == 0,
            f"with alpha = 0 the embeddings change, by up to {moved:.3g}",
            "the amplitude does not come from alpha alone, or 0 is taken for 'not given', as "
            "`alpha or default` does",
        )

    over_batches(subject, body)


@check("EN15")
def train_again(subject: Subject) -> None:
    """Train -> eval -> train: noise, none, and noise again.

    A layer fails it that switches its noise off in eval() and never on again, or keeps a copy of
    the mode.
    """
    inputs = subject.batch(fill="normal")
    layer = subject.layer()
    start = subject.first_step()
    silent = layer.clean(inputs)  # of ids: an evaluation call before any training
    first = layer.noise(inputs, start)
    clean = layer.eval(inputs)
    left = float(abs(clean - silent).max(initial=0))
    subject.expect(
        left == 0,
        f"after a training call evaluation mode changes the embeddings, by up to {left:.3g}",
        "the noise that training switched on (a flag, a hook, a cached draw) stays on in eval()",
    )
    again = layer.train(inputs, start + 1) - clean
    share = subject.claims.share(start + 1)
    subject.expect(
        bool(first.any()),
        "there is no noise in training mode",
        NO_NOISE,
    )
    subject.expect(
        bool(again.any()) or share == 0,
        "after train(), eval() and train() again there is no noise",
        "the mode is kept in a copy, or eval() takes the noise away (a hook removed, alpha set to "
        "0) and train() does not bring it back",
    )
