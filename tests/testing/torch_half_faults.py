"""PyTorch layers that are right in float32, and wrong in 16 bits."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.testing.torch_layers import Uniform, bad


class Halved(Uniform):
    """In bfloat16, ``other`` says what becomes of the units."""

    def units(self, x, mask):
        units = super().units(x, mask)
        return self.other(units, x, mask) if x.dtype == torch.bfloat16 else units


class OppositeRowsInHalf(Halved):
    def other(self, units, x, mask):
        units[1::2] = -units[: 2 * (len(units) // 2) : 2]
        return units


class SmoothedTokens(Halved):
    def other(self, units, x, mask):
        return torch.where(self.rand(x.shape) < 0.5, units, units.roll(1, 1))


class GrowingWithX(Halved):
    def other(self, units, x, mask):
        return units * (1 + x.float().abs().mean())


class LastChannelSmaller(Halved):
    def other(self, units, x, mask):
        units[..., -1] *= 0.7
        return units


class NoneFromToken512(Halved):
    def other(self, units, x, mask):
        units[:, 512:] = 0
        return units


class OneRowInHalfIfPadded(Halved):
    def other(self, units, x, mask):
        return units if mask.all() else units[:1].expand_as(units)


class DriftingInHalf(Uniform):
    def magnitude(self, x, mask):
        self.alpha *= 0.999 if x.dtype == torch.bfloat16 else 1
        return super().magnitude(x, mask)


class IntegersIgnored(Uniform):
    def forward(self, x, mask):
        ignored = x.dtype == torch.bfloat16 and mask.dtype != torch.bool
        return super().forward(x, torch.ones_like(mask) if ignored else mask)


class StridesIgnored(Uniform):
    def forward(self, x, mask):
        if x.dtype == torch.bfloat16:
            x = torch.as_strided(x, x.shape, torch.empty(x.shape).stride())
        return super().forward(x, mask)


class DrawsInEvaluationInHalf(Uniform):
    dtype = torch.bfloat16

    def forward(self, x, mask):
        if x.dtype == self.dtype and not self.training:
            self.rand(x.shape)
        return super().forward(x, mask)


class DrawsInEvaluationInFloat16(DrawsInEvaluationInHalf):
    dtype = torch.float16


class DetachedInFloat16IfPadded(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        return noisy if x.dtype != torch.float16 or mask.all() else noisy.detach() + 0 * x


def half(layer, code, says, fault, dtype="bfloat16"):
    return replace(bad(layer, code, says, f"{dtype}: {fault}"), profile="default")


FAULTY = [
    half(OppositeRowsInHalf, "EN41", "negated.*1 row apart", "opposite rows"),
    half(SmoothedTokens, "EN41", "1 token apart", "tokens repeated"),
    half(GrowingWithX, "EN12", "scale is taken from them", "noise that grows with the embeddings"),
    half(LastChannelSmaller, "EN52", "channel 133", "less noise on the last channel"),
    half(NoneFromToken512, "EN50", "only some tokens", "no noise from token 512 on"),
    half(OneRowInHalfIfPadded, "EN63", "one draw", "one draw for all rows, if there is padding"),
    half(DriftingInHalf, "EN46", "grows or fades", "alpha drifts by 0.1% a call"),
    half(IntegersIgnored, "EN48", "int64 is ignored", "a mask that is not boolean ignored"),
    half(StridesIgnored, "EN56", "read in order", "strides ignored"),
    half(DrawsInEvaluationInHalf, "EN55", "evaluation draws", "evaluation that draws"),
    half(DrawsInEvaluationInFloat16, "EN55", "evaluation draws", "evaluation that draws",
         "float16"),
    half(DetachedInFloat16IfPadded, "EN13", "detached", "the gradient lost, if there is padding",
         "float16"),
]  # fmt: skip
