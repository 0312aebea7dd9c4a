"""Sample ids over the ranks of a data-parallel run."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from embnoise import neftune, symnoise
from embnoise.backend import dealt_ids, rows_of_a_sample


@given(ranks=st.integers(1, 5), block=st.integers(1, 6), rounds=st.integers(1, 4))
def test_every_sample_has_an_id_of_its_own_as_blocks_are_dealt(ranks, block, rounds):
    ids = [
        [dealt_ids(number, rank, ranks, block=block) for number in range(block * rounds)]
        for rank in range(ranks)
    ]
    assert sorted(chain.from_iterable(ids)) == list(range(ranks * block * rounds))
    for rank, own in enumerate(ids):
        assert [each // block % ranks for each in own] == [rank] * len(own)


@given(rank=st.integers(0, 4), ranks=st.integers(5, 8), dealing=st.integers(1, 5))
def test_antithetic_pairs_stay_on_their_rank(rank, ranks, dealing):
    block = dealing * rows_of_a_sample(symnoise())
    for number in range(0, 40, 2):
        pair = [dealt_ids(number + row, rank, ranks, block=block) for row in (0, 1)]
        assert pair[0] % 2 == 0
        assert pair[1] == pair[0] + 1


def test_other_noise_needs_no_pairs():
    assert rows_of_a_sample(neftune()) == 1
