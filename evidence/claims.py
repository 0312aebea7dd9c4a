"""The claims about embedding noise, and the comparisons that test each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evidence.arms import Arm, Study
from evidence.results import Result

__all__ = ["Claim", "Contrast", "claims", "difference", "values"]

NO_HARM = 0.05
"""Nats within which two losses count as equal: about a tenth of what noise changes at 256 pairs."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of measures, one number per seed."""

    label: str
    terms: tuple[tuple[float, Arm, str], ...]
    margin: float | None = None
    """Test for a mean within this margin of 0, in place of one that differs from 0."""


@dataclass(frozen=True)
class Claim:
    """A question, and what answers it."""

    title: str
    expected: str
    contrasts: tuple[Contrast, ...]


def claims(study: Study) -> list[Claim]:
    """All claims of the study."""
    noisy, plain, middle = study.noisy, study.plain, study.middle
    best = noisy[middle]

    def against(label: str, arm: Arm, other: Arm, measure: str, *rest: float) -> Contrast:
        return difference(label, (arm, measure), (other, measure), *rest)

    def each(measure: str, *rest: float) -> list[Contrast]:
        return [
            against(
                f"{MEASURES[measure]}, {pairs:,} pairs", noisy[pairs], plain[pairs], measure, *rest
            )
            for pairs in noisy
        ]

    def gain_over(
        label: str, runs: tuple[Arm, Arm], others: tuple[Arm, Arm], *rest: float
    ) -> Contrast:
        """What noise takes from the test loss of the plain arm, minus what it does in others."""
        gain, other_gain = against("", *runs, "test_loss"), against("", *others[::-1], "test_loss")
        return Contrast(label, gain.terms + other_gain.terms, *rest)

    least, most = min(noisy), max(noisy)
    variants = {
        name: against(f"{name} against uniform", arm, best, "test_loss")
        for name, arm in study.variants.items()
    }
    down, up = study.variants["annealed down"], study.variants["annealed up"]
    tested = [
        Claim(
            "Noise regularizes",
            "training loss up; test loss down where data is little",
            (*each("train_loss"), *each("test_loss")),
        ),
        Claim(
            "It helps with little data",
            "the gain is larger for the fewest pairs than for the most",
            (
                gain_over(
                    f"gain at {least:,} pairs minus that at {most:,}",
                    (plain[least], noisy[least]),
                    (plain[most], noisy[most]),
                ),
            ),
        ),
        Claim(
            "Less is memorized",
            "verbatim rate and ROUGE-L down",
            (*each("verbatim"), *each("rouge_l")),
        ),
        Claim(
            "Early stopping instead of noise, and both",
            "open",
            (
                *(
                    difference(
                        f"noise against early stopping, {pairs:,} pairs",
                        (noisy[pairs], "test_loss"),
                        (plain[pairs], "stopped_test_loss"),
                    )
                    for pairs in noisy
                ),
                *each("stopped_test_loss"),
            ),
        ),
    ]
    if not study.tuned:
        return tested
    bert_plain, bert_noisy = study.bert
    nnx_plain, nnx_noisy = study.nnx
    return [
        *tested,
        Claim(
            "The distribution matters by its size alone",
            "a difference at equal alpha, none at equal RMS",
            (
                variants["gaussian"],
                variants["rademacher"],
                *(
                    against(f"{name} against uniform", study.variants[name], best, "test_loss",
                            NO_HARM)
                    for name in ("gaussian, equal RMS", "rademacher, equal RMS")
                ),
            ),
        ),
        Claim(
            "Annealing alpha",
            "open; nothing is published. The sum of alpha^2 over the run is the same in all three",
            (
                against("annealed down against constant", down, best, "test_loss"),
                against("annealed up against constant", up, best, "test_loss"),
                against("annealed down against up", down, up, "test_loss"),
            ),
        ),
        Claim(
            "Flatter minima",
            "trace of the Hessian in the embeddings down; sharpness open",
            (
                against("trace of the Hessian", best, plain[middle], "trace"),
                against("sharpness", best, plain[middle], "sharpness"),
            ),
        ),
        Claim(
            "Nothing known before is lost",
            f"loss on held-out prose within {NO_HARM} nats",
            tuple(each("prose_loss", NO_HARM)),
        ),
        Claim(
            "Against other regularizers, each tuned alike",
            "open",
            tuple(
                against(f"noise against {name}", best, arm, "test_loss")
                for name, arm in study.tuned.items()
            ),
        ),
        Claim(
            "True lengths and lengths of rows",
            "less noise with the length of the row, at equal alpha",
            (against("length of the row against tokens", study.variants["length of the row"],
                     best, "test_loss"),),
        ),
        Claim(
            "An encoder that classifies",
            "open",
            (
                against("test loss of the encoder", bert_noisy, bert_plain, "test_loss"),
                against("test accuracy of the encoder", bert_noisy, bert_plain, "test_accuracy"),
            ),
        ),
        Claim(
            "The same in another framework",
            "the gain in Flax NNX is that in PyTorch",
            (
                against("test loss in Flax NNX", nnx_noisy, nnx_plain, "test_loss"),
                against("training loss in Flax NNX", nnx_noisy, nnx_plain, "train_loss"),
                gain_over("gain in Flax NNX minus that in PyTorch", (nnx_plain, nnx_noisy),
                          (plain[middle], best), NO_HARM),
            ),
        ),
    ]  # fmt: skip


MEASURES = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "stopped_test_loss": "both stopped early",
    "verbatim": "verbatim rate",
    "rouge_l": "ROUGE-L",
    "prose_loss": "loss on prose",
}


def values(contrast: Contrast, results: Iterable[Result]) -> list[float]:
    """One number per seed for which all arms of the contrast have their measures."""
    found: dict[tuple[Arm, str], dict[int, float]] = {}
    for result in results:
        if result.is_reported:
            for measure, value in result.measures.items():
                found.setdefault((result.arm, measure), {})[result.seed] = value
    by_term = [found.get((arm, measure), {}) for _, arm, measure in contrast.terms]
    seeds = sorted(set.intersection(*map(set, by_term)))
    return [
        sum(
            weight * by_seed[seed]
            for (weight, _, _), by_seed in zip(contrast.terms, by_term, strict=True)
        )
        for seed in seeds
    ]


def difference(
    label: str, first: tuple[Arm, str], second: tuple[Arm, str], margin: float | None = None
) -> Contrast:
    """The first measure minus the second."""
    return Contrast(label, ((1.0, *first), (-1.0, *second)), margin)
