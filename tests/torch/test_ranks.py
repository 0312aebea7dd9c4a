"""Models that are sharded over ranks get the noise of one process, or are refused."""

import pytest

from tests.torch.ranks_refused import on_four_ranks, on_two_ranks
from tests.torch.ranks_table import BEGIN, END, PAGE, WAYS, run, table


def check(faults):
    wrong = {name: fault for name, fault in faults.items() if fault}
    assert not wrong, "\n".join(f"{name}\n{fault}" for name, fault in wrong.items())


def test_two_ranks():
    check(run(2, also=on_two_ranks))


@pytest.mark.sweep
@pytest.mark.parametrize("processes", [2, 4])
def test_all_ways(processes):
    check(run(processes, slow=True, also=on_four_ranks if processes == 4 else None))


def test_the_table_lists_the_ways():
    written = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert written == table(dict.fromkeys((each.name for each in WAYS), ""))
