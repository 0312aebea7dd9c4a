"""Masks and lengths: which tokens are counted, and which get noise."""

import numpy as np

from tests.testing.faults.layer import fault


def last_place(mask):
    """The place after the last token, which is the length if padding is on the right."""
    places = np.arange(1, mask.shape[1] + 1)
    return (mask * places).max(axis=1, initial=0)


def first_place(mask):
    """The width less the place of the first token."""
    return last_place(mask[:, ::-1])


def from_lengths(mask, call):
    """The mask made again from the lengths."""
    return np.arange(mask.shape[1]) < mask.sum(axis=1, keepdims=True)


def to_the_right(mask, call):
    return from_lengths(mask, call)[:, ::-1]


def hull(mask, call):
    """All from the first token to the last."""
    before = np.maximum.accumulate(mask, axis=1)
    after = np.maximum.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    return before & after


def longest_run(mask, call):
    """The tokens before the first padding."""
    return np.logical_and.accumulate(mask, axis=1)


def bytes_as_bool(mask, call):
    """A mask that counts if it is boolean only."""
    return mask if call.mask.dtype == bool else np.ones_like(mask)


def float_ignored(mask, call):
    return mask if call.mask.dtype.kind != "f" else np.ones_like(mask)


def integer_ignored(mask, call):
    return mask if call.mask.dtype.kind not in "iu" else np.ones_like(mask)


def additive(mask, call):
    """A float mask taken for 0 and -inf."""
    return call.mask == 0 if call.mask.dtype.kind == "f" else mask


def inverted_integers(mask, call):
    """``~mask`` of integers is never 0."""
    if call.mask.dtype.kind not in "iu":
        return mask
    return ~call.mask.astype(int) != 0


def indexed(mask, call):
    """``x[mask]`` with integers takes rows 0 and 1."""
    if call.mask.dtype.kind not in "iu":
        return mask
    found = np.zeros_like(mask)
    found[np.unique(call.mask[call.mask < len(mask)].astype(int))] = True
    return found


def first(kept):
    """What the first training call had."""

    def hook(value, call):
        known = call.memory.setdefault(kept, value)
        return known if np.shape(known) == np.shape(value) else value

    return hook


def before(kept):
    """What the call before had."""

    def hook(value, call):
        known = call.memory.get(kept, value)
        call.memory[kept] = value
        return known if np.shape(known) == np.shape(value) else value

    return hook


def largest(value, call):
    """The largest so far."""
    seen = max(call.memory.get("largest", 0), int(np.max(value, initial=0)))
    call.memory["largest"] = seen
    return np.full_like(value, seen)


def square(mask, call):
    """Transposed, if that fits."""
    return mask.T if mask.shape[0] == mask.shape[1] else mask


def width_if_equal(one, other):
    def length(value, call):
        sizes = dict(zip("BLd", call.shape, strict=True))
        return np.full_like(value, 4 * call.shape[1]) if sizes[one] == sizes[other] else value

    return length


def clean_beyond(limit, axis):
    """No noise from some place on."""

    def noise(noise, call):
        noise = noise.copy()
        noise[(slice(None),) * axis + (slice(limit, None),)] = 0
        return noise

    return noise


def tiled(limit, axis):
    """A draw for so many places, repeated."""

    def units(units, call):
        places = np.arange(units.shape[axis]) % limit
        return np.take(units, places, axis)

    return units


def beyond(limit, axis, change):
    """The units from a limit on, changed."""

    def units(units, call):
        kept, rest = np.split(units, [limit], axis)
        return np.concatenate([kept, change(rest)], axis)

    return units


def smaller_beyond(limit, axis):
    def noise(noise, call):
        noise = noise.copy()
        noise[(slice(None),) * axis + (slice(limit, None),)] *= 0.5
        return noise

    return noise


def counted(name, says, text, length, code="EN47"):
    return fault(name, code, says, text, length=length)


LEFT = "left is counted in L"
HOLES = "between tokens is counted in L|mask is made again"

