"""One draw in several places: within a call, and from step to step."""

import numpy as np

from tests.testing.faults.layer import fault


def rows(first, second, change=lambda row: row):
    """Row ``second`` is made from row ``first``."""

    def units(units, call):
        units = units.copy()
        if len(units) > max(first, second):
            units[second] = change(units[first])
        return units

    return units


def within(change):
    """All of a call's units at once."""
    return lambda units, call: change(units.copy()) if units.size else units


def tail(axis, change):
    """The second half of an axis is made from the first."""

    def changed(units):
        half = units.shape[axis] // 2
        first = np.take(units, range(half), axis)
        rest = np.take(units, range(half, units.shape[axis]), axis)
        odd = np.take(rest, range(half, rest.shape[axis]), axis)
        return np.concatenate([first, change(first), odd], axis)

    return within(changed)


def spread(axis, distance, change=lambda part: part):
    """From ``distance`` on, every part of an axis is one that lies that far before it."""

    def changed(units):
        places = np.arange(units.shape[axis])
        early = places // distance % 2 == 0
        moved = np.take(units, np.where(early, places, places - distance), axis)
        shape = [-1 if i == axis else 1 for i in range(units.ndim)]
        return np.where(early.reshape(shape), moved, change(moved))

    return within(changed)


def pairs(axis, start=512, change=lambda part: part):
    """From ``start`` on, every second part of an axis is made from the one before it."""

    def changed(units):
        later = np.take(units, range(start, units.shape[axis]), axis)
        early = np.take(units, range(min(start, units.shape[axis])), axis)
        return np.concatenate([early, spread(axis, 1, change)(later, None)], axis)

    return within(changed)


def put(source, target, change=lambda part: part):
    """One token or channel is made from another, given as indices."""

    def changed(units):
        if all(size > 5 for size in units.shape[1:]):
            units[target] = change(units[source])
        return units

    return within(changed)


def shuffled(axis, seed=3):
    """Every second part of an axis is the one before it, in another order."""

    def changed(units):
        units = np.moveaxis(units, axis, 0).copy()
        order = np.random.default_rng(seed)
        flat = units.reshape(len(units), -1)
        count = len(flat) // 2 * 2
        flat[1:count:2] = order.permuted(flat[0:count:2], axis=1)
        return np.moveaxis(flat.reshape(units.shape), 0, axis)

    return within(changed)


def transposed(units):
    """The upper square of every second row is that of the row before, transposed."""
    size = min(units.shape[1:])
    count = len(units) // 2 * 2
    units[1:count:2, :size, :size] = units[0:count:2, :size, :size].transpose(0, 2, 1)
    return units


def partly(distance, axis, share=0.5):
    """A share of the elements is taken from ``distance`` before."""

    def changed(units):
        kept = np.random.default_rng(7).random(units.shape) < share
        return np.where(kept, np.roll(units, distance, axis), units)

    return within(changed)


def same_sizes(distance, axis):
    """The sizes from ``distance`` before, with signs of their own.

    In three channels of four: of many in a row, some would have the same signs by chance.
    """

    def changed(units):
        places = np.arange(units.shape[axis])
        early = places // distance % 2 == 0
        moved = abs(np.take(units, np.where(early, places, places - distance), axis))
        shared = np.arange(units.shape[2]) % 4 < 3
        return np.sign(units) * np.where(shared, moved, abs(units))

    return within(changed)


def same_signs(distance, axis):
    """The signs from ``distance`` before, with sizes of their own."""

    def changed(units):
        places = np.arange(units.shape[axis])
        early = places // distance % 2 == 0
        moved = np.sign(np.take(units, np.where(early, places, places - distance), axis))
        return abs(units) * moved

    return within(changed)


def from_step(period, change):
    """Steps in groups: those after the first ``period`` are made from these."""

    def draw(call, seed, step):
        group, place = divmod(step, 2 * period)
        units = np.random.default_rng([seed, group, place % period]).uniform(-1, 1, call.shape)
        return change(units) if place >= period else units

    return draw


