"""Inputs that are misread or changed, and gradients."""

import numpy as np

from tests.testing.faults.layer import fault

TORCH = ("torch",)


def with_noise(change):
    """The output from x and the framework's noise."""
    return lambda arrays, x, mask, noise, call: change(arrays, x, arrays.array(noise, x), call)


def factor(scale):
    """The gradient times a factor, with the values right."""

    def output(arrays, x, mask, noise, call):
        passed = scale(noise, call)
        if isinstance(passed, np.ndarray):
            passed = arrays.array(passed, x)
        fixed = arrays.stop(x)
        return fixed + (x - fixed) * passed + arrays.array(noise, x)

    return output


def gradient(name, code, says, text, scale):
    return fault(name, code, says, text, output=factor(scale))


def misread(change):
    """What is read of an input that is not contiguous."""

    def output(arrays, x, mask, noise, call):
        x = x if x.is_contiguous() else change(x)
        return x + arrays.array(noise, x)

    return output


def in_memory_order(x):
    import torch  # noqa: PLC0415

    return torch.as_strided(x, x.shape, torch.empty(x.shape).stride())


def strided(name, says, text, change):
    return fault(name, "EN56", says, text, frameworks=TORCH, output=misread(change))


def needs_gradient(change):
    def output(arrays, x, mask, noise, call):
        if getattr(x, "requires_grad", False):
            noise = change(noise)
        return x + arrays.array(noise, x)

    return output


def asks_gradient(name, text, change):
    return fault(name, "EN58", "looks at requires_grad", text, frameworks=TORCH,
                 output=needs_gradient(change))  # fmt: skip


def edits(change):
    """The mask is changed in place before it is used."""

    def output(arrays, x, mask, noise, call):
        if mask is not None:
            change(mask)
        return x + arrays.array(noise, x)

    return output


def edited(name, text, change):
    return fault(name, "EN57", "edited in place", text, frameworks=TORCH, output=edits(change))


def sets(change):
    def output(arrays, x, mask, noise, call):
        result = x + arrays.array(noise, x)
        change(x)
        return result

    return output


def in_place(arrays, x, mask, noise, call):
    x += arrays.array(noise, x)
    return x


def draw_in_stride_order(arrays, x, mask, noise, call):
    """What ``torch.empty_like(x).uniform_()`` may do."""
    order = np.argsort([-stride for stride in x.stride()], kind="stable")
    flat = noise if x.is_contiguous() else _reordered(noise, order)
    return x + arrays.array(flat, x)


def _reordered(noise, order):
    moved = noise.transpose(order)
    return noise.ravel().reshape(moved.shape).transpose(np.argsort(order))


def large(call):
    """Whether the batch is larger than the small ones of most checks."""
    return call.shape[0] * call.shape[1] * call.shape[2] > 4096


def padded(call):
    return not np.asarray(call.mask != 0).all()


SCALED = "gradient is scaled|depends on the embeddings|sets a part of it to 0"
DETACHED = "detached"


def after(change):
    """What follows the sum, in a copy that has no gradient."""

    def output(arrays, x, mask, noise, call):
        return arrays.array(change(arrays.numpy(x) + noise), x)

    return output


def root(x):
    return np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6)


def by_layer(x):
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / root(centered)


NORMALIZES = "normalizes the embeddings"

