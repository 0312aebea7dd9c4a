"""Seeds and steps that are confused with others, and noise that does not last."""

import zlib

import numpy as np

from tests.testing.faults.layer import fault


def one(number):
    """A generator from one number instead of two."""
    return lambda call, seed, step: np.random.default_rng(number(seed, step)).uniform(
        -1, 1, call.shape
    )


def counted_rows(call, seed, step):
    """A generator for each row, by a number that is its own if all batches have as many rows."""
    batch, *rest = call.shape
    numbers = range(step * batch, step * batch + batch)
    rows = [np.random.default_rng([seed, each]).uniform(-1, 1, rest) for each in numbers]
    return np.reshape(rows, call.shape)


def only(when):
    """Noise at some calls only."""
    return lambda noise, call: noise if when(call.step) else 0 * noise


def modulo_seed(number, text=None):
    return fault(
        f"seed modulo {number}", "EN44", "modulo", f"the seed modulo {text or number}",
        seed=lambda seed, call: seed % number,
    )  # fmt: skip


def modulo_step(number, counting=False, code="EN46"):
    name = f"{'count' if counting else 'step'} modulo {number}"
    return fault(
        name, code, r"modulo (\d+) or a divisor|too few bits",
        f"the {name}", step=lambda step, call: step % number, takes_step=not counting,
    )  # fmt: skip


def mixed(name, text, number, **options):
    return fault(name, "EN45", "added .or combined by xor", text, draw=one(number), **options)