def kept_from(distance):
    """Half of the elements keep the noise of some steps ago."""

    def draw(call, seed, step):
        now, before = (
            np.random.default_rng([seed, at]).uniform(-1, 1, call.shape)
            for at in (step, abs(step - distance))
        )
        kept = np.random.default_rng(5).random(call.shape) < 0.5
        return np.where(kept if step // distance % 2 else ~kept, now, before)

    return draw


TURNED = r"at \(row, token, channel\)"

FAULTS = [
    fault("a row negated", "EN41", "negated", "a row that is another one, negated",
          units=rows(1, 4, np.negative)),
    fault("a row reversed", "EN40", "reversed along the tokens",
          "a row that is another one, its tokens reversed",
          units=rows(0, 3, lambda row: row[::-1])),
    fault("a row with reversed channels", "EN41", "reversed along the channels",
          "a row that is another one, its channels reversed",
          units=rows(0, 3, lambda row: row[:, ::-1])),
    fault("a row rotated", "EN41", "reversed", "a row that is another one, turned by 180 degrees",
          units=rows(1, 3, lambda row: row[::-1, ::-1])),
    fault("a row rolled in both axes", "EN40", TURNED,
          "a row that is another one, rolled in two axes",
          units=rows(1, 5, lambda row: np.roll(row, (3, 5), (0, 1)))),
    fault("rows two apart", "EN41", "2 rows apart", "rows that are those two before, negated",
          units=spread(0, 2, np.negative)),
    fault("rows three apart", "EN41", "3 rows apart", "rows that are those three before, flipped",
          units=spread(0, 3, np.negative)),
    fault("transposed rows", "EN41", "tokens and channels exchanged",
          "a row that is another one, transposed", units=within(transposed)),
    fault("shuffled rows", "EN42", "shuffled", "rows that are others, shuffled",
          units=shuffled(0)),
    fault("shuffled tokens", "EN42", "shuffled", "tokens that are others, shuffled",
          units=shuffled(1)),
    fault("shuffled channels", "EN42", "shuffled", "channels that are others, shuffled",
          units=shuffled(2)),
    fault("rows with the same signs", "EN41", "signs.*2 rows apart",
          "the signs of another row", units=same_signs(2, 0)),
    fault("rows with the same sizes", "EN41", "sizes.*2 rows apart",
          "the sizes of another row", units=same_sizes(2, 0)),
    fault("tokens with the same signs", "EN41", "signs.*3 tokens apart",
          "the signs of another token", units=same_signs(3, 1)),
    fault("channels with the same sizes", "EN41", "sizes.*5 channels apart",
          "the sizes of another channel", units=same_sizes(5, 2)),
    fault("half of the channels negated", "EN41", "negated.*channels apart",
          "half of the channels negated for the other half", units=tail(2, np.negative)),
    fault("half of the channels reversed", "EN41", "reversed along the channels",
          "half of the channels reversed for the other half",
          units=tail(2, lambda half: half[..., ::-1])),
    fault("half of the channels repeated", "EN27", "shared by channels",
          "half of the channels repeated for the other half", units=tail(2, np.copy)),
    fault("half of the tokens reversed", "EN26", "repeated or reversed",
          "the first half of the tokens reversed for the second",
          units=tail(1, lambda half: half[:, ::-1])),
    fault("half of the tokens negated", "EN41", "negated.*tokens apart",
          "half of the tokens negated for the other half", units=tail(1, np.negative)),
    fault("half of the rows reversed", "EN41", "rows? apart",
          "half of the rows with reversed channels for the other half",
          units=tail(0, lambda half: half[:, :, ::-1])),
    fault("tokens four apart", "EN41", "4 tokens apart", "tokens that are those four before, "
          "negated", units=spread(1, 4, np.negative)),
    fault("tokens with reversed channels", "EN41", "reversed along the channels",
          "tokens that are those five before, with reversed channels",
          units=spread(1, 5, lambda part: part[..., ::-1])),
    fault("channels eight apart", "EN41", "8 channels apart", "channels that are those eight "
          "before, negated", units=spread(2, 8, np.negative)),
    fault("channels with reversed tokens", "EN41", "reversed along the tokens",
          "channels that are those seven before, with reversed tokens",
          units=spread(2, 7, lambda part: part[:, ::-1])),
    fault("one token negated", "EN42", "negated", "one token that is another, negated",
          units=put(np.s_[:, 1], np.s_[:, 4], np.negative)),
    fault("one token of one row", "EN40", TURNED, "one token that is a token of another row",
          units=put(np.s_[0, 1], np.s_[-1, 3])),
    fault("one token reversed", "EN42", "reversed along the channels",
          "one token that is another, with reversed channels",
          units=put(np.s_[0, 1], np.s_[0, 4], lambda part: part[::-1])),
    fault("one channel reversed", "EN42", "reversed along the tokens",
          "one channel that is another, reversed",
          units=put(np.s_[:, :, 2], np.s_[:, :, 5], lambda part: part[:, ::-1])),
    fault("one channel negated", "EN42", "negated", "one channel that is another, negated",
          units=put(np.s_[:, :, 0], np.s_[:, :, 4], np.negative)),
    fault("rows in pairs from 512", "EN50", "fewer rows", "rows from 512 on in pairs, of one draw",
          units=pairs(0)),
    fault("tokens in pairs from 512", "EN50", "fewer tokens",
          "tokens from 512 on in pairs, of one draw (16-bit positions)", units=pairs(1)),
    fault("tokens in pairs from 2048, negated", "EN50", "fewer tokens",
          "tokens from 2,048 on in pairs, the second negated",
          units=pairs(1, 2048, np.negative)),
    fault("channels in pairs from 512", "EN50", "fewer channels",
          "channels from 512 on in pairs, of one draw", units=pairs(2)),
    fault("half taken from two tokens before", "EN41", "2 tokens apart",
          "half of a token taken from two tokens before", units=partly(2, 1)),
    fault("half taken from three channels before", "EN41", "3 channels apart",
          "half of a channel taken from three channels before", units=partly(3, 2)),
    fault("a third taken from two rows before", "EN41", "2 rows apart",
          "a part of a row taken from two rows before", units=partly(2, 0, 0.4)),
    fault("steps negated", "EN43", "negated", "noise that is negated three steps later",
          draw=from_step(3, np.negative)),
    fault("steps negated, neighbors", "EN35", "neighboring steps",
          "noise that is negated at the next step", draw=from_step(1, np.negative)),
    fault("steps reversed", "EN43", "reversed along the channels",
          "noise with reversed channels two steps later",
          draw=from_step(2, lambda units: units[..., ::-1])),
    fault("steps rolled", "EN43", TURNED, "noise that is rolled a step later",
          draw=from_step(1, lambda units: np.roll(units, 3, 2))),
    fault("steps with rows exchanged", "EN43", TURNED,
          "noise whose rows are exchanged at the next step",
          draw=from_step(1, lambda units: units[::-1])),
    fault("steps with tokens reversed", "EN43", TURNED,
          "noise with reversed tokens four steps later",
          draw=from_step(4, lambda units: units[:, ::-1])),
    fault("steps shuffled", "EN43", TURNED, "noise whose channels are shuffled a step later",
          draw=from_step(1, lambda units: units[
              ..., np.random.default_rng(1).permutation(units.shape[2])])),
    fault("half kept from two steps ago", "EN06", "added again later",
          "half of the noise kept from two steps ago", draw=kept_from(2)),
    fault("half kept from five steps ago", "EN06", "added again later",
          "half of the noise kept from five steps ago", draw=kept_from(5)),
]  # fmt: skip
