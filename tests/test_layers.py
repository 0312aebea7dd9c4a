"""The layers of a model that ``layer=`` names: names, patterns, and the streams of their noise."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embnoise import neftune
from embnoise.backend import check_layers, is_match, match_layers, noise_by_layer

NAMES = ["embed", "layers", *(f"layers.{n}{part}" for n in range(12) for part in ("", ".mlp"))]


def matching(pattern, separator="."):
    names = [name.replace(".", separator) for name in NAMES]
    return match_layers(pattern, names, embeddings="'embed'", separator=separator)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("embed", ["embed"]),
        ("layers.10", ["layers.10"]),
        ("layers.*", [f"layers.{n}" for n in range(12)]),
        ("layers.*.mlp", [f"layers.{n}.mlp" for n in range(12)]),
        ("layers.[0-2]", ["layers.0", "layers.1", "layers.2"]),
        ("layers.1?", ["layers.10", "layers.11"]),
        ("*", ["embed", "layers"]),
        ("*.*.*", [f"layers.{n}.mlp" for n in range(12)]),
    ],
)
def test_patterns(pattern, found):
    assert matching(pattern) == found
    slashed = [name.replace(".", "/") for name in found]
    assert matching(pattern.replace(".", "/"), separator="/") == slashed


@pytest.mark.parametrize("pattern", ["layer.*", "layers.*.*.*", "LAYERS.*", "layers.12", "*mlp"])
def test_a_pattern_that_matches_nothing(pattern):
    with pytest.raises(ValueError, match=rf"got '{re.escape(pattern)}'; names like it: .*'embed'"):
        matching(pattern)


@pytest.mark.parametrize("layer", ["", ["embed", ""]])
def test_the_empty_name_is_refused(layer):
    with pytest.raises(ValueError, match="the name of a layer inside the model, got ''; pass"):
        check_layers(layer)


PARTS = st.lists(st.text("ab01", min_size=1, max_size=3), min_size=1, max_size=4)


@given(PARTS, st.data())
def test_a_star_stands_for_a_part_and_for_no_separator(parts, data):
    name = ".".join(parts)
    number = data.draw(st.integers(0, len(parts) - 1))
    starred = ".".join("*" if place == number else part for place, part in enumerate(parts))
    assert is_match(starred, name)
    assert is_match(name, name)
    assert not is_match(f"{starred}.*", name)
    assert not is_match("*", f"{name}.{name}")


def test_several_layers_and_their_streams():
    assert check_layers("layers.*") == ["layers.*"]
    assert check_layers(("embed", "layers.*")) == ["embed", "layers.*"]
    noises = noise_by_layer(neftune(stream="s"), matching("layers.[0-2]"))
    assert [noise.stream for noise in noises.values()] == ["s", "s/layers.1", "s/layers.2"]
