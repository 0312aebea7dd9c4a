"""Published recipes as examples, with what they promise."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.frameworks import needs

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

pytestmark = needs("torch")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


class TestR3F:
    def test_the_divergence_is_symmetric(self):
        import torch  # noqa: PLC0415

        import r3f  # noqa: PLC0415

        left, right = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
        p, q = left.softmax(-1), right.softmax(-1)
        expected = ((p - q) * (p / q).log()).sum(-1).mean()
        assert torch.allclose(r3f.symmetric_kl(left, right), expected)
        assert torch.equal(r3f.symmetric_kl(left, right), r3f.symmetric_kl(right, left))

    def test_both_passes(self, capsys, monkeypatch):
        import r3f  # noqa: PLC0415

        seen = []
        original = r3f.symmetric_kl

        def symmetric_kl(noisy, clean):
            size = float((noisy - clean).detach().abs().max())
            seen.append((noisy.requires_grad, clean.requires_grad, size))
            return original(noisy, clean)

        monkeypatch.setattr(r3f, "symmetric_kl", symmetric_kl)
        without = r3f.encoder
        # Without dropout, only the noise tells one pass from the other.
        monkeypatch.setattr(r3f, "encoder", lambda: _without_dropout(without()))
        accuracies = r3f.main(["--steps", "3", "--eps", "0.01"])
        assert set(accuracies) == {"plain", "R3F"}
        assert "held-out rows" in capsys.readouterr().out
        assert len(seen) == 3
        assert all(noisy and clean and 0 < size < 0.1 for noisy, clean, size in seen)

    def test_without_noise_both_passes_are_the_same(self, monkeypatch):
        import r3f  # noqa: PLC0415

        seen = []
        monkeypatch.setattr(
            r3f,
            "symmetric_kl",
            lambda noisy, clean: seen.append((noisy == clean).all()) or 0 * noisy.sum(),
        )
        without = r3f.encoder
        monkeypatch.setattr(r3f, "encoder", lambda: _without_dropout(without()))
        r3f.train(weight=1.0, eps=0.0, steps=1, seed=0)
        assert seen == [True]


def _without_dropout(model):
    from torch import nn  # noqa: PLC0415

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class TestSymNoise:
    def test_every_row_is_there_twice_with_opposite_noise(self, monkeypatch, capsys):
        """In every micro-batch; the steps draw other noise."""
        import torch  # noqa: PLC0415

        import symnoise  # noqa: PLC0415

        noises, clean = [], symnoise.decoder

        def decoder():
            model = clean()
            embed = model.get_input_embeddings()

            def note(_module, args, output):
                noise = output - torch.nn.functional.embedding(args[0], embed.weight)
                noises.append((args[0], noise.detach()))

            embed.register_forward_hook(note)
            return model

        monkeypatch.setattr(symnoise, "decoder", decoder)
        losses = symnoise.main(["--epochs", "1", "--alpha", "5"])
        assert len(losses) == 8
        assert "in 8 steps" in capsys.readouterr().out
        assert len(noises) == 16
        for ids, noise in noises:
            assert torch.equal(ids[::2], ids[1::2])
            real = ids != 0
            magnitude = 5 / (real.sum(1, keepdim=True) * noise.shape[-1]).sqrt()
            expected = torch.where(real, magnitude, 0)[..., None].expand_as(noise)
            assert torch.allclose(noise.abs(), expected, atol=1e-6)
            assert torch.allclose(noise[::2], -noise[1::2], atol=1e-6)
        signs = [noise[:2, :6].sign() for _, noise in noises]
        assert not any(torch.equal(*pair) for pair in pairwise(signs))
