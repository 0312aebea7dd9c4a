"""What is compared: the settings of one run, and the arms of the study."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = [
    "TUNING_SEEDS",
    "Arm",
    "Size",
    "Study",
    "tuning_arms",
]

EPOCHS = {64: 30, 256: 16, 1024: 8, 4096: 3}
"""Enough for the plain arm to pass its lowest held-out loss wherever the data is small."""


@dataclass(frozen=True)
class Arm:
    """One setting of everything that a run depends on, but the seed."""

    task: str = "llama"
    """``"llama"``, ``"bert"`` (classification) or ``"nnx"`` (the Llama in Flax NNX)."""
    pairs: int = 256
    alpha: float = 0.0
    distribution: str = "uniform"
    match: str = "support"
    length: str = "tokens"
    schedule: str = "constant"
    """``"constant"``, ``"down"`` or ``"up"``: linear, with the same sum of alpha^2 over the run."""
    dropout: float = 0.0
    weight_decay: float = 0.01
    batch: int = 16

    @property
    def epochs(self) -> int:
        """How often a run sees each pair."""
        return EPOCHS[self.pairs]

    @property
    def steps(self) -> int:
        """How many batches a run takes."""
        return self.epochs * -(-self.pairs // self.batch)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        default = Arm()
        changed = [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in asdict(self).items()
            if value != getattr(default, name) or name in ("pairs", "alpha")
        ]
        return " ".join(changed)


@dataclass(frozen=True)
class Size:
    """How much of everything a study does."""

    pretraining_steps: int
    sizes: tuple[int, ...]
    seeds: int
    more_seeds: int
    """Of the plain and the noisy Llama, for the first three claims."""
    tuning_seeds: int
    alphas: tuple[float, ...]


FULL = Size(
    1200,
    (64, 256, 1024, 4096),
    seeds=12,
    more_seeds=20,
    tuning_seeds=2,
    alphas=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
)
QUICK = Size(
    pretraining_steps=100, sizes=(64,), seeds=3, more_seeds=3, tuning_seeds=1, alphas=(2.0, 4.0)
)
DROPOUTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
WEIGHT_DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
MIDDLE = 256
"""The number of pairs at which everything but the size is compared."""
TUNING_SEEDS = 1000
"""The first of the seeds that choose settings; none of them is reported."""


def tuning_arms(size: Size, *, headline: bool) -> list[Arm]:
    """The arms among which the validation loss chooses: six settings of everything tuned."""
    arms = [Arm(pairs=pairs, alpha=alpha) for pairs in size.sizes for alpha in size.alphas]
    if headline:
        return arms
    middle = Arm(pairs=MIDDLE if MIDDLE in size.sizes else size.sizes[0])
    arms += [replace(middle, dropout=dropout) for dropout in DROPOUTS]
    arms += [replace(middle, weight_decay=decay) for decay in WEIGHT_DECAYS]
    arms += [replace(middle, task="bert", alpha=alpha) for alpha in size.alphas]
    return arms


class Study:
    """The arms that are reported, once the tuned settings are known.

    Args:
        size: How much to do.
        chosen: For each tuned family the arm with the lowest validation loss; see ``chosen_arms``.
    """

    def __init__(self, size: Size, chosen: dict[str, Arm]) -> None:
        self.size = size
        self.middle = MIDDLE if MIDDLE in size.sizes else size.sizes[0]
        self.plain = {pairs: Arm(pairs=pairs) for pairs in size.sizes}
        self.noisy = {pairs: chosen[f"alpha, {pairs:,} pairs"] for pairs in size.sizes}
        best = self.noisy[self.middle]
        self.variants = {
            "gaussian": replace(best, distribution="gaussian"),
            "rademacher": replace(best, distribution="rademacher"),
            "gaussian, equal RMS": replace(best, distribution="gaussian", match="rms"),
            "rademacher, equal RMS": replace(best, distribution="rademacher", match="rms"),
            "annealed down": replace(best, schedule="down"),
            "annealed up": replace(best, schedule="up"),
            "length of the row": replace(best, length="padded"),
        }
        self.tuned = {}
        if "dropout" in chosen:
            self.tuned = {name: chosen[name] for name in ("dropout", "weight decay")}
            self.bert = Arm(task="bert", pairs=self.middle), chosen["alpha of the encoder"]
            self.nnx = Arm(task="nnx", pairs=self.middle), replace(best, task="nnx")

    def runs(self, *, headline: bool) -> list[tuple[Arm, int]]:
        """Every arm with every seed, the seeds in the outer order so that all arms grow alike."""
        seeds = [
            (arm, self.size.more_seeds)
            for pairs in self.size.sizes
            for arm in (self.plain[pairs], self.noisy[pairs])
        ]
        if not headline:
            others = [*self.variants.values(), *self.tuned.values(), *self.bert, *self.nnx]
            seeds += [(arm, self.size.seeds) for arm in others]
        most = max(count for _, count in seeds)
        return [(arm, seed) for seed in range(most) for arm, count in seeds if seed < count]


def family(arm: Arm) -> str:
    """What is tuned by an arm of ``tuning_arms``."""
    if arm.dropout != Arm.dropout:
        return "dropout"
    if arm.weight_decay != Arm.weight_decay:
        return "weight decay"
    return "alpha of the encoder" if arm.task == "bert" else f"alpha, {arm.pairs:,} pairs"