FAULTS = [
    modulo_seed(2**4),
    modulo_seed(2**8, "2^8"),
    modulo_seed(2**16, "2^16"),
    modulo_seed(2**24, "2^24"),
    modulo_seed(10),
    modulo_seed(100),
    modulo_seed(97),
    modulo_seed(523),
    modulo_seed(1000),
    modulo_seed(10_000),
    modulo_seed(10**6, "10^6"),
    fault("seed halved", "EN44", "divided", "the seed halved",
          seed=lambda seed, call: seed // 2),
    fault("seed by 10", "EN44", "divided", "the seed divided by 10",
          seed=lambda seed, call: seed // 10),
    fault("seed without its low byte", "EN44", "divided", "the seed without its low byte",
          seed=lambda seed, call: seed >> 8),
    fault("seed in half precision", "EN44", "seeds.*the same noise",
          "the seed in 11 bits of mantissa",
          seed=lambda seed, call: int(np.float16(seed % 60000)) ),
    fault("seed in single precision", "EN44", "seeds.*the same noise",
          "the seed in 16 bits of mantissa", seed=lambda seed, call: seed >> 13 << 13),
    fault("seed folded", "EN44", "modulo|too few bits", "the seed's upper half dropped",
          seed=lambda seed, call: seed & 0xFFFF),
    modulo_step(10, code="EN06"),
    modulo_step(50, code="EN06"),
    modulo_step(100),
    modulo_step(127, code="EN06"),
    modulo_step(500),
    modulo_step(1000),
    modulo_step(10_000),
    modulo_step(100_000),
    modulo_step(2**20),
    modulo_step(10, counting=True, code="EN06"),
    modulo_step(32, counting=True),
    modulo_step(64, counting=True),
    modulo_step(100, counting=True),
    modulo_step(128, counting=True),
    fault("rows counted by B", "EN43", "with the size of the step",
          "rows seeded with step * B + row", draw=counted_rows),
    fault("rows counted by B, counting", "EN43", "with the size of the step",
          "rows seeded with calls * B + row", draw=counted_rows, takes_step=False),
    fault("steps halved", "EN06", "the same noise", "the step halved: each draw is used twice",
          step=lambda step, call: step // 2),
    fault("steps by ten", "EN06", "the same noise", "the step divided by ten",
          step=lambda step, call: step // 10),
    fault("count that saturates", "EN46", "repeats", "a count that stops at 99",
          step=lambda step, call: min(step, 99), takes_step=False),
    fault("step that saturates", "EN06", "repeats", "a step that stops at 1,000",
          step=lambda step, call: min(step, 1000)),
    fault("step in half precision", "EN06", "the same noise", "the step in half precision",
          step=lambda step, call: int(np.float16(min(step, 60000)))),
    fault("step that swings back", "EN06", "the same noise", "steps that run forth and back",
          step=lambda step, call: abs((step + 60) % 120 - 60)),
    mixed("seed plus step", "seed and step added", lambda seed, step: seed + step),
    mixed("seed minus step", "the step subtracted from the seed", lambda seed, step: seed - step),
    mixed("seed xor step", "seed and step by xor", lambda seed, step: seed ^ step),
    mixed("seed plus 31 steps", "seed + 31 * step", lambda seed, step: seed + 31 * step),
    mixed("seed plus 100 steps", "seed + 100 * step", lambda seed, step: seed + 100 * step),
    mixed("seed plus 1000 steps", "seed + 1000 * step", lambda seed, step: seed + 1000 * step),
    mixed("seed plus 1009 steps", "seed + 1009 * step", lambda seed, step: seed + 1009 * step),
    mixed("seed plus 65536 steps", "seed + 2^16 * step", lambda seed, step: seed + 65536 * step),
    mixed("seed plus 12345 steps", "seed + 12345 * step", lambda seed, step: seed + 12345 * step),
    fault("step in single precision", "EN46", "the same noise", "the step in single precision",
          step=lambda step, call: int(np.float32(step))),
    mixed("31 seeds plus 17 steps", "31 * seed + 17 * step",
          lambda seed, step: 31 * seed + 17 * step),
    mixed("1000 seeds plus step", "1000 * seed + step", lambda seed, step: 1000 * seed + step),
    mixed("17 seeds plus calls", "17 * seed + the number of the call",
          lambda seed, step: 17 * seed + step, takes_step=False),
    mixed("seed plus a million steps", "seed + 10^6 * step",
          lambda seed, step: seed + 10**6 * step),
    mixed("hash of the sum", "a hash of seed + step",
          lambda seed, step: zlib.crc32(str(seed + step).encode())),
    fault("ends after 20 calls", "EN46", "the noise ends", "noise in the first 20 calls only",
          noise=only(lambda step: step < 20), takes_step=False),
    fault("ends after 50 calls", "EN46", "the noise ends", "noise in the first 50 calls only",
          noise=only(lambda step: step < 50), takes_step=False),
    fault("ends after 100 calls", "EN46", "the noise ends", "noise in the first 100 calls only",
          noise=only(lambda step: step < 100), takes_step=False),
    fault("ends at step 1000", "EN21", "changes from call", "noise before step 1,000 only",
          noise=only(lambda step: step < 1000)),
    fault("ends at step 100000", "EN46", "the noise ends", "noise before step 100,000 only",
          noise=only(lambda step: step < 100_000)),
    fault("starts at step 5", "EN24", "no noise at all", "no noise before step 5",
          noise=only(lambda step: step >= 5)),
    fault("every second call", "EN21", "changes from call", "noise at every second call",
          noise=only(lambda step: step % 2 == 0), takes_step=False),
    fault("every call but the tenth", "EN21", "changes from call",
          "no noise at every tenth step", noise=only(lambda step: step % 10 != 9)),
    fault("every call but the hundredth", "EN46", "the noise ends",
          "no noise at every hundredth call", noise=only(lambda step: step % 100 != 99),
          takes_step=False),
    fault("fades slowly", "EN46", "grows or fades", "noise that fades by 0.5% in each call",
          noise=lambda noise, call: noise * 0.995**call.step, takes_step=False),
    fault("halves late", "EN46", "grows or fades", "noise that is halved after 60 calls",
          noise=lambda noise, call: noise * (1 - 0.5 * (call.step > 60)), takes_step=False),
    fault("grows slowly", "EN46", "grows or fades", "noise that grows by 0.5% in each call",
          noise=lambda noise, call: noise * 1.005**call.step, takes_step=False),
    fault("seed xor a constant step", "EN06", "the same noise",
          "the step is lost in the combination", draw=one(lambda seed, step: seed ^ (step * 0))),
]  # fmt: skip
