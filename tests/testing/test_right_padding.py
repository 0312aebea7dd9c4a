"""Layers that are given the lengths of rows claim ``padding="right"``."""

import numpy as np
import pytest

from embnoise.testing import Claims, case, check_layer

RIGHT = Claims(padding="right")


def by_lengths(*, dim, alpha, seed, counted=lambda lengths, width: lengths):
    """A layer that is given the lengths of its rows."""

    def layer(x, lengths, *, training, step):
        if not training:
            return x
        draws = np.random.default_rng([seed, step]).uniform(-1, 1, x.shape)
        real = np.arange(x.shape[1]) < lengths[:, None]
        length = np.maximum(counted(lengths, x.shape[1]), 1)[:, None]
        magnitude = alpha / np.sqrt(length * x.shape[2]) * real
        return x + (magnitude[..., None] * draws).astype(x.dtype)

    return layer


def in_rows(*, dim, alpha, seed):
    """The same without regard to padding."""

    def widths(lengths, width):
        return np.full_like(lengths, width)

    return by_lengths(dim=dim, alpha=alpha, seed=seed, counted=widths)


def call(layer, x, *, mask, training, step):
    return layer(x, mask.sum(axis=1), training=training, step=step)


def report_of(make, claims=RIGHT):
    made = case("mine", make, driver="numpy", claims=claims, call=call)
    return check_layer(made, profile="quick", raises=False)


def failed(report):
    return {each.code: each.message for each in report.results if each.wrong}


def test_a_right_layer_holds():
    report = report_of(by_lengths)
    assert report.ok, report.table()
    passed = {each.code for each in report.results if each.status == "passed"}
    assert {"EN09", "EN19", "EN47", "EN63"} <= passed


def test_the_claim_is_named():
    found = failed(report_of(by_lengths, Claims()))
    assert set(found) == {"EN09"}
    assert "if padding is always on the right, claim padding='right'" in found["EN09"]


def test_a_wrong_length_is_found():
    assert "EN19" in failed(report_of(in_rows))


@pytest.mark.parametrize("padding", ["left", None, 1])
def test_another_place_is_refused(padding):
    with pytest.raises(ValueError, match="padding must be 'anywhere' or 'right', got"):
        Claims(padding=padding)
