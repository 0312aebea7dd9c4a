"""The private parts of Keras in ``embnoise_keras._compat_graph``, as ``test_compat`` has others."""

from functools import partial

import keras
import numpy as np

from embnoise_keras import _compat_graph
from tests.keras.test_compat import changed

graph_changed = partial(changed, module=_compat_graph)


def test_the_graph_of_a_functional_model():
    hint = graph_changed("Function._nodes_by_depth or Node", "graph_inputs and graph_calls")
    ids, mask = (keras.Input((5,), dtype="int32", name=name) for name in ("ids", "b"))
    embedding = keras.layers.Embedding(9, 4)
    outputs = [embedding(ids), embedding(keras.ops.maximum(ids, mask))]
    model = keras.Model({"ids": ids, "b": mask}, outputs)
    assert list(_compat_graph.graph_inputs(model).items()) == [("b", mask), ("ids", ids)], hint
    calls = _compat_graph.graph_calls(model, embedding)
    expected = [(frozenset({"ids"}), True), (frozenset({"b", "ids"}), False)]
    assert sorted((call[:2] for call in calls), key=lambda call: not call[1]) == expected, hint
    first = next(call for call in calls if call.direct)
    assert (first.given is ids, first.outputs) == (True, (id(outputs[0]),)), hint
    assert _compat_graph.graph_calls(keras.layers.Dense(1), embedding) == [], hint
    seen, call = [], embedding.call
    embedding.call = lambda ids: seen.append(bool(keras.ops.all(ids == 3))) or call(ids)
    model({"ids": np.full((2, 5), 3), "b": np.full((2, 5), 7)})
    assert seen == [each.direct for each in calls], hint  # the order of execution


def test_the_places_of_the_inputs_of_a_functional_model():
    hint = graph_changed("Functional.input", "graph_places")
    one, two, three = (keras.Input((5,), name=name) for name in ("one", "two", "three"))
    for inputs, places in (
        (one, {"one": ("one",)}),
        ([one], {"one": ("one",)}),
        ({"one": one, "two": two}, {"one": ("one",), "two": ("two",)}),
        (
            {"a": {"x": one}, "b": [two, three]},
            {"one": ("a", "x"), "two": ("b", "two"), "three": ("b", "three")},
        ),
    ):
        model = keras.Model(inputs, [each + 1 for each in keras.tree.flatten(inputs)])
        assert _compat_graph.graph_places(model) == places, hint
    assert _compat_graph.graph_places(keras.layers.Dense(1)) == {}, hint


def test_the_graph_of_a_sequential_model():
    hint = graph_changed("Sequential._functional", "graph_inputs and graph_calls")
    embedding = keras.layers.Embedding(9, 4)
    model = keras.Sequential([embedding])
    assert _compat_graph.graph_calls(model, embedding) == [], hint  # it is not built
    model(np.ones((2, 5)))
    (name,) = _compat_graph.graph_inputs(model)
    (call,) = _compat_graph.graph_calls(model, embedding)
    assert (call.sources, call.direct) == (frozenset({name}), True), hint


def test_the_operations_of_a_graph():
    hint = graph_changed("Node.arguments or SymbolicArguments.fill_in", "graph_nodes")
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 4)(ids)
    kept = keras.ops.not_equal(3, x2=ids)
    model = keras.Model(ids, [keras.layers.GlobalAveragePooling1D()(x, mask=kept), ids + ids])
    nodes = {tuple(sorted(node.arguments)): node for node in _compat_graph.graph_nodes(model)}
    assert nodes.keys() == {("inputs",), ("inputs", "mask"), ("x1", "x2")}, hint
    assert nodes["inputs",].arguments == {"inputs": {id(ids)}}, hint
    assert nodes["inputs", "mask"].arguments == {"inputs": {id(x)}, "mask": {id(kept)}}, hint
    assert nodes["inputs",].run is None  # it has weights
    found = _compat_graph.graph_nodes(keras.Model(ids, kept))
    assert [node.outputs for node in found] == [[id(kept)]], hint
    (seen,) = found[0].run({id(ids): keras.ops.convert_to_tensor([[3, 4]])})
    assert keras.ops.convert_to_numpy(seen).tolist() == [[False, True]], hint
    assert _compat_graph.graph_nodes(keras.layers.Dense(1)) == [], hint
