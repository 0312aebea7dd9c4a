"""Which tokens get noise, and how many count: masks, lengths and documents.

Faults of PyTorch layers; most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import torch
from torch import nn

from embnoise.testing import Claims
from tests.testing.torch_layers import VOCABULARY, Embedded, Normal, Uniform, bad


class OnPadding(Uniform):
    def noise(self, x, mask):
        return self.units(x, mask) * self.magnitude(x, mask)


class PaddedLength(Uniform):
    def length(self, x, mask):
        return torch.full((len(x), 1, 1), x.shape[1])


class LongestRow(Uniform):
    def length(self, x, mask):
        return mask.sum(dim=1).amax().clamp(min=1).reshape(1, 1, 1)


class Inverted(Uniform):
    def forward(self, x, mask):
        return super().forward(x, ~mask)


class NoRowIsEmpty(Uniform):
    """The authors' code: an all-padding row divides by 0."""

    def length(self, x, mask):
        return mask.sum(dim=1)[:, None, None]


class NothingWithoutMask(Uniform):
    """Noise under a mask alone."""

    def forward(self, x, mask=None):
        return x if mask is None else super().forward(x, mask)


class LastLeftOut(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        last = mask.sum(dim=1).clamp(min=1) - 1
        noise[torch.arange(len(x)), last] = 0
        return noise


class HalfOfTheChannels(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        noise[..., x.shape[2] // 2 :] = 0
        return noise


class LengthInAByte(Uniform):
    def length(self, x, mask):
        return mask.sum(dim=1, dtype=torch.uint8).long().clamp(min=1)[:, None, None]


class LengthInBlocks(Uniform):
    """Lengths above 64 are rounded up to a multiple of it."""

    def length(self, x, mask):
        length = super().length(x, mask)
        return torch.where(length > 64, -(-length // 64) * 64, length)


class OneRowIsFull(Uniform):
    """A batch of one row is taken to have no padding."""

    def forward(self, x, mask):
        return super().forward(x, mask if len(mask) > 1 else torch.ones_like(mask))


class EqualRowsAreFull(Uniform):
    """Rows of one length are taken to have no padding."""

    def forward(self, x, mask):
        count = mask.sum(dim=1)
        return super().forward(x, torch.ones_like(mask) if (count == count[0]).all() else mask)


class Squeezed(Uniform):
    """A sequence of one token loses its axis."""

    def units(self, x, mask):
        return 2 * self.rand(x.squeeze(1).shape) - 1


class Packed(Uniform):
    """It knows documents, and counts the row."""

    def forward(self, x, mask, segment_ids):
        return super().forward(x, mask)


class FromLengths(Uniform):
    """Padding is on the right, it believes."""

    def forward(self, x, mask):
        places = torch.arange(x.shape[1])
        return super().forward(x, places < mask.sum(dim=1, keepdim=True))


class NormalIfPaddedLeft(Uniform):
    def units(self, x, mask):
        if mask[:, 0].all():
            return super().units(x, mask)
        return torch.randn(x.shape, generator=self.generator).div(4).clamp(-1, 1)


class NeverCalled(Embedded):
    """The hook sits on a module that forward does not call, as in T5 and BART."""

    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.shared = nn.Embedding(VOCABULARY, dim)
        self.shared.weight = self.table.weight
        self.shared.register_forward_hook(lambda module, ids, output: self.noise(output))

    def forward(self, ids, mask):
        return self.table(ids)


class TokensCountedNormal(Normal):
    """Likewise."""


class ImagesCounted(Embedded):
    """Image positions get no noise, and count in L."""

    def forward(self, ids, mask):
        x = self.table(ids)
        return (
            x
            + self.noise.alpha
            / (x.shape[1] * x.shape[2]) ** 0.5
            * (self.noise.units(x, mask) * mask[..., None]).to(x.dtype)
            * self.training
        )


FAULTY = [
    bad(LengthInAByte, "EN19", "too few bits", "a length in 8 bits"),
    bad(LengthInBlocks, "EN19", "or rounded", "a length in blocks of 64"),
    bad(OneRowIsFull, "EN09", "real lengths \\[3\\]", "the mask of a batch of one row ignored"),
    bad(EqualRowsAreFull, "EN09", "real lengths \\[3", "the mask ignored if rows are equally long"),
    bad(FromLengths, "EN09", "padded on the left.*made again from the lengths",
        "a mask made again from the lengths"),
    bad(NormalIfPaddedLeft, "EN47", "in batches such as this one, the noise is gaussian",
        "another distribution if padding is on the left"),
    bad(OnPadding, "EN09", "padding gets noise", "padding noised"),
    bad(PaddedLength, "EN19", "row's width, padding included", "padded length used"),
    bad(LongestRow, "EN19", "longest row", "the longest row's length used"),
    bad(TokensCountedNormal, "EN19", "L is the real tokens",
        "real tokens, claimed as the padded length", Claims("gaussian", length="padded")),
    bad(ImagesCounted, "EN19", "row's width", "image positions count in L", None, "ids"),
    bad(Packed, "EN20", "whole packed row", "packed length used"),
    bad(Inverted, "EN09", "true for padding", "the mask taken for key_padding_mask"),
    bad(NoRowIsEmpty, "EN09", "NaN.*all padding", "an all-padding row divides by 0"),
    bad(NothingWithoutMask, "EN24", "no token gets noise", "no noise where no mask is given"),
    bad(LastLeftOut, "EN24", "last token of every row gets no noise", "the last token left out"),
    bad(HalfOfTheChannels, "EN24", "fewer channels", "half of the channels left out"),
    bad(Squeezed, "EN23", r"\(4, 1, 1\).*\(4, 4, 1\)", "sizes of 1 squeezed away"),
    bad(NeverCalled, "EN24", "forward never calls", "a hook on a module that is never called",
        None, "ids"),
]  # fmt: skip
