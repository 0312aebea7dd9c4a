"""What layers and handles share: the counter, and the state model."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embnoise import linear, neftune
from embnoise.backend import Counter, Handle, bind_by_name


def test_micro_batches_are_numbered_within_a_step():
    counter, seen = Counter(), []
    for batch in (8, 8, 4, 4):
        seen.append((counter.step, counter.samples))
        counter = counter.after(batch, calls_per_step=2)
    assert seen == [(0, 0), (0, 8), (1, 0), (1, 4)]
    assert counter == Counter(step=2, calls=0, samples=0, lookups=4)


def test_without_calls_per_step_something_else_advances_it():
    counter = Counter().after(8, calls_per_step=None).after(8, calls_per_step=None)
    assert counter == Counter(step=0, calls=2, samples=16, lookups=2)
    assert counter.at_step(5) == Counter(step=5, lookups=2)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 4))
def test_arrays_count_as_ints_do(batches, calls_per_step):
    plain, arrays = Counter(), Counter(*np.zeros(4, np.int32))
    for batch in batches:
        plain = plain.after(batch, calls_per_step=calls_per_step)
        arrays = arrays.after(batch, calls_per_step=calls_per_step, xp=np)
    assert arrays.to_dict() == plain.to_dict()
    assert Counter.from_dict("state", plain.to_dict()) == plain


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ({"step": 1}, ValueError, "state is missing the key 'calls'"),
        (
            {**Counter().to_dict(), "steps": 1},
            ValueError,
            "unknown key 'steps' .did you mean",
        ),
        ({**Counter().to_dict(), "calls": -1}, ValueError, "'calls'. must be at least 0, got -1"),
        ({**Counter().to_dict(), "calls": 1.5}, TypeError, "'calls'. must be an integer, got 1.5"),
    ],
)
def test_a_state_that_does_not_fit(state, kind, message):
    with pytest.raises(kind, match=message):
        Counter.from_dict("state", state)


class Recording(Handle):
    """A handle of a framework that has no model: its two counters are all there is."""

    def __init__(self, noise):
        self.noise = noise
        self.counters = {"encoder": Counter(), "decoder": Counter()}
        self.pauses = 0
        self.removed = 0

    def remove(self):
        super().remove()
        self.removed += 1

    def _counters(self):
        return dict(self.counters)

    def _set_counters(self, counters):
        self.counters = dict(counters)

    def _pauses(self):
        return self.pauses

    def _set_pauses(self, pauses):
        self.pauses = pauses

    def look_up(self, name):
        self.counters[name] = self.counters[name].after(2, calls_per_step=None)


def test_what_a_handle_tells():
    handle = Recording(neftune(alpha=linear(8, 0, 4)))
    handle.look_up("encoder")
    handle.look_up("decoder")
    assert (handle.step, handle.alpha, handle.lookups) == (0, 8.0, 2)
    handle.step = 0  # the same step goes on
    assert handle.counters["encoder"].samples == 2
    handle.step = 3
    assert (handle.step, handle.alpha, handle.lookups) == (3, 2.0, 2)
    assert handle.counters["encoder"].samples == 0
    assert repr(handle).startswith(
        "Handle('encoder', 'decoder', step=3, alpha=2, lookups=2, noise=Noise("
    )
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        handle.step = -1


def test_a_state_dict_comes_back():
    first, second = Recording(neftune()), Recording(neftune())
    first.look_up("encoder")
    first.step = 2
    first.look_up("encoder")
    second.load_state_dict(first.state_dict())
    assert second.counters == first.counters
    state = first.state_dict()
    with pytest.raises(ValueError, match="state is missing the key 'decoder'"):
        second.load_state_dict({"encoder": state["encoder"]})
    with pytest.raises(TypeError, match=r"state must be a mapping with .*, got 5"):
        second.load_state_dict(5)
    assert second.counters == first.counters


def test_embeddings_at_different_steps():
    """As of calls_per_step, where a table is shared and never called, or a decoder called twice."""
    first, second = Recording(neftune(alpha=linear(8, 0, 4))), Recording(neftune())
    for _ in range(3):
        first.counters["decoder"] = first.counters["decoder"].after(2, calls_per_step=1)
    assert (first.step, first.alpha) == (3, 2.0)
    second.load_state_dict(first.state_dict())
    assert second.counters == first.counters
    first.look_up("decoder")
    first.step = 3  # the step of the decoder goes on
    assert first.counters["encoder"] == Counter(step=3)
    assert first.counters["decoder"] == Counter(step=3, calls=1, samples=2, lookups=4)
    second.step = 0
    assert {counter.step for counter in second.counters.values()} == {0}


def test_pauses_nest_and_end():
    handle = Recording(neftune())
    with handle.paused():
        with handle.paused():
            pass
        assert handle.pauses
    assert not handle.pauses
    with pytest.raises(RuntimeError, match="ours"), handle.paused():
        raise RuntimeError("ours")
    assert not handle.pauses


def test_pauses_that_overlap_end_with_the_last_of_them():
    """As those of two threads may, or of two tasks of asyncio."""
    handle = Recording(neftune())
    first, second = handle.paused(), handle.paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert handle.pauses
    second.__exit__(None, None, None)
    assert not handle.pauses


def test_leaving_the_block_removes_and_a_handle_is_not_pickled():
    with Recording(neftune()) as handle:
        with pytest.raises(TypeError, match="cannot be copied or pickled; save its state_dict"):
            pickle.dumps(handle)
        assert not handle.removed
        assert "removed" not in repr(handle)
    assert handle.removed == 1
    assert repr(handle).startswith("Handle('encoder', 'decoder', removed=True, step=0")
    with pytest.raises(RuntimeError, match=r"was removed, .* call attach\(\) again"), handle:
        pass
    assert handle.removed == 1


AVAILABLE = {"ids": 1, "labels": 2}


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda ids: ids, 1),
        (lambda labels, ids: (labels, ids), (2, 1)),
        (lambda ids, other=9: (ids, other), (1, 9)),
        (lambda **call: call, AVAILABLE),
        (lambda: 0, 0),
    ],
)
def test_a_function_gets_the_arguments_that_it_names(function, result):
    assert bind_by_name("where", function)(AVAILABLE) == result


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (5, TypeError, "where must be a callable, got 5"),
        (lambda *call: call, TypeError, "where must name its parameters, got .*call"),
        (lambda mask: mask, ValueError, r"among \['ids', 'labels'\], got 'mask'"),
    ],
)
def test_a_function_that_cannot_be_called_by_name(function, kind, message):
    with pytest.raises(kind, match=message):
        bind_by_name("where", function)(AVAILABLE)


class Failing(Recording):
    """A handle that cannot be removed and whose pauses cannot end."""

    def remove(self):
        super().remove()
        raise RuntimeError("no state")

    def _set_pauses(self, pauses):
        if pauses < self.pauses:
            raise RuntimeError("no state")
        super()._set_pauses(pauses)


@pytest.mark.parametrize("block", [lambda handle: handle, Handle.paused])
def test_the_end_of_a_block_does_not_hide_its_error(block):
    with pytest.raises(KeyError, match="mine") as caught, block(Failing(neftune())):
        raise KeyError("mine")
    (note,) = caught.value.__notes__
    assert "the end of the block failed as well: RuntimeError('no state')" in note
    with pytest.raises(RuntimeError, match="no state"), block(Failing(neftune())):
        pass