FAULTS = [
    counted("left padding counted", LEFT, "left padding counted in L",
            lambda value, call: last_place(call.mask != 0)),
    counted("left padding counted in rows", LEFT, "the place of the last token for the length",
            lambda value, call: np.maximum(value, last_place(call.mask != 0) - 1)),
    counted("right padding counted", "L|mask", "the width less the place of the first token",
            lambda value, call: first_place(call.mask != 0), "EN19"),
    counted("holes counted", HOLES, "padding between tokens counted in L",
            lambda value, call: hull(call.mask != 0, call).sum(axis=1)),
    counted("first run counted", "at most", "only tokens before the first padding counted",
            lambda value, call: longest_run(call.mask != 0, call).sum(axis=1), "EN10"),
    counted("half of the left padding", LEFT, "half of the left padding counted",
            lambda value, call: (value + last_place(call.mask != 0) + 1) // 2),
    fault("mask from lengths", "EN09", "padding gets noise",
          "the mask made again from the lengths",
          mask=from_lengths),
    fault("mask to the right", "EN09", "padding gets noise",
          "the mask made as if padding were on the left", mask=to_the_right),
    fault("mask without holes", "EN47", "between tokens", "padding between tokens noised",
          mask=hull, length=lambda value, call: (call.mask != 0).sum(axis=1)),
    fault("mask up to the first hole", "EN47", "no noise", "no noise after the first padding",
          mask=longest_run, length=lambda value, call: (call.mask != 0).sum(axis=1)),
    fault("padding guessed", "EN09", "embeddings that are 0 are taken for padding",
          "padding guessed from embeddings that are 0",
          mask=lambda mask, call: (call.values != 0).any(axis=2)),
    fault("mask inverted", "EN09", "padding gets noise", "the mask inverted",
          mask=lambda mask, call: mask if mask.all() else ~mask),
    fault("mask shifted left", "EN24", "no noise", "the mask shifted, as labels are",
          mask=lambda mask, call: np.roll(mask, -1, 1) & mask),
    fault("mask shifted right", "EN09", "padding gets noise", "the mask shifted to the right",
          mask=lambda mask, call: np.roll(mask, 1, 1) if not mask.all() else mask),
    fault("mask of the first row", "EN09", "padding gets noise", "one row's mask for all",
          mask=lambda mask, call: np.broadcast_to(mask[:1], mask.shape)),
    fault("mask of any row", "EN09", "padding gets noise", "padding is what is padding in all rows",
          mask=lambda mask, call: np.broadcast_to(mask.any(axis=0), mask.shape)),
    fault("empty row noised", "EN09", "padding gets noise", "a row of padding noised",
          mask=lambda mask, call: mask | ~mask.any(axis=1, keepdims=True)),
    fault("one token noised anyway", "EN09", "padding gets noise", "the first token always noised",
          mask=lambda mask, call: mask | (np.arange(mask.shape[1]) == 0)),
    fault("numeric mask ignored", "EN48", "ignored", "a mask that is not boolean ignored",
          mask=bytes_as_bool),
    fault("integer mask ignored", "EN48", "int64 is ignored", "an integer mask ignored",
          mask=integer_ignored),
    fault("float mask ignored", "EN48", "float32 is ignored", "a float mask ignored",
          mask=float_ignored),
    fault("float mask taken as additive", "EN48", "float32 is ignored or inverted",
          "a float mask of 1 and 0 taken for 0 and -inf", mask=additive),
    fault("integer mask by ~", "EN48", "int64 is ignored or inverted",
          "an integer mask inverted by ~", mask=inverted_integers),
    fault("integer mask as an index", "EN48", "int64", "an integer mask used as an index",
          mask=indexed),
    fault("float mask doubles the length", "EN48", "float32 is misread",
          "another length for a float mask",
          length=lambda value, call: value * (1 + (call.mask.dtype.kind == "f"))),
    fault("integer mask: the width", "EN48", "int64 is misread",
          "the row's width for an integer mask",
          length=lambda value, call: value if call.mask.dtype.kind == "b"
          else np.full_like(value, call.shape[1])),
    fault("transposed if B is L", "EN49", "told apart by their sizes",
          "the mask transposed if B == L", mask=square),
    fault("other length if B is L", "EN49", "told apart by their sizes",
          "another length if B == L", length=width_if_equal("B", "L")),
    fault("other length if L is d", "EN49", "told apart by their sizes",
          "another length if L == d", length=width_if_equal("L", "d")),
    fault("other length if B is d", "EN49", "told apart by their sizes",
          "another length if B == d", length=width_if_equal("B", "d")),
    fault("no noise if B is L", "EN49", "told apart", "no noise if B == L",
          noise=lambda noise, call: noise * (call.shape[0] != call.shape[1])),
    fault("no noise for one token", "EN49", "batch of one token", "no noise for a batch of 1 token",
          noise=lambda noise, call: noise * (call.shape[:2] != (1, 1))),
    fault("double noise for one token", "EN49", "batch of one token",
          "twice the noise for a batch of 1 token",
          noise=lambda noise, call: noise * (1 + (call.shape[:2] == (1, 1)))),
    *(
        fault(f"clean {which} from {limit}", "EN50", f"only some {which} are covered",
              f"no noise on {which} from {limit} on", noise=clean_beyond(limit, axis))
        for which, axis, limit in (
            ("tokens", 1, 512), ("tokens", 1, 1024), ("tokens", 1, 2048), ("tokens", 1, 4096),
            ("channels", 2, 128), ("channels", 2, 1024), ("channels", 2, 4096),
        )
    ),
    *(
        fault(f"{which} repeat after {limit}", "EN50", "repeated for the rest",
              f"the draw for {limit} {which} is repeated", units=tiled(limit, axis))
        for which, axis, limit in (
            ("tokens", 1, 512), ("tokens", 1, 1000), ("tokens", 1, 2048),
            ("channels", 2, 128), ("channels", 2, 768), ("channels", 2, 4096),
        )
    ),
    fault("one-sided tokens from 512", "EN50", "on one side of 0",
          "positive noise alone on tokens from 512 on", units=beyond(512, 1, abs)),
    fault("signs in rows from 512", "EN50", "another distribution",
          "signs alone in rows from 512 on", units=beyond(512, 0, np.sign)),
    fault("smaller tokens from 1024", "EN50", "changes along the tokens",
          "half of the noise on tokens from 1024 on", noise=smaller_beyond(1024, 1)),
    fault("smaller channels from 512", "EN50", "changes along the channels",
          "half of the noise on channels from 512 on", noise=smaller_beyond(512, 2)),
    fault("length up to 512", "EN19", "or up to some bound", "the length clipped at 512",
          length=lambda value, call: np.minimum(value, 512)),
    fault("length up to 2048", "EN19", "or up to some bound", "the length clipped at 2,048",
          length=lambda value, call: np.minimum(value, 2048)),
    fault("length up to 4096", "EN50", "L is capped, at about 4[01]",
          "the length clipped at 4,096", length=lambda value, call: np.minimum(value, 4096)),
    fault("mask of the first call", "EN51", "an earlier call", "the first mask kept",
          mask=first("mask")),
    fault("length of the first call", "EN51", "an earlier call", "the first lengths kept",
          length=first("length")),
    fault("magnitude of the first call", "EN51", "an earlier call", "the first magnitudes kept",
          magnitude=first("magnitude")),
    fault("mask of the call before", "EN51", "an earlier call", "the mask of the call before",
          mask=before("mask")),
    fault("length of the call before", "EN51", "an earlier call", "the lengths of the call before",
          length=before("length")),
    fault("longest row so far", "EN19", "longest row", "the longest row so far",
          length=largest),
    fault("longest row of the batch", "EN19", "longest row", "the longest row's length for all",
          length=lambda value, call: np.full_like(value, value.max(initial=0))),
    fault("shortest row of the batch", "EN10", "at most", "the shortest row's length for all",
          length=lambda value, call: np.full_like(value, value.min(initial=call.shape[1]))),
    fault("mean row of the batch", "EN10", "at most", "the mean length for all",
          length=lambda value, call: np.full(value.shape, value.mean() if value.size else 1)),
    fault("length less one", "EN10", "at most.*off by one", "the length less one",
          length=lambda value, call: np.maximum(value - 1, 1)),
    fault("length plus one", "EN08", "at least.*off by one", "the length plus one (an end token)",
          length=lambda value, call: value + 1),
    fault("next power of two", "EN19", "too small, by a factor",
          "the length rounded up to a power of two",
          length=lambda value, call: 2 ** np.ceil(np.log2(np.maximum(value, 1)))),
    fault("multiple of 8", "EN19", "too small, by a factor",
          "the length rounded up to a multiple of 8",
          length=lambda value, call: -(-value // 8) * 8),
]  # fmt: skip
