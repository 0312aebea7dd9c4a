"""The toolkit for adapters: the one module that an adapter imports from the core.

An adapter brings the noise to a framework. What needs thought is done here, once: argument
validation (``prepare``), the magnitude and coordinates of every token (``plan``), the lattice and
the formulations of the sum (``perturb``, ``perturb_elementwise``, ``perturb_blocks``), the counter
of a layer's calls (``Counter``), and the state that layers and handles share (``NoiseState``,
``Handle``).

``docs/adapters.md`` shows how to write one.
"""

from __future__ import annotations

from embnoise._argument_names import is_positions, likeliest_ids
from embnoise._arrays import NUMPY, Array, ArrayNamespace, FusedArrayNamespace
from embnoise._counter import Counter
from embnoise._distributions import (
    GAUSSIAN,
    LATTICE_SIZE,
    RADEMACHER,
    UNIFORM,
    Distribution,
)
from embnoise._inspect.inspection import Seen, check_batches, inspect_seen, noise_at
from embnoise._inspect.measurement import LATER_CALLS, Lookup, multiplier_between
from embnoise._inspect.report import Inspection
from embnoise._layers import (
    PLACES,
    check_layers,
    is_match,
    match_layers,
    no_hidden_states,
    noise_by_layer,
    refuse_equal_streams,
)
from embnoise._named_arguments import bind_by_name, call_with_named, naming
from embnoise._noise import Noise, as_noise, check_noise
from embnoise._noise_file import read_noise
from embnoise._perturb import (
    lattice,
    perturb,
    perturb_blocks,
    perturb_elementwise,
    perturb_inplace,
)
from embnoise._philox import MULTIPLIERS, ROUNDS, WEYL, philox4x32
from embnoise._plan import (
    Plan,
    Prepared,
    flat_plan,
    magnitudes_by_length,
    plan,
    prepare,
    prepare_checked,
)
from embnoise._ranks import dealt_ids, rows_of_a_sample
from embnoise._schedules import Schedule
from embnoise._state import Handle, NoiseState
from embnoise._token_functions import TokenFunctions
from embnoise._tokens import TokenArrays
from embnoise._validation import (
    check_bool,
    check_callable,
    check_choice,
    check_integer,
    check_keys,
    dtype_name,
    embedding_shape,
    format_value,
    resolve_step,
)

__all__ = [
    "GAUSSIAN",
    "LATER_CALLS",
    "LATTICE_SIZE",
    "MULTIPLIERS",
    "NUMPY",
    "PLACES",
    "RADEMACHER",
    "ROUNDS",
    "UNIFORM",
    "WEYL",
    "Array",
    "ArrayNamespace",
    "Counter",
    "Distribution",
    "FusedArrayNamespace",
    "Handle",
    "Inspection",
    "Lookup",
    "Noise",
    "NoiseState",
    "Plan",
    "Prepared",
    "Schedule",
    "Seen",
    "TokenArrays",
    "TokenFunctions",
    "as_noise",
    "bind_by_name",
    "call_with_named",
    "check_batches",
    "check_bool",
    "check_callable",
    "check_choice",
    "check_integer",
    "check_keys",
    "check_layers",
    "check_noise",
    "dealt_ids",
    "distribution_of",
    "dtype_name",
    "embedding_shape",
    "flat_plan",
    "format_value",
    "inspect_seen",
    "is_match",
    "is_positions",
    "is_scheduled",
    "lattice",
    "likeliest_ids",
    "magnitudes_by_length",
    "match_layers",
    "multiplier_between",
    "naming",
    "no_hidden_states",
    "noise_at",
    "noise_by_layer",
    "perturb",
    "perturb_blocks",
    "perturb_elementwise",
    "perturb_inplace",
    "philox4x32",
    "philox_key",
    "plan",
    "prepare",
    "prepare_checked",
    "read_noise",
    "refuse_equal_streams",
    "resolve_step",
    "rows_of_a_sample",
    "stream_key",
    "uses_length",
    "uses_rms",
]


def philox_key(noise: Noise) -> tuple[int, int]:
    """The Philox key (k0, k1) of a noise's seed and stream, two ints in [0, 2**32).

    Raises:
        TypeError: The seed is a ``jax.random.key``, which only ``embnoise_jax`` can read.
    """
    return noise._key


def stream_key(noise: Noise) -> tuple[int, int]:
    """The Philox key of seed 0 and the noise's stream: a seed's two words are XORed onto it."""
    return noise._stream_key


def distribution_of(noise: Noise) -> Distribution:
    """The noise's distribution, which its ``distribution`` may only name."""
    return noise._distribution


def is_scheduled(noise: Noise) -> bool:
    """Whether the noise's alpha depends on the step."""
    return noise._scheduled


def uses_length(noise: Noise) -> bool:
    """Whether the noise's magnitude depends on how many tokens a sequence has."""
    return not isinstance(noise.length, int) and noise._scale.uses_length


def uses_rms(noise: Noise) -> bool:
    """Whether the noise's magnitude depends on the embeddings."""
    return noise._scale.uses_rms
