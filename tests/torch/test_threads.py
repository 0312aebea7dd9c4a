"""Several threads that train one model at a time."""

import sys
import threading

import pytest
from torch import nn

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import batch


@pytest.fixture
def _threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns_often")
def test_no_two_lookups_have_the_same_samples(monkeypatch):
    model, ids = nn.Sequential(nn.Embedding(50, 8)), batch()
    handle = attach(model, neftune(5.0))
    (source,) = handle._sources.values()
    firsts = []
    original = source.at

    def at(shape, draw, rows=None):
        firsts.append(draw.first_sample)
        return original(shape, draw, rows)

    monkeypatch.setattr(source, "at", at)

    def train():
        for _ in range(500):
            model(ids)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == list(range(0, 4000, 2))
    assert handle.lookups == 2000
