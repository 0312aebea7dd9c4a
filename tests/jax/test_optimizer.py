"""The step of an Optax optimizer, of an ``nnx.Optimizer`` and of a ``TrainState``."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState

from embnoise_jax import step_of

WEIGHTS = {"count": jnp.zeros(2), "value": jnp.zeros(3)}  # the names must not mislead


def labels(weights):
    return jax.tree.map(lambda _: "a", weights)


def even(step):
    return step % 2 == 0


def accumulated(inner):
    return optax.MultiSteps(inner, every_k_schedule=2).gradient_transformation()


# What is called in each update, and how many updates one step takes.
OPTIMIZERS = {
    "adam": (lambda: optax.adam(0.1), 1),
    "chain": (lambda: optax.chain(optax.clip(1.0), optax.adam(0.1)), 1),
    "masked": (lambda: optax.masked(optax.adam(0.1), {"count": True, "value": False}), 1),
    "partition": (lambda: optax.partition({"a": optax.adam(0.1)}, labels), 1),
    "hyperparameters": (lambda: optax.inject_hyperparams(optax.adam)(0.1), 1),
    "finite": (lambda: optax.apply_if_finite(optax.adam(0.1), 3), 1),
    "conditional": (lambda: optax.transforms.conditionally_transform(optax.adam(0.1), even), 1),
    "conditionally_masked": (lambda: optax.transforms.conditionally_mask(optax.adam(0.1), even), 1),
    "schedule_free": (lambda: optax.contrib.schedule_free_adamw(0.1), 1),
    "schedule_free_sgd": (lambda: optax.contrib.schedule_free_sgd(0.1), 1),
    "accumulated": (lambda: accumulated(optax.adam(0.1)), 2),
    "accumulated_sgd": (lambda: accumulated(optax.sgd(0.1)), 2),
    "accumulated_in_chain": (lambda: optax.chain(optax.clip(1.0), accumulated(optax.lion(0.1))), 2),
    "accumulated_after_a_count": (
        lambda: optax.chain(optax.add_noise(0.1, 0.1, 0), accumulated(optax.adam(0.1))),
        2,
    ),
    "masked_accumulation": (
        lambda: optax.masked(accumulated(optax.adam(0.1)), {"count": True, "value": False}),
        2,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_of_a_state(name):
    make, updates = OPTIMIZERS[name]
    optimizer = make()
    state = optimizer.init(WEIGHTS)
    update = jax.jit(lambda state: (step_of(state), optimizer.update(WEIGHTS, state, WEIGHTS)[1]))
    for call in range(3):
        assert int(step_of(serialization.to_state_dict(state))) == call // updates
        step, state = update(state)
        assert int(step) == call // updates


class Model(nnx.Module):
    def __init__(self):
        self.count = nnx.Param(jnp.zeros(2))
        self.value = nnx.Param(jnp.zeros(3))


@pytest.mark.parametrize("name", ["sgd", "chain", "hyperparameters", "accumulated_in_chain"])
def test_the_steps_of_an_nnx_optimizer(name):
    make, updates = {**OPTIMIZERS, "sgd": (lambda: optax.sgd(0.1), 1)}[name]
    model = Model()
    optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer):
        step = step_of(optimizer)
        optimizer.update(model, nnx.state(model, nnx.Param))
        return step

    for call in range(3):
        assert int(step_of(optimizer)) == call // updates
        if name != "sgd":
            assert int(step_of(optimizer.opt_state)) == call // updates
        assert int(update(model, optimizer)) == call // updates


@pytest.mark.parametrize("updates", [1, 2])
def test_the_steps_of_a_train_state(updates):
    optimizer = optax.sgd(0.1) if updates == 1 else accumulated(optax.sgd(0.1))
    state = TrainState.create(apply_fn=None, params=WEIGHTS, tx=optimizer)
    for call in range(3):
        assert int(step_of(state)) == call // updates
        state = state.apply_gradients(grads=WEIGHTS)


def test_a_count_that_restarts_is_no_step():
    optimizer = optax.chain(optax.contrib.reduce_on_plateau(), optax.adam(0.1))
    state = optimizer.init(WEIGHTS)
    for call in range(3):
        assert int(step_of(state)) == call
        _, state = optimizer.update(WEIGHTS, state, WEIGHTS, value=1.0)
    with pytest.raises(ValueError, match="got one without a count"):
        step_of(optax.contrib.reduce_on_plateau().init(WEIGHTS))


@pytest.mark.parametrize("inner", [optax.sgd(0.1), optax.adam(0.1)])
def test_micro_batches_that_are_counted_alone_are_no_steps(inner):
    state = optax.chain(inner, optax.apply_every(2)).init(WEIGHTS)
    with pytest.raises(ValueError, match=r"optax\.apply_every.* Accumulate with optax\.MultiSteps"):
        step_of(state)


def test_a_state_without_a_count_is_refused():
    with pytest.raises(ValueError, match="state must be an Optax state that counts its steps"):
        step_of(optax.sgd(0.1, momentum=0.9).init(WEIGHTS))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.MultiSteps(optax.adam(0.1), 4)])
def test_an_optimizer_is_not_its_state(optimizer):
    with pytest.raises(TypeError, match=r"state must be .* optimizer.init.*, got the optimizer"):
        step_of(optimizer)


def partition(**parts):
    """The first part has the weights "count", the second has "value"."""
    return optax.partition(parts, dict(zip(WEIGHTS, parts, strict=True)))


@pytest.mark.parametrize("wrap", [lambda state: state, serialization.to_state_dict])
def test_accumulation_for_some_parameters_alone_is_refused(wrap):
    parts = {"each": optax.adam(0.1), "second": accumulated(optax.adam(0.1))}
    for optimizer in (partition(**parts), optax.chain(optax.clip(1.0), partition(**parts))):
        with pytest.raises(ValueError, match=r"for \['second'\], but not for \['each'\]\. Count"):
            step_of(wrap(optimizer.init(WEIGHTS)))


@pytest.mark.parametrize(
    ("optimizer", "updates"),
    [
        (partition(a=accumulated(optax.adam(0.1)), b=accumulated(optax.sgd(0.1))), 2),
        (partition(a=accumulated(optax.adam(0.1)), frozen=optax.set_to_zero()), 2),
        (partition(a=optax.adam(0.1), b=optax.sgd(0.1, momentum=0.9)), 1),
        (accumulated(partition(a=optax.adam(0.1), b=optax.adam(0.1))), 2),
    ],
)
def test_the_steps_of_a_partition(optimizer, updates):
    state = optimizer.init(WEIGHTS)
    for call in range(3):
        assert int(step_of(state)) == call // updates
        _, state = optimizer.update(WEIGHTS, state, WEIGHTS)
