"""Padding and documents under names that are not known: what is warned of, and what is not."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

LENGTHS = MASK.sum(1)
DOCUMENTS = torch.tensor([[1, 1, 2, 2, 2, 0]] * 3)
ENDS = torch.tensor([0, 4, 10, 18])


def named(*names):
    """A model whose call takes what is looked up and arguments with these names."""
    space = {"nn": nn}
    code = f"def forward(self, x, {', '.join(f'{name}=None' for name in names)}): return self.e(x)"
    exec(code, space)  # noqa: S102, the names are in the tests

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(50, 8)

        forward = space["forward"]

    return Named()


def told(name, value, ids=IDS, **options):
    return messages(named(name), ids, **{name: value}, **options)


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, LENGTHS) for name in ("lens", "len", "seq_len", "x_len", "num_tokens")),
        *((name, MASK) for name in ("valid", "valid_tokens", "attn_mask", "keep", "whatever")),
        *((name, ~MASK) for name in ("pad", "mask_pad", "is_padding", "target_mask")),
        *((name, DOCUMENTS) for name in ("segment_ids", "sequence_ids", "doc_ids", "document_ids")),
        ("sequence_id", torch.tensor([[0, 0, 1, 1, -1, -1]] * 3)),
        ("segment_ids", MASK.long()),
        ("keep", MASK.flip(1).long()),
    ],
)
def test_one_argument(name, value, compiled):
    (message,) = told(name, value, compiled=compiled)
    assert WARNED in message


@pytest.mark.parametrize("rows", [(), (1,)], ids=["no rows", "one row"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, ENDS) for name in ("cu_seqlen", "cu_lens", "cu_seq_lens_k", "offsets")),
        *((name, ENDS.diff()) for name in ("lengths", "seqlens", "sizes")),
        ("seqlens_list", ENDS.diff().tolist()),
        ("lengths", torch.tensor([4, 6])),
        *(
            (name, torch.repeat_interleave(torch.arange(3), ENDS.diff()))
            for name in ("doc_ids", "batch", "batch_index")
        ),
        ("mask", torch.arange(18) < 12),
    ],
)
def test_flattened_rows(name, value, rows):
    (message,) = told(name, value, IDS.reshape(*rows, -1))
    assert WARNED in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep", torch.ones(3, 6, dtype=torch.bool)),
        ("keep", torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)),  # of a prompt
        ("keep", torch.tensor([[0, 1, 0, 0, 1, 1], [1] * 6, [0] * 6])),
        ("target_mask", torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]])),
        ("token_type_ids", ~MASK * 1),
        ("segment_ids", torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0] * 6])),
        ("document_ids", torch.arange(3)[:, None].expand(3, 6)),
        ("word_ids", torch.tensor([[0, 0, 1, 2, 2, 3]] * 3)),
        ("levels", torch.arange(6).expand(3, 6)),
        ("labels", MASK * 1),
        ("assistant_masks", MASK),
        ("global_attention_mask", ~MASK),
        ("y", torch.tensor([0, 6, 3])),
        ("y", torch.tensor([4, 2, 3])),
        ("image_sizes", torch.tensor([[4, 4], [6, 6], [6, 6]])),
        ("bbox", torch.zeros(3, 6, 4, dtype=torch.long)),
        ("weights", MASK.float()),
        ("lengths", [6, 6, 6]),
        ("mel_lengths", torch.tensor([4, 2, 3])),
        ("options", {"beta": 0.1, "names": ["a", "b", "c"]}),
        ("max_len", 4),
    ],
)
def test_what_is_something_else(name, value):
    assert told(name, value) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cu_lens", torch.tensor([0, 18])),
        ("lengths", torch.tensor([18])),
        ("mask", torch.ones(18)),
        ("y", torch.tensor([3, 1, 2])),
        ("doc_ids", torch.zeros(18, dtype=torch.long)),
    ],
)
def test_one_row_without_documents(name, value):
    assert told(name, value, IDS.reshape(1, -1)) == []


@pytest.mark.parametrize("name", ["tgt_mask", "attn_mask", "keep", "hidden"])
def test_a_causal_mask_where_there_are_as_many_rows_as_tokens(name):
    ids = torch.arange(36).reshape(6, 6)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    additive = torch.zeros(6, 6).masked_fill(~mask, -torch.inf)
    for value in (mask, ~mask, mask.long(), additive):
        assert told(name, value, ids) == []


def test_padded_ids_in_a_batch_that_is_nothing_else():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(50, 8)

        def forward(self, batch, batch_idx):
            return self.e(batch)

    ids = torch.tensor([[9, 0, 0, 0, 0, 0], [7, 8, 0, 0, 0, 0]])
    assert messages(Bare(), ids, batch_idx=0) == []


class Batch(nn.Module):
    """Takes a batch as its only argument, or beside another one."""

    def __init__(self, look):
        super().__init__()
        self.e, self.look = nn.Embedding(50, 8), look

    def forward(self, batch, stage="train"):
        return self.e(self.look(batch))


class Star(Batch):
    def forward(self, *batch):
        return self.e(self.look(batch))


def first(batch):
    return batch[0]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Batch(first), ((IDS, MASK),)),
        (Batch(first), ([IDS, MASK * 1],)),
        (Batch(first), ((IDS, LENGTHS), "fit")),
        (Batch(lambda batch: batch["x"]), ({"x": IDS, "mask": MASK},)),
        (Batch(lambda batch: batch["a"]["x"]), ({"a": {"x": IDS, "attention_mask": MASK}},)),
        (Batch(lambda batch: batch[0]["x"]), (({"x": IDS, "seq_len": LENGTHS}, IDS),)),
        (Star(first), (IDS, MASK)),
        (Star(first), (IDS, IDS, LENGTHS)),
    ],
    ids=["tuple", "list", "beside", "dict", "dict in dict", "dict in tuple", "star", "third"],
)
def test_batches(model, args, compiled):
    (message,) = messages(model, *args, compiled=compiled)
    assert WARNED in message


@pytest.mark.parametrize(
    "args", [((IDS, IDS),), ((IDS, torch.tensor([0, 3, 1])),), ((IDS, MASK, "x"), "fit")]
)
def test_batches_without_padding(args):
    quiet = {"about": {"tokens": lambda batch: {"mask": batch[1]}}} if len(args) == 2 else {}
    assert messages(Batch(first), *args, **quiet) == []


def test_functions_may_name_what_takes_all_arguments():
    model = Star(first)
    nn.init.zeros_(model.e.weight)
    with attach(model, neftune(5.0), tokens=lambda batch: {"mask": batch[1]}):
        noisy = model(IDS, MASK)
    assert torch.equal(noisy, add_noise(torch.zeros(3, 6, 8), neftune(5.0), step=0, mask=MASK))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_namespace_is_a_batch(compiled):
    torch.compiler.reset()
    model = Batch(lambda batch: batch.input_ids)
    nn.init.zeros_(model.e.weight)
    called = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    with attach(model, neftune(5.0)):
        noisy = called(SimpleNamespace(input_ids=IDS, attention_mask=MASK))
    assert torch.equal(noisy, add_noise(torch.zeros(3, 6, 8), neftune(5.0), step=0, mask=MASK))


def test_the_masks_of_a_transformer():
    """The mask of attention comes before that of padding."""
    causal = torch.full((6, 6), -torch.inf).triu(1)
    model = named("src_mask", "src_key_padding_mask")
    (message,) = messages(model, IDS, causal, ~MASK)
    assert WARNED in message
    assert "(3, 6)" in message
    assert messages(named("src_mask", "src_key_padding_mask"), IDS, causal) == []


def test_arguments_of_any_name_are_looked_at_in_the_first_calls():
    model = named("whatever")
    with attach(model, neftune(5.0), optimizer="manual"):
        model(IDS, torch.ones_like(MASK))
        with pytest.warns(RuntimeWarning, match=WARNED):
            model(IDS, MASK)
