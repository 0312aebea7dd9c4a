"""What a layer keeps, and moves when it should not."""

import numpy as np

from tests.testing.faults.layer import fault


def generator(call):
    """One for the layer's life."""
    return call.memory.setdefault("generator", np.random.default_rng(call.layer.seed))


def drawn(call, seed, step):
    return generator(call).uniform(-1, 1, call.shape)


def draws(call):
    generator(call).uniform(-1, 1, call.shape)


def one_number(call):
    generator(call).random()


def seeds_again(call):
    call.memory["generator"] = np.random.default_rng(call.layer.seed)


def jumps(call):
    generator(call).bit_generator.advance(1000)


def forgets(call):
    call.memory.clear()


def buffered(units, call):
    kept = call.memory.setdefault("buffer", units)
    return kept if kept.shape == units.shape else units


def by_count(change):
    """The step is changed by the number of evaluation calls."""
    return lambda step, call: change(step, call.evals)


def state(name, says, text, **hooks):
    return fault(name, "EN55", says, text, takes_step=False, **hooks)


def evaluation(name, says, text, change):
    return state(name, says, text, draw=drawn, evaluation=lambda value, call: change(call))


DRAWS = "draws from the layer's generator"

FAULTS = [
    evaluation("evaluation draws", DRAWS, "evaluation draws noise and drops it", draws),
    evaluation("evaluation draws a number", DRAWS, "evaluation draws one number", one_number),
    evaluation("evaluation jumps ahead", DRAWS, "evaluation jumps ahead in the generator", jumps),
    evaluation("evaluation seeds again", "starts over", "eval() seeds the generator again",
               seeds_again),
    evaluation("evaluation drops the generator", "starts over", "eval() drops the generator",
               forgets),
    state("evaluation counts", DRAWS, "evaluation advances the step",
          step=by_count(lambda step, evals: step + evals)),
    state("evaluation counts back", DRAWS, "evaluation turns the step back",
          step=by_count(lambda step, evals: abs(step - evals) + 1000 * (evals > step))),
    state("evaluation starts at step 0", "starts over", "eval() sets the step back to 0",
          step=lambda step, call: step - call.memory.get("base", 0),
          evaluation=lambda value, call: call.memory.__setitem__("base", call.calls)),
    state("evaluation changes the seed", DRAWS, "evaluation changes the seed",
          seed=lambda seed, call: seed + call.evals),
    fault("evaluation turns noise off", "EN15", "eval.. removes the noise",
          "eval() turns noise off for good", takes_step=False,
          noise=lambda noise, call: noise * (call.evals == 0)),
    state("evaluation halves alpha", DRAWS, "each evaluation lowers alpha",
          alpha=lambda alpha, call: alpha * 0.9**call.evals),
    fault("two evaluations turn noise off", "EN15", "eval.. removes the noise",
          "noise ends after the second evaluation", takes_step=False,
          noise=lambda noise, call: noise * (call.evals < 2)),
    state("evaluation negates", DRAWS, "evaluation negates the noise to come",
          units=lambda units, call: units * (-1) ** call.evals),
    fault("noise left in evaluation", "EN15", "stays on", "the last noise, in evaluation too",
          draw=drawn, takes_step=False,
          noise=lambda noise, call: call.memory.setdefault("last", noise),
          after_evaluation=lambda x, call: call.memory.get("last")),
    fault("noise until evaluation", "EN15", "no noise", "no noise after the first evaluation",
          takes_step=False, noise=lambda noise, call: noise * (call.evals == 0)),
    fault("noise after evaluation only", "EN24", "no token gets noise",
          "no noise before the first evaluation",
          takes_step=False, noise=lambda noise, call: noise * (call.evals > 0)),
    fault("draw kept by shape", "EN06", "drawn once and kept", "a draw kept for each shape",
          takes_step=False,
          units=lambda units, call: call.memory.setdefault(call.shape, units)),
    fault("buffer for the first shape", "EN06", "the same noise", "a buffer that is drawn once",
          takes_step=False, units=buffered),
    fault("buffer refilled every tenth call", "EN06", "the same noise",
          "a buffer that is refilled at every tenth call", takes_step=False,
          step=lambda step, call: step // 10 * 10),
]  # fmt: skip