FAULTS = [
    gradient("no gradient", "EN13", DETACHED, "gradient blocked", lambda noise, call: 0.0),
    gradient("half a gradient", "EN13", SCALED, "half of the gradient", lambda noise, call: 0.5),
    gradient("double gradient", "EN13", SCALED, "twice the gradient", lambda noise, call: 2.0),
    gradient("gradient negated", "EN13", SCALED, "the gradient negated", lambda noise, call: -1.0),
    gradient("gradient over the batch", "EN13", SCALED, "the gradient divided by the batch",
             lambda noise, call: 1 / call.shape[0]),
    gradient("gradient over the length", "EN13", SCALED, "the gradient divided by the length",
             lambda noise, call: 1 / call.shape[1]),
    gradient("gradient with noise", "EN13", SCALED, "the gradient scaled by the noise",
             lambda noise, call: 1 + noise),
    gradient("gradient of noise alone", "EN13", SCALED, "the gradient multiplied by the noise",
             lambda noise, call: noise),
    gradient("gradient dropped", "EN13", SCALED, "a part of the gradient dropped",
             lambda noise, call: (noise > 0) * 1.0),
    gradient("gradient of one channel", "EN13", SCALED, "one channel without a gradient",
             lambda noise, call: np.broadcast_to(
                 np.arange(noise.shape[2]) != 1, noise.shape) * 1.0),
    gradient("gradient of one token", "EN13", SCALED, "the first token without a gradient",
             lambda noise, call: np.broadcast_to(
                 np.arange(noise.shape[1])[:, None] != 0, noise.shape) * 1.0),
    gradient("gradient of one row", "EN13", SCALED, "the last row without a gradient",
             lambda noise, call: np.broadcast_to(
                 np.arange(len(noise))[:, None, None] != 3, noise.shape) * 1.0),
    gradient("gradient halved in large batches", "EN59", SCALED,
             "half of the gradient in large batches", lambda noise, call: 1 - 0.5 * large(call)),
    gradient("no gradient in large batches", "EN59", DETACHED,
             "no gradient in large batches", lambda noise, call: 1.0 - large(call)),
    gradient("gradient of padding", "EN59", SCALED, "no gradient at padding",
             lambda noise, call: (call.mask != 0)[..., None] * np.ones(call.shape)),
    gradient("gradient halved by padding", "EN59", SCALED,
             "half of the gradient where there is padding",
             lambda noise, call: 1 - 0.5 * padded(call)),
    gradient("gradient by the share of tokens", "EN59", SCALED,
             "the gradient times the share of real tokens",
             lambda noise, call: float(np.asarray(call.mask != 0).mean()) if padded(call) else 1.0),
    gradient("gradient of long rows", "EN59", SCALED, "no gradient from token 16 on",
             lambda noise, call: np.broadcast_to(
                 np.arange(noise.shape[1])[:, None] < 16, noise.shape) * 1.0),
    gradient("gradient of wide channels", "EN59", SCALED, "no gradient from channel 64 on",
             lambda noise, call: np.broadcast_to(
                 np.arange(noise.shape[2]) < 64, noise.shape) * 1.0),
    gradient("gradient of later calls", "EN59", SCALED, "half of the gradient in later calls",
             lambda noise, call: 1 - 0.5 * (call.calls > 1)),
    fault("output detached", "EN13", DETACHED, "the sum detached",
          output=with_noise(lambda arrays, x, noise, call: arrays.stop(x + noise))),
    fault("noise takes a share of x", "EN12", "depends on the embeddings",
          "noise that is multiplied in",
          output=with_noise(lambda arrays, x, noise, call: x + noise * (1 + x))),
    fault("noise by the sign of x", "EN12", "depends on the embeddings",
          "noise whose sign is that of the embeddings",
          output=with_noise(
              lambda arrays, x, noise, call:
              x + noise * arrays.array(1 - 2 * (arrays.numpy(x) > 0.5), x)
          )),
    fault("no noise at zero", "EN12", "embeddings that are 0 are taken for padding",
          "no noise where the embeddings are 0",
          output=with_noise(
              lambda arrays, x, noise, call: x + noise * arrays.array(arrays.numpy(x) != 0, x)
          )),
    fault("input in place", "EN16", "in place", "input changed in place", output=in_place,
          frameworks=TORCH),
    strided("memory in order", "another output|as if it were contiguous",
            "memory read in order, whatever the strides", in_memory_order),
    strided("strided input transposed", "another output", "a strided input taken for transposed",
            lambda x: x.transpose(0, 1).reshape(x.shape)),
    strided("view of a strided input", "not contiguous", "view() of the input",
            lambda x: x.view(-1).view(x.shape)),
    strided("strided input dropped", "another output", "zeros for a strided input",
            lambda x: x * 0),
    fault("noise in stride order", "EN56", "order of the strides",
          "noise drawn in the order of the strides", output=draw_in_stride_order,
          frameworks=TORCH),
    fault("no noise for strided inputs", "EN56", "another output",
          "no noise for a strided input", frameworks=TORCH,
          output=lambda arrays, x, mask, noise, call: x + arrays.array(
              noise * x.is_contiguous(), x)),
    asks_gradient("no noise with a gradient", "no noise where x needs a gradient",
                  lambda noise: 0 * noise),
    asks_gradient("half of the noise with a gradient", "half of the noise where x needs a gradient",
                  lambda noise: noise / 2),
    asks_gradient("negated with a gradient", "other noise where x needs a gradient",
                  lambda noise: -noise),
    asks_gradient("other draw with a gradient", "another draw where x needs a gradient",
                  lambda noise: noise[:, ::-1].copy()),
    asks_gradient("one row with a gradient", "no noise on the first row with a gradient",
                  lambda noise: noise * (np.arange(len(noise)) > 0)[:, None, None]),
    edited("mask cleared", "the mask cleared in place", lambda mask: mask.zero_()),
    edited("mask inverted in place", "the mask inverted in place",
           lambda mask: mask.copy_(~mask.bool())),
    edited("first token unmasked", "the first token's mask cleared in place",
           lambda mask: mask[:, 0].zero_()),
    edited("last token masked", "an end token set in the mask in place",
           lambda mask: mask[:, -1].fill_(1)),
    edited("empty row filled", "one token of each row set in the mask",
           lambda mask: mask[:, 2].fill_(1)),
    edited("mask rolled in place", "the mask rolled in place",
           lambda mask: mask.copy_(mask.roll(1, 1))),
    fault("gradient asked for", "EN57", "sets an attribute", "requires_grad set on the input",
          frameworks=TORCH, output=sets(lambda x: x.requires_grad_() if x.is_leaf else x)),
    fault("LayerNorm after the noise", "EN03", NORMALIZES, "LayerNorm after the noise",
          output=after(by_layer)),
    fault("RMSNorm after the noise", "EN03", NORMALIZES, "RMSNorm after the noise",
          output=after(lambda x: x / root(x))),
    fault("unit length after the noise", "EN03", NORMALIZES, "tokens of length 1 after the noise",
          output=after(lambda x: x / root(x) / x.shape[-1] ** 0.5)),
    fault("multiplied in training", "EN03", "multiplied by 4: keep that out",
          "embeddings multiplied by sqrt(d) in training", output=after(lambda x: 4 * x)),
]  # fmt: skip
