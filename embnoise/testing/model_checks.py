"""The checks of a saved model. Each returns what it saw, or raises."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embnoise.testing.failures import NotClaimedError
from embnoise.testing.model_batches import Part, parts_of
from embnoise.testing.model_run import Floats, ModelRun

__all__ = ["MODEL_CHECKS", "ModelCheck"]

ModelCheck = Callable[[ModelRun], str]

PLACES = {"right": "padding on the right", "left": "padding on the left",
          "square": "as many rows as columns", "packed": "packed rows",
          "plain": "no padding"}  # fmt: skip


def model_runs(run: ModelRun) -> str:
    """The model runs in training mode, and repeated calls look up the same embeddings."""
    first = run.clean(run.easiest)
    lookups, _ = run.model.call(run.batches(run.easiest), training=True)
    for one, found in zip(first, run.found(run.easiest, lookups), strict=True):
        run.expect(
            all(np.array_equal(one, other) for other in found),
            "without embnoise, two training calls look up different embeddings",
            "the model has noise or dropout of its own in its embedding",
        )
    return f"d = {run.dim}"


def noised_once(run: ModelRun) -> str:
    """Every real token of every input gets noise, exactly once in each forward pass."""
    kind = run.easiest
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with run.attached(kind) as handle:
            found = run.noisy(kind, handle, 0)
    told = [text for each in caught if (text := str(each.message)).startswith("embnoise: ")]
    run.expect(
        not told,
        f"attach warns of this model: {' '.join(told)[10:]}",
        "there is no noise in a part of training",
    )
    for number, (batch, clean) in enumerate(zip(run.batches(kind), run.clean(kind), strict=True)):
        run.expect(
            len(found[number]) == 1,
            f"one forward looks the same tokens up {len(found[number])} times, and each lookup "
            "gets noise",
            "the model calls its embedding more than once, so that noise is added more than once",
        )
        changed = (found[number][0] != clean).any(axis=-1)
        missing = int((batch.mask & ~changed).sum())
        run.expect(
            missing == 0,
            f"{missing} of {int(batch.mask.sum())} real tokens get no noise",
            "the embedding is not in training mode, its output is replaced after the lookup, or "
            "the model's mask has another meaning",
        )
    run.expect(
        run.factor == 1,
        f"the noise of every sequence is {run.factor:.3g} times as large as it should be",
        "noise is added twice in one lookup",
    )
    return f"{len(found)} lookup{'s' * (len(found) > 1)} per forward, each with noise"


def _lengths(kind: str, explanation: str, name: str) -> ModelCheck:
    def lengths(run: ModelRun) -> str:
        said = []
        for number, row in enumerate(_ratios(run, kind)):
            width = run.batches(kind)[number].ids.shape[1]
            for part, ratio in row:
                right = abs(ratio - 1) <= run.tolerance(kind, part)
                seen, likely = ("", "") if right else _wrong(run, kind, number, part, ratio)
                run.expect(right, seen, likely)
            said.append(_said(run, row, width, kind))
        names = ["encoder: ", "decoder: "] if len(said) > 1 else [""]
        return "; ".join(name + each for name, each in zip(names, said, strict=True))

    lengths.__name__, lengths.__doc__ = name, explanation
    return lengths


def _wrong(run: ModelRun, kind: str, number: int, part: Part, ratio: float) -> tuple[str, str]:
    """What was seen of a sequence with the wrong noise, and why it may be so."""
    width = run.batches(kind)[number].ids.shape[1]
    used = run.length_of(ratio, part, width)
    tokens = "tokens of a document" if kind == "packed" else "real tokens"
    size = f"the noise of L = {used}" if run.noise._scale.uses_length else "noise of another size"
    seen = (
        f"{PLACES[kind]}: {part.length} {tokens} in row {part.row}, of width {width}, get {size}, "
        f"{ratio:.3g} times as much as they should"
    )
    if kind == "packed" and used >= width - 1:
        return seen, "the documents of a packed row are not told apart: L is the row's"
    if kind == "square" and _transposed(run, number):
        return seen, "the mask is read as [L, B]"
    if used == width:
        return seen, "L is the row's width: the mask does not reach the embedding"
    return seen, "the mask that the embedding gets is not the one that the model was called with"


def _transposed(run: ModelRun, number: int) -> bool:
    """Whether the noise of a square batch is where the transposed mask has real tokens."""
    with run.attached("square") as handle:
        noise = run.noise_at("square", handle, 0)[number]
    mask = run.batches("square")[number].mask
    return np.array_equal((noise != 0).any(axis=-1), mask.T)


def _ratios(run: ModelRun, kind: str) -> list[list[tuple[Part, float]]]:
    """Without the factor that ``noised_once`` reports."""
    rows = [[(part, r / run.factor) for part, r in row] for row in run.ratios(kind)]
    if all(r < 1e-6 for row in rows for _, r in row):
        raise NotClaimedError("there is no noise at all")
    return rows


def _said(run: ModelRun, row: list[tuple[Part, float]], width: int, kind: str) -> str:
    tokens = ", ".join(str(part.length) for part, _ in row)
    what = "documents" if kind == "packed" else "rows"
    if not run.noise._scale.uses_length:
        return f"{what} of {tokens} tokens: the claimed size, without L"
    used = ", ".join(str(run.length_of(r, part, width)) for part, r in row)
    return f"{what} of {tokens} tokens: L = {used}"


def padding_clean(run: ModelRun) -> str:
    """Padding gets no noise, wherever it is."""
    kinds = ["right", "left", "square"]
    if (run.model.width or 0) > 32:
        kinds.remove("square")
    for kind in kinds:
        with run.attached(kind) as handle:
            noises = run.noise_at(kind, handle, 0)
        for batch, noise in zip(run.batches(kind), noises, strict=True):
            noised = int(((noise != 0).any(axis=-1) & ~batch.mask).sum())
            run.expect(
                noised == 0,
                f"{PLACES[kind]}: {noised} of {int((~batch.mask).sum())} padded tokens get noise",
                "the mask does not reach the embedding, or not as it was given",
            )
    return f"exactly, in {len(kinds)} layouts"


def clean_in_evaluation(run: ModelRun) -> str:
    """In evaluation mode, the model computes the same as without noise."""
    batches = run.batches(run.easiest)
    before, expected = run.model.call(batches, training=False)
    with run.attached(run.easiest):
        after, output = run.model.call(batches, training=False)
    clean = [lookups[0] for lookups in run.found(run.easiest, before)]
    _same(run, clean, run.found(run.easiest, after), "evaluation mode")
    run.expect(
        bool(np.allclose(output, expected, rtol=1e-4, atol=1e-5, equal_nan=True)),
        "in evaluation mode the model's output is another with noise attached",
        "the noise does not look at the mode of the embedding",
    )
    return "embeddings and output as before"


def clean_without_gradients(run: ModelRun) -> str:
    """In training mode without gradients, as in generate(), there is no noise."""
    if run.model.no_gradient_mode:
        raise NotClaimedError(run.model.no_gradient_mode)
    with run.attached(run.easiest):
        lookups, _ = run.model.call(run.batches(run.easiest), training=True, gradients=False)
    found = run.found(run.easiest, lookups)
    _same(run, run.clean(run.easiest), found, "training mode without gradients")
    return "embeddings as before"


def _same(run: ModelRun, clean: list[Floats], found: list[list[Floats]], where: str) -> None:
    for one, lookups in zip(clean, found, strict=True):
        run.expect(
            all(np.array_equal(one, each) for each in lookups),
            f"in {where} the embeddings are other ones than without noise",
            "noise is added there",
        )


def same_seed_same_noise(run: ModelRun) -> str:
    """If noise is attached again, the same seed and step give the same noise."""
    kind = run.easiest
    for step in (0, 3):
        draws = []
        for _ in range(2):
            with run.attached(kind) as handle:
                draws.append(run.noise_at(kind, handle, step))
        for one, other in zip(*draws, strict=True):
            run.expect(
                np.array_equal(one, other),
                f"attached twice with one seed, the noise of step {step} is another",
                "the noise depends on something else than seed, step and tokens",
            )
    return "bit for bit, steps 0 and 3"


def steps_and_seeds_differ(run: ModelRun) -> str:
    """Another step gives different noise, and so does another seed."""
    kind = run.easiest
    with run.attached(kind) as handle:
        draws = [run.noise_at(kind, handle, step) for step in range(3)]
    with run.attached(kind, run.other_seed()) as handle:
        draws.append(run.noise_at(kind, handle, 0))
    names = ["step 0", "step 1", "step 2", "another seed"]
    for number, batch in enumerate(run.batches(kind)):
        for later in range(1, len(draws)):
            for earlier in range(later):
                one, other = draws[earlier][number], draws[later][number]
                equal = [p for p in parts_of(batch)
                         if np.array_equal(one[p.row, p.where], other[p.row, p.where])]  # fmt: skip
                run.expect(
                    not equal,
                    f"{names[earlier]} and {names[later]} have the same noise in "
                    f"{len(equal)} of {len(parts_of(batch))} rows",
                    "there is no noise, or one draw is used again",
                )
    return "3 steps, 2 seeds"


def saved_state_unchanged(run: ModelRun) -> str:
    """Saving the model writes the same weights and configuration while noise is attached."""
    first = run.model.state()
    run.model.call(run.batches(run.easiest), training=True)
    before = run.model.state()
    own = set(_changed(first, before))  # running statistics, which training changes anyway
    with run.attached(run.easiest) as handle:
        run.noisy(run.easiest, handle, 0)
        during = run.model.state()
    for when, state in (("with noise attached", during), ("after remove()", run.model.state())):
        changed = [name for name in _changed(before, state) if name not in own]
        run.expect(
            not changed,
            f"{when}, other weights or configuration would be saved: {', '.join(changed[:3])}",
            "the noise, or its state, is saved with the model",
        )
    return f"{len(before)} entries"


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def clean_after_remove(run: ModelRun) -> str:
    """After remove(), the model computes the same as before."""
    kind = run.easiest
    batches = run.batches(kind)
    clean = run.clean(kind)
    _, expected = run.model.call(batches, training=False)
    with run.attached(kind) as handle:
        run.noisy(kind, handle, 0)
    lookups, _ = run.model.call(batches, training=True)
    _same(run, clean, run.found(kind, lookups), "training mode after remove()")
    _, output = run.model.call(batches, training=False)
    run.expect(
        bool(np.allclose(output, expected, rtol=1e-4, atol=1e-5, equal_nan=True)),
        "after remove() the model's output is another",
        "something of the noise is left on the model",
    )
    return "embeddings and output as before"


MODEL_CHECKS: dict[str, ModelCheck] = {
    "MD01": model_runs,
    "MD02": noised_once,
    "MD03": _lengths("right", "Rows padded on the right get the noise of their real length.",
                     "lengths_padded_right"),
    "MD04": _lengths("left", "Rows padded on the left get the noise of their real length.",
                     "lengths_padded_left"),
    "MD05": _lengths("square", "So do the rows of a batch with as many rows as columns.",
                     "lengths_square_batch"),
    "MD06": _lengths("packed", "Documents in a packed row get the noise of their own length.",
                     "lengths_packed"),
    "MD07": padding_clean,
    "MD08": clean_in_evaluation,
    "MD09": clean_without_gradients,
    "MD10": same_seed_same_noise,
    "MD11": steps_and_seeds_differ,
    "MD12": saved_state_unchanged,
    "MD13": clean_after_remove,
}  # fmt: skip
"""By their codes, in the order of a run. A code is never given to another check."""
