"""What a training call may change: nothing that others see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.failures import UnclaimedError
from embnoise.testing.inputs import SMALL
from embnoise.testing.registry import check
from embnoise.testing.subject import Subject

State = dict[str, NDArray[Any]]


@check("EN16", dtypes="float32")
def input_unchanged(subject: Subject) -> None:
    """The layer's input is not changed.

    A layer fails it that adds its noise in place on what it was given.
    """

    def body(batch: Batch) -> None:
        inputs = batch.inputs(subject, "normal")
        layer = subject.layer(dim=batch.dim, alpha=batch.scaled(subject))
        native = layer.prepared(inputs)
        before = layer.driver.to_numpy(native)
        layer.raw(inputs, native, training=True, step=layer.advance(inputs, subject.first_step()))
        after = layer.driver.to_numpy(native)
        changed = int((before != after).sum())
        subject.expect(
            before.tobytes() == after.tobytes(),
            f"a training call changes {changed} of the {before.size} elements of its own input",
            "the noise is added in place (add_, +=) on the input: add it to a copy",
        )

    over_batches(subject, body)


@check("EN17", inputs=("ids",))
def table_unchanged(subject: Subject) -> None:
    """A training call does not change the embedding table, or any other saved value.

    A layer fails it that adds noise in place on the table's own memory, where it stays.
    """
    before, after = _states(subject)
    if not before and not after:
        raise UnclaimedError("the layer has no saved state (a function, say)")
    for name, value in before.items():
        if name.rpartition(".")[2] in subject.claims.saves:
            continue
        now = after.get(name)
        subject.expect(
            now is not None and now.tobytes() == value.tobytes(),
            f"a training call changes {name}, of shape {value.shape}, in the saved state",
            "the noise is added to the table instead of the looked-up embeddings, and stays there"
            if value.ndim == 2
            else "the layer keeps its noise or a count in a buffer that is saved",
        )


@check("EN18")
def saved_state_clean(subject: Subject) -> None:
    """The layer adds nothing to the saved state, besides what it claims to save.

    A layer fails it with a persistent buffer, a parameter or a variable for its noise, its alpha or
    its step, which breaks loading a checkpoint that has none.
    """
    before, after = _states(subject)
    tables = subject.case.inputs == "ids"
    for name, value in after.items():
        allowed = name.rpartition(".")[2] in subject.claims.saves
        table = tables and name in before and SMALL[2] in value.shape and value.ndim <= 2
        subject.expect(
            allowed or table,
            f"the saved state has an entry {name!r}, of shape {value.shape}",
            "the noise, alpha or a count is a persistent buffer, a parameter or a variable: keep "
            "it out of the state (in PyTorch persistent=False, in Keras a plain attribute, in "
            "Flax no Variable of its own), or name it in Claims(saves=...)",
        )
    subject.expect(
        set(before) <= set(after),
        "a training call takes entries out of the saved state",
        "the layer deletes a buffer or a parameter when it is called",
    )


def _states(subject: Subject) -> tuple[State, State]:
    """The saved state before and after two training calls, once the layer is built."""
    state = subject.able("state")
    inputs = subject.batch(fill="normal")
    layer = subject.layer()
    layer.eval(inputs)
    before = {name: np.array(value) for name, value in state(layer.native).items()}
    for step in (0, 1):
        layer.train(inputs, subject.first_step() + step)
    return before, dict(state(layer.native))
