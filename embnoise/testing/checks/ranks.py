"""The ranks of a data-parallel run draw noise of their own."""

from __future__ import annotations

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.drivers import NODE
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.paths import SIZED, over_paths
from embnoise.testing.registry import SIZE, check
from embnoise.testing.right_rows import expect_right_rows
from embnoise.testing.runs import repeated_run

WORLD, RANKS = 2 * NODE, (0, 1, 2, 4, NODE, 15)
"""How many ranks a run has, and which of them are compared: some that are 2, 4 and 8 apart, and the
first ones of two nodes."""


def _claims_ranks(claims: Claims) -> str | None:
    return None if claims.distinct_ranks else "distinct_ranks=False"


@check("EN38", claimed=_claims_ranks, random=True, premises=(*SIZE, "EN06", "EN43", "EN45"))
def ranks_differ(context: CheckContext) -> None:
    """The ranks of a data-parallel run draw different noise of the claimed size from one seed.

    No rank has the noise of another one at another step, or with another seed. Ranks are seeded
    alike, so that their weights agree. Fails for layers that draw from that seed alone, and so add
    one draw to the different data of all ranks; that take the rank within a node (LOCAL_RANK) for
    the rank; or that add the rank to the seed or the step.
    """
    for inputs in over_paths(context):
        context.premises += SIZED if context.where else ()
        _ranks_differ(context, inputs)


def _ranks_differ(context: CheckContext, inputs: Inputs) -> None:
    """Expect the ranks to differ for a batch; fewer of them in padded and packed ones."""
    ranks, start = (0, 1, NODE) if context.where else RANKS, context.first_step()
    steps = context.loud(range(start, start + (2 if context.where else 3)))
    places: list[tuple[int, int, int]] = []
    draws: list[Array] = []
    for rank in ranks:
        before = len(draws)
        with (
            context.transcript.block(f"with driver.rank({rank}, {WORLD}):"),
            context.driver.rank(rank, WORLD),
        ):
            for more in (0,) if context.where else (0, 1):
                layer = context.layer(seed=context.seed + more, world=context.world + more)
                places += [(rank, more, step) for step in steps]
                draws += [layer.units(inputs, step) for step in steps]
        likely = f"rank {rank} of {WORLD} has noise of another size, or none"
        expect_right_rows(context, inputs, draws[before:], 3 * len(RANKS), likely)
    parts = [context.independent(units) for units in draws]
    rule = context.claims.distribution_rule
    found = repeated_run(np.concatenate(parts), rule)
    at = [places[place[0] // len(parts[0])] for place in found[0]] if found else places[:2]
    (one, _, _), (other, _, _) = at

    def likely_cause() -> str:
        if at[0][1:] != at[1][1:]:
            return (
                "the rank is added to the seed or to the step: give them to the generator as a "
                "tuple, or through a hash"
            )
        first = [part for part, (rank, *_) in zip(parts, places, strict=True) if rank < NODE]
        if repeated_run(np.concatenate(first), rule) is None:
            return (
                f"the rank within a node is taken for the rank: with {NODE} ranks to a node, "
                "LOCAL_RANK is the same for both"
            )
        return (
            "every rank seeds its generator alike: make the rank part of the seed, or number the "
            "samples over all ranks"
        )

    context.expect(
        found is None,
        f"ranks {one} and {other} of a data-parallel run of {WORLD} draw the same noise, or "
        "a part of it is the same",
        likely_cause,
    )
