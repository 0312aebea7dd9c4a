"""The driver of ``embnoise.testing`` for JAX."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from embnoise.testing.drivers import (
    DriverBase,
    NativeArray,
    NativeLayer,
    named,
    parameters_of,
    signature_of,
)
from embnoise.testing.failures import NotClaimedError

__all__ = ["JaxDriver", "driver"]


class JaxDriver(DriverBase):
    """A layer is a function, or a module of Flax NNX, Flax Linen or Equinox.

    The training mode is set by ``train()`` and ``eval()`` in NNX, by ``eqx.nn.inference_mode`` in
    Equinox, and by any of ``training``, ``train``, ``deterministic`` and ``inference`` that the
    layer names. If the default of one of these is None, an NNX or Equinox layer keeps its own mode.

    JAX has no global random state. ``key``, which ``seed`` sets, takes its place: a layer that
    names ``key`` (in NNX, ``rngs``, unless that may be None and the layer has streams of its own)
    is given it, and so are all streams of ``make_rng`` in Linen.

    The variables of a Linen module are made at its first call. Changes in training to variables
    other than parameters are seen by the next call.

    Attributes:
        key: Takes the place of a global random state; traced inside a compiled call.
    """

    name = "jax"
    dtypes = ("float32", "bfloat16", "float16")
    examples = 3  # each new shape is compiled
    transformations = ("vmap", "grad_of_grad", "remat", "sharded")
    modes = ("training", "train", "deterministic", "inference")

    def __init__(self) -> None:
        self.key = jax.random.key(0)
        self._variables: dict[int, Any] = {}
        """Of Linen modules, by id: equal modules are still different layers."""

    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        """The layer; the variables of a Linen module live as long as it."""
        layer = make_layer(dim=dim, alpha=alpha, seed=seed)
        if _is_a(layer, "flax.linen"):
            weakref.finalize(layer, self._variables.pop, id(layer), None)
        return layer

    def call(self, layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
        """The output, in the way of the layer's library."""
        training = keywords["training"]
        modes = {"train": training, "deterministic": not training, "inference": not training}
        offered = {**modes, "key": self.key, **keywords}
        if _is_a(layer, "flax.linen"):
            return self._apply(layer, inputs, offered)
        if nnx := _is_a(layer, "flax.nnx"):
            self.switch(layer, training)
            if named(signature_of(layer), {"rngs": None}):
                offered["rngs"] = nnx.Rngs(self.key)
            own = ["rngs"] if jax.tree.leaves(nnx.state(layer, nnx.RngState)) else []
            offered = _without_overrides(layer, offered, [*modes, "training", *own])
        elif eqx := _is_a(layer, "equinox"):
            layer = eqx.nn.inference_mode(layer, not training)
            offered = _without_overrides(layer, offered, [*modes, "training"])
        return layer(inputs, **named(signature_of(layer), offered))

    def switch(self, layer: NativeLayer, training: bool) -> None:
        """``train()`` or ``eval()`` of an NNX module; nothing else can be switched in place."""
        if _is_a(layer, "flax.nnx"):
            layer.train() if training else layer.eval()

    def modes_of(self, layer: NativeLayer) -> dict[str, bool]:
        """The flags that ``train()`` and ``eval()`` set in an NNX module and those in it."""
        nnx = _is_a(layer, "flax.nnx")
        flags = ("training", "deterministic", "use_running_average")
        return {
            ".".join(map(str, (*path, flag))): vars(module)[flag]
            for path, module in (nnx.iter_modules(layer) if nnx else ())
            for flag in flags
            if isinstance(vars(module).get(flag), bool)
        }

    def _apply(self, layer: NativeLayer, inputs: NativeArray, offered: dict[str, Any]) -> Any:
        from flax.core import DenyList  # noqa: PLC0415, for layers of Flax only

        given = named(signature_of(layer), offered)
        if id(layer) not in self._variables:
            training = {"training": True, "train": True, "deterministic": False}
            at_first = given | named(signature_of(layer), training)
            self._variables[id(layer)] = layer.init(jax.random.key(0), inputs, **at_first)
        variables = self._variables[id(layer)]
        if not offered["training"]:
            return layer.apply(variables, inputs, rngs=self.key, **given)
        fixed = DenyList(("params", "intermediates"))
        output, changed = layer.apply(variables, inputs, rngs=self.key, mutable=fixed, **given)
        self._variables[id(layer)] = {**variables, **changed}
        return output

    def to_numpy(self, array: Array | NDArray[Any]) -> NDArray[Any]:
        copy = np.array(array)
        return copy.astype(np.float32) if array.dtype == jnp.bfloat16 else copy

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Array:
        # The copy is NumPy's, since jnp.array compiles one for each shape.
        return jnp.asarray(np.array(array, dtype and jnp.dtype(dtype)))

    def gradient(
        self,
        call: Callable[..., Any],
        layer: NativeLayer,
        inputs: Array,
        weights: Array,
        *,
        of: str,
    ) -> list[NDArray[Any]]:
        if _is_a(layer, "flax.linen") and id(layer) not in self._variables:
            call(layer, inputs)  # makes its variables
        parameters, with_parameters = self._taken_apart(layer)

        def output(parameters: Any, inputs: Array) -> Array:
            whole, variables = with_parameters(parameters)
            with self._holding(self.key, whole, variables):
                result: Array = call(whole, inputs)
                return result

        # Also for the inputs' gradient: NNX does not let a trace change what is outside of it.
        if of == "inputs":
            made, back = jax.vjp(partial(output, parameters), inputs)
        else:
            made, back = jax.vjp(lambda parameters: output(parameters, inputs), parameters)
        return [self.to_numpy(each) for each in jax.tree.leaves(back(weights.astype(made.dtype)))]

    def _taken_apart(self, layer: NativeLayer) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        """What the layer trains, and a function from that to the layer and its Linen variables."""
        if nnx := _is_a(layer, "flax.nnx"):
            graph, parameters, others = nnx.split(layer, nnx.Param, ...)
            return parameters, lambda given: (nnx.merge(graph, given, others, copy=True), None)
        if eqx := _is_a(layer, "equinox"):
            parameters, others = eqx.partition(layer, eqx.is_inexact_array)
            return parameters, lambda given: (eqx.combine(given, others), None)
        variables = self._variables.get(id(layer))
        if variables is None:
            return {}, lambda given: (layer, None)
        parameters = variables.get("params", {})
        return parameters, lambda given: (layer, {**variables, "params": given})

    @contextlib.contextmanager
    def _holding(self, key: Array, layer: NativeLayer, variables: Any) -> Iterator[None]:
        """A context with another key and other variables of a layer, while it is traced."""
        kept, kept_variables = self.key, self._variables.pop(id(layer), None)
        self.key = key
        if variables is not None:
            self._variables[id(layer)] = variables
        try:
            yield
        finally:
            self.key = kept
            self._variables.pop(id(layer), None)
            if kept_variables is not None:
                self._variables[id(layer)] = kept_variables

    def transform(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` under ``jax.vmap``, ``jax.grad`` twice, ``jax.checkpoint`` or on a mesh."""

        def run(layer: NativeLayer, inputs: Array, **keywords: Any) -> Array:
            if _is_a(layer, "flax.linen") and id(layer) not in self._variables:
                call(layer, inputs, **keywords | {"training": False})  # makes its variables
            parameters, with_parameters = self._taken_apart(layer)

            def output(x: Array) -> Array:
                whole, variables = with_parameters(parameters)
                with self._holding(self.key, whole, variables):
                    result: Array = call(whole, x, **keywords)
                    return result

            return _TRANSFORMATIONS[name](output, inputs)

        return run

    def seed(self, seed: int) -> None:
        self.key = jax.random.key(seed)

    def random_state(self) -> bytes:
        """Empty: JAX has no global random state."""
        return b""

    def state(self, layer: NativeLayer) -> dict[str, NDArray[Any]]:
        """All variables in Flax, except the counts of ``nnx.Rngs``; all arrays in Equinox."""
        held: Any = self._variables.get(id(layer), {})
        if nnx := _is_a(layer, "flax.nnx"):
            held = nnx.to_pure_dict(nnx.state(layer, nnx.Not(nnx.RngState)))
        elif _is_a(layer, "equinox"):
            held = layer
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): self.to_numpy(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(held)
            if isinstance(leaf, Array | np.ndarray)
            and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        }

    def compile(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` under ``jax.jit``, ``nnx.jit`` or ``eqx.filter_jit``.

        It is compiled once for each mode. Arrays, the step and the key are traced.

        Raises:
            RuntimeError: It is compiled for the third time for a batch of the same form, when it
                is called.
        """
        compiled: dict[tuple[int, Any], Any] = {}
        traces: Counter[Any] = Counter()

        def run(layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
            training = keywords.pop("training", None)
            mode = {} if training is None else {"training": training}

            def traced(
                layer: NativeLayer, variables: Any, inputs: NativeArray, keywords: Any, key: Array
            ) -> Any:
                form = jax.tree_util.tree_map(jax.typeof, (inputs, keywords))
                this = number, training, str(form)
                traces[this] += 1
                if traces[this] > 2:
                    raise RuntimeError(
                        "every call is compiled anew, since an attribute of the layer that is no "
                        "array, such as a counter, is another one: keep it in an nnx.Variable"
                    )
                with self._holding(key, layer, variables):
                    output = call(layer, inputs, **mode, **keywords)
                    return output, self._variables.get(id(layer))

            number = id(layer)
            if (number, training) not in compiled:
                compiled[number, training] = _jit(traced, layer)
            traceable = {name: jnp.asarray(value) for name, value in keywords.items()}
            if training is not None and _is_a(layer, "flax.nnx"):
                # Outside, as users do: a mode set inside nnx.jit would compile again.
                layer.train() if training else layer.eval()
            output, variables = compiled[number, training](
                self._variables.get(number), inputs, traceable, self.key
            )
            if variables is not None:
                self._variables[number] = variables
            return output

        return run


def _vmap(call: Callable[[Array], Array], x: Array) -> Array:
    result: Array = jax.vmap(call)(x[None])
    return result[0]


def _grad_of_grad(call: Callable[[Array], Array], x: Array) -> Array:
    """The second derivative of sum(y**3) / 6, which is y where the gradient of the call is 1."""
    first = jax.grad(lambda x: (call(x) ** 3).sum() / 6)
    second: Array = jax.grad(lambda x: first(x).sum())(x)
    return second


def _remat(call: Callable[[Array], Array], x: Array) -> Array:
    """The gradient of sum(y**2) / 2, which is the y of the forward pass that is recomputed."""
    gradient: Array = jax.grad(jax.checkpoint(lambda x: (call(x) ** 2).sum() / 2))(x)
    return gradient


def _sharded(call: Callable[[Array], Array], x: Array) -> Array:
    """With the batch over as many devices as divide it."""
    most = len(jax.devices())
    count = max(n for n in range(1, most + 1) if x.shape[0] % n == 0)
    if count == 1:
        raise NotClaimedError(f"of {most} devices, none can share a batch of {x.shape[0]}")
    # The compiler propagates the sharding; the default depends on JAX's version.
    auto, devices = (jax.sharding.AxisType.Auto,), jax.devices()[:count]
    mesh = jax.make_mesh((count,), ("rows",), axis_types=auto, devices=devices)
    rows = jax.sharding.PartitionSpec("rows")  # type: ignore[no-untyped-call]
    spec = jax.sharding.NamedSharding(mesh, rows)
    with jax.set_mesh(mesh):  # which a layer may look at
        sharded = jax.jit(call, in_shardings=spec, out_shardings=spec)
        result: Array = sharded(jax.device_put(x, spec))
    return result


_TRANSFORMATIONS = {
    "vmap": _vmap, "grad_of_grad": _grad_of_grad, "remat": _remat, "sharded": _sharded,
}  # fmt: skip


def _is_a(layer: NativeLayer, library: str) -> Any:
    """The library, if it is loaded and the layer is a module of it."""
    loaded = sys.modules.get(library)
    return loaded if loaded is not None and isinstance(layer, loaded.Module) else None


def _without_overrides(
    layer: NativeLayer, offered: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """Without those of some names whose default is None: passing them would hide the layer's own.

    Its own mode, or its own streams of random numbers.
    """
    parameters = parameters_of(signature_of(layer))
    return {
        name: value
        for name, value in offered.items()
        if name not in names or name not in parameters or parameters[name].default is not None
    }


def _jit(traced: Callable[..., Any], layer: NativeLayer) -> Callable[..., Any]:
    """A function of the layer and more, compiled in the way of the layer's library."""
    if nnx := _is_a(layer, "flax.nnx"):
        return partial(nnx.jit(traced), layer)
    if eqx := _is_a(layer, "equinox"):
        return partial(eqx.filter_jit(traced), layer)
    return jax.jit(partial(traced, layer))


driver = JaxDriver()
"""The driver for JAX."""
