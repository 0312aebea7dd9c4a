"""The masks of models whose inputs are dicts, lists and tuples in each other."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, Probe, numpy, probed

NOISE = neftune(50.0)
OTHER = IDS[::-1].copy()
FIRST = np.arange(5) < np.array([[2]] * 4)


class Lookups(keras.Model):
    """Looks up what is at some places of its inputs."""

    def __init__(self, *places, computes=False, tables=1):
        super().__init__()
        self.embeds = [keras.layers.Embedding(VOCABULARY, DIM) for _ in range(tables)]
        self.probe = Probe((4, 5 * len(places), DIM))
        self._places, self._computes = places, computes

    def call(self, inputs, training=None):
        found = []
        for number, place in enumerate(self._places):
            ids = inputs
            for key in place:
                ids = ids[key]
            ids = ops.maximum(ids, 0) if self._computes else ids
            found.append(self.embeds[number % len(self.embeds)](ids))
        return self.probe(ops.concatenate(found, axis=1), training=training)


def towers(ids="ids", mask="mask", dtype=bool):
    return {
        "query": {ids: IDS, mask: MASK.astype(dtype)},
        "doc": {ids: OTHER, mask: (OTHER != 0).astype(dtype)},
    }


def check(seen, *lookups):
    """What was seen of lookups side by side, each given as its table, ids and token arguments."""
    for number, (layer, ids, tokens) in enumerate(lookups):
        noise = neftune(50.0, stream=f"/{number + 1}" if number else "")
        clean = numpy(layer.embeddings)[ids]
        part = seen[:, 5 * number : 5 * number + 5]
        expected = embnoise.add_noise(clean, noise, step=0, **tokens)
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-4)


def check_model(model, inputs, *lookups, **options):
    with attach(model, NOISE, layer=[*model.embeds], **options):
        seen = probed(model, inputs, (4, 5 * len(lookups), DIM))
    tables = [model.embeds[number % len(model.embeds)] for number in range(len(lookups))]
    check(seen, *[(table, *each) for table, each in zip(tables, lookups, strict=True)])


BOTH = (IDS, {"mask": MASK}), (OTHER, {"mask": OTHER != 0})


@pytest.mark.parametrize("names", [{}, {"ids": "input_ids", "mask": "attention_mask"}])
@pytest.mark.parametrize("tables", [1, 2])
def test_each_dict_has_the_mask_of_its_ids(names, tables):
    inputs = towers(**names, dtype=np.int32)
    ids = names.get("ids", "ids")
    check_model(Lookups(("query", ids), ("doc", ids), tables=tables), inputs, *BOTH)


def test_each_dict_in_a_tuple_has_the_mask_of_its_ids():
    inputs = tuple(towers().values())
    check_model(Lookups((0, "ids"), (1, "ids")), inputs, *BOTH)


def test_a_mask_beside_something_else_is_not_that_of_the_ids():
    inputs = {
        "image": {"patches": np.zeros((4, 5, 3), np.float32), "mask": FIRST},
        "text": {"ids": IDS, "mask": MASK},
    }
    check_model(Lookups(("text", "ids")), inputs, (IDS, {"mask": MASK}))


def refused(model, inputs, **options):
    model(inputs)
    with attach(model, NOISE, **options) as handle:
        with pytest.raises(ValueError, match=r"found several inputs .*(which mask|which belongs)"):
            model(inputs, training=True)
        assert handle.step == 0


def test_a_mask_that_may_belong_to_something_else_is_asked_for():
    inputs = {"image": {"patches": np.zeros((4, 5, 3)), "mask": FIRST}, "text": {"ids": IDS}}
    refused(Lookups(("text", "ids")), inputs)
    refused(Lookups(("query", "ids"), computes=True), towers())
    masks = [{"masks": {"one": {"mask": MASK}, "other": {"mask": FIRST}}, "text": {"ids": IDS}}]
    refused(Lookups((0, "text", "ids")), masks)


@pytest.mark.parametrize(
    "inputs",
    [
        {"text": {"ids": IDS}, "masks": {"padding_mask": MASK}},
        {"text": {"ids": IDS}, "padding_mask": MASK},
        {"text": {"ids": IDS, "mask": MASK}, "image": {"patches": np.zeros((4, 5, 3))}},
        {"text": {"ids": IDS, "mask": MASK}, "mask": FIRST},
        {"text": {"ids": IDS, "mask": MASK}, "masks": {"padding_mask": FIRST}},
        {"text": {"ids": IDS}, "mask": MASK, "masks": {"mask": FIRST}},
    ],
)
def test_the_nearest_mask_counts(inputs):
    check_model(Lookups(("text", "ids")), inputs, (IDS, {"mask": MASK}))


def test_a_mask_for_the_ids_of_another_dict_is_not_that_of_the_decoder():
    ids = {"input_ids": IDS, "decoder_input_ids": OTHER}
    inputs = {"ids": ids, "attention_mask": MASK}
    check_model(
        Lookups(("ids", "input_ids"), ("ids", "decoder_input_ids")),
        inputs,
        (IDS, {"mask": MASK}),
        (OTHER, {}),
    )


def test_functions_take_what_is_nearest_to_the_ids():
    model = Lookups(("query", "ids"), ("doc", "ids"))
    check_model(model, towers(), *BOTH, tokens=lambda mask: {"mask": mask})
    refused(Lookups(("query", "ids"), computes=True), towers(), tokens=lambda mask: {"mask": mask})
    refused(
        Lookups(("query", "ids"), computes=True), towers(), tokens=lambda mask=None: {"mask": mask}
    )
    one = Lookups(("query", "ids"), computes=True)
    check_model(one, towers(), BOTH[0], tokens=lambda query: {"mask": query["mask"]})


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("dicts", True),
        ("dicts", False),
        ("list of dicts", True),
        ("list of dicts", False),
        ("dict of lists", True),
    ],
)
def test_a_functional_model_of_two_towers(kind, named):
    names = ["query_ids", "query_mask", "doc_ids", "doc_mask"]
    query, kept, doc, doc_kept = (
        keras.Input((5,), dtype="int32", name=name if named else None) for name in names
    )
    structure = [{"ids": query, "mask": kept}, {"ids": doc, "mask": doc_kept}]
    inputs = [*towers(dtype=np.int32).values()]
    if kind == "dicts":
        structure, inputs = (dict(zip("qd", each, strict=True)) for each in (structure, inputs))
    if kind == "dict of lists":
        structure = {"first": [query, kept], "second": [doc, doc_kept]}
        inputs = [[*each.values()] for each in inputs]
        inputs = dict(zip(structure, inputs, strict=True))
    embed = keras.layers.Embedding(VOCABULARY, DIM)
    used = [ops.cast(ops.ones_like(each)[..., None], "float32") for each in (kept, doc_kept)]
    x = ops.concatenate([embed(query) * used[0], embed(doc) * used[1]], axis=1)
    model = keras.Model(structure, Probe((4, 10, DIM))(x))
    with attach(model, NOISE):
        seen = probed(model, inputs, (4, 10, DIM))
    try:
        check(seen, *[(embed, *each) for each in BOTH])
    except AssertionError:  # which lookup comes first is for Keras to say
        halves = np.concatenate([seen[:, 5:], seen[:, :5]], axis=1)
        check(halves, *[(embed, *each) for each in reversed(BOTH)])


@pytest.mark.parametrize(("dtype", "computes"), [(bool, False), (np.int32, True)])
def test_a_mask_without_a_name_is_warned_of(dtype, computes):
    model, inputs = Lookups((0,), computes=computes), (IDS, MASK.astype(dtype))
    unclear = "is a mask is not known" if computes else "has no name"
    message = rf"inputs/1 of shape \(\w+, 5\) {unclear}, so it"
    with pytest.warns(RuntimeWarning, match=message):
        check_model(model, inputs, (IDS, {}))
    tokens = {"tokens": lambda inputs: {"mask": inputs[1]}}
    check_model(model, inputs, (IDS, {"mask": MASK}), **tokens)
    check_model(model, inputs, (IDS, {}), tokens=lambda ids: {})


@pytest.mark.parametrize("tables", [1, 2])
def test_a_tuple_of_ids_that_are_all_looked_up_is_not_warned_of(tables):
    """Those of an encoder and a decoder, say."""
    check_model(Lookups((0,), (1,), tables=tables), (IDS, OTHER), (IDS, {}), (OTHER, {}))


def test_a_mask_whose_dict_has_the_name_is_warned_of():
    model = Lookups(("ids", "text"))
    with pytest.warns(RuntimeWarning, match=r"name of inputs/mask/text of shape .* is not known"):
        check_model(model, {"ids": {"text": IDS}, "mask": {"text": MASK}}, (IDS, {}))


def test_a_tuple_of_other_things_is_not_warned_of():
    model = Lookups((0,))
    check_model(model, (IDS, np.zeros((4,)), np.zeros((4, 5, 3))), (IDS, {}))


class Masked(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, ids, padding_mask=None, training=None):
        return self.embed(ids)


def test_lists_of_numbers_are_masks():
    model = Masked()
    model(IDS)
    with attach(model, NOISE):
        seen = model(IDS, padding_mask=MASK.astype(int).tolist(), training=True)
    check(numpy(seen), (model.embed, IDS, {"mask": MASK}))
    rows = [[1] * length for length in MASK.sum(axis=1).tolist()]
    with attach(model, NOISE), pytest.raises(TypeError, match=r"rows differ in length; pass an"):
        model(IDS, padding_mask=rows, training=True)
