"""What ``attach`` of Linen puts around the calls of a model's layers."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from embnoise.backend import Noise, TokenArrays, refuse_equal_streams
from embnoise_jax._arguments import (
    are_other_ids,
    checked_hidden,
    first_argument,
    is_hidden,
    refuse_untold_rows,
    with_first_argument,
    with_output,
)
from embnoise_jax._find import SEVERAL
from embnoise_jax._linen_modules import ONLY, Places, is_same, root_of
from embnoise_jax._tracing import compiled_apart, is_staged, is_traced
from embnoise_jax.functional import add_noise, noise_key

__all__ = ["Interceptor"]


class Interceptor:
    """Adds noise to the layers of a model, known by its class and its fields."""

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        step: int | Array,
        tokens: Mapping[str, TokenArrays],
        stack: ExitStack,
        at: str,
        noise_of: Callable[[nn.Module, Mapping[str, Any]], Noise | None],
    ) -> None:
        self.called: set[str] = set()
        """The paths and patterns by which there was noise."""
        self.embeddings: dict[str, tuple[int, ...]] = {}
        """The embeddings of the model that were called, as candidates for ``layer``."""
        self.misused = ""
        """What to say of token arrays that went to a lookup of other ids, if any did."""
        self._first_ids: dict[str, Any] = {}
        """What the first lookup of each embedding looked up."""
        self._added: dict[str, Noise] = {}
        """The last noise of each layer."""
        self._present: dict[str, Noise] = {}
        """The noise of each ``EmbeddingNoise`` in the model."""
        self._calls: Tally[str] = Tally()
        """How many calls each module had."""
        self._model = model
        self._places = places
        self._at = at
        self._noise_of = noise_of
        self._step = step
        self._tokens = tokens
        self._path: str | None = None
        self._running: str | None = None
        """The path of the model in those around it, while it is called."""
        self._inside: list[str] = []
        """The paths of the modules with noise whose calls are running."""
        self._stack = stack
        # Known before the block's calls are traced, if they are.
        self._compiled_with_block = is_staged() or is_traced(step)
        self._compile_apart()

    def _compile_apart(self) -> None:
        """Keep functions compiled outside of the block out of it, and the other way around.

        Inside a compiled function, those that it calls are traced anew after every lookup, since
        the next lookup gets another noise. Elsewhere compiled lookups are refused, and all blocks
        share what is compiled in them, such as the operations of the model.
        """
        value = object() if self._compiled_with_block else "embnoise"
        self._stack.enter_context(compiled_apart(value))

    def __call__(
        self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.is_initializing():
            return forward(*args, **kwargs)
        path = "/".join(module.path)
        # A call inside a call of the same module belongs to a class that extends another.
        inside = bool(self._inside) if self._places.only else path in self._inside
        place, name = (None, path) if inside else self._found(module, path)
        if isinstance(module, nn.Embed) and self._is_inside(module):
            self.embeddings[self._own(path)] = (module.num_embeddings, module.features)
        own = self._noise_of(module, kwargs)
        if own is not None and self._is_inside(module):
            self._present[path] = own
            refuse_equal_streams(self._added, {path: own}, noise_key)
        if place is None:
            # Inside nn.remat and other lifted transformations, modules do not know their root.
            before = self._running
            if is_same(module, self._model):
                self._running = path
            try:
                return forward(*args, **kwargs)
            finally:
                self._running = before
        if not self._is_inside(module):
            return forward(*args, **kwargs)
        if self._at == "input":
            call = type(module).__call__
            x = checked_hidden(first_argument(call, args, kwargs))
            self._refuse_untold_rows(x, place, name, module)
            args, kwargs = with_first_argument(call, self._add_noise(x, place, name), args, kwargs)
        self._inside.append(path)
        try:
            result = forward(*args, **kwargs)
        finally:
            self._inside.pop()
        if self._at == "input":
            return result
        argument = first_argument(type(module).__call__, args, kwargs)
        self._refuse_untold_rows(argument, place, name, module)
        return with_output(result, lambda x: self._add_noise(x, place, name, argument))

    def _found(self, module: nn.Module, path: str) -> tuple[str | None, str]:
        """The place of a module, and its path: that in the model, if it is known by this one."""
        place, own = self._places.find(module, path), self._own(path)
        if place is not None or own == path:
            return place, path
        return self._places.find(module, own), own

    def _own(self, path: str) -> str:
        """The path in the model of a module with a path in those around it."""
        return path.removeprefix(f"{self._running}/") if self._running else path

    def _is_inside(self, module: nn.Module) -> bool:
        """Whether the call of a module is inside one of the model."""
        return self._running is not None or is_same(root_of(module), self._model)

    def _refuse_untold_rows(self, argument: Any, place: str, path: str, module: Any) -> None:
        """Raise if ``vmap`` maps over rows, and nothing tells their samples apart."""

        def own() -> list[object]:
            params = module.scope.root.variables().get("params", {})
            return [self._step, self._places.noise_of(path).seed, *jax.tree.leaves(params)]

        refuse_untold_rows(
            argument,
            self._tokens[place],
            own,
            "enter attach() inside the function that is mapped, with sample_ids= of an argument of "
            "it, such as sample_ids=row[None], or call the model on all rows. In nn.vmap, put an "
            "EmbeddingNoise behind the layer, with sample_ids=",
        )

    def _add_noise(self, x: Array, place: str, path: str, argument: Any = None) -> Array:
        retold = self._retold(place, path, argument)
        if self._places.only:
            if self._path not in (None, path):
                raise ValueError(
                    f"found several embeddings in the model; {SEVERAL}. "
                    f"Candidates: {self._path!r}, {path!r}"
                )
            self._path, path = path, ONLY
        if not self._compiled_with_block and is_staged():
            raise ValueError(
                "attach() must be entered inside the compiled function that calls the model, with "
                f"step= as one of its arguments, got a block around it with step={self._step}: "
                "every call of the function would repeat the noise of that step, after the block "
                "too. Lookups in nn.remat, nn.scan and nn.jit are compiled as well: call such a "
                "model in jax.jit"
            )
        self.called.add(place)
        self._calls[path] += 1
        if self._compiled_with_block:
            self._compile_apart()
        noise = self._places.noise_of(path)
        if self._calls[path] > 1:
            # Two calls of one layer must not get the same noise at the same place.
            noise = replace(noise, stream=f"{noise.stream}/{self._calls[path]}")
        self._added[path] = noise
        refuse_equal_streams({path: noise}, self._present, noise_key)
        try:
            noisy = add_noise(x, noise, step=self._step, **self._tokens[place].given())
        except ValueError as error:
            if not retold:
                raise
            raise ValueError(f"{error}: {retold}") from error
        self.misused = self.misused or retold
        return noisy

    def _retold(self, place: str, path: str, argument: Any) -> str:
        """What to say if token arrays describe another lookup of an embedding than this one."""
        arrays = [name for name in self._tokens[place].given() if name != "sample_ids"]
        if argument is None or is_hidden(argument) or not arrays:
            return ""
        if not are_other_ids(argument, self._first_ids.setdefault(path, argument)):
            return ""
        return (
            f"{path!r} is looked up again inside attach() with other ids, and "
            f"{', '.join(f'{name}=' for name in arrays)} of the first lookup went to both. Enter "
            "attach() for each call of the model, with another stream= of the noise; or if one "
            "call looks up twice, as an encoder-decoder with one table, put an EmbeddingNoise "
            "behind each lookup, with arrays and a stream= of its own"
        )
