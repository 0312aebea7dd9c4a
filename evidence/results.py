"""The raw results: one JSON line per run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evidence.arms import TUNING_SEEDS, Arm

__all__ = ["Result", "append", "load"]


@dataclass(frozen=True)
class Result:
    """What one run measured."""

    arm: Arm
    seed: int
    measures: dict[str, float]
    seconds: float
    """Of processor time."""

    @property
    def is_reported(self) -> bool:
        """False for the runs that chose a setting."""
        return self.seed < TUNING_SEEDS


def load(path: Path) -> list[Result]:
    """The results of a file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            record = json.loads(line)
            found.append(
                Result(Arm(**record["arm"]), record["seed"], record["measures"], record["seconds"])
            )
    return found


def append(path: Path, results: Iterable[Result]) -> None:
    """Write results behind those of the file, and to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_text() if path.exists() else ""
    if whole and not whole.endswith("\n"):  # a run was killed while it wrote
        path.write_text(whole[: whole.rfind("\n") + 1])
    with path.open("a") as file:
        for result in results:
            measures = {name: round(value, 6) for name, value in result.measures.items()}
            record = {
                "arm": result.arm.to_dict(),
                "seed": result.seed,
                "measures": measures,
                "seconds": round(result.seconds, 1),
            }
            file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
