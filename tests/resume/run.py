"""One run of a training program, alone in a process: ``python -m tests.resume.run NAME FOLDER``.

A program is a module of this package with a function ``train(folder, note, kill)``. It goes on from
the last checkpoint in the folder, if there is one, calls ``note`` with what each lookup of its
embedding gave in training, or with what came of it, and ``kill`` now and then; it returns its
final weights.

With ``--kill N`` the N-th call of ``kill`` ends the process by SIGKILL. Otherwise the program runs
to its end, and once more, whole, in a folder of its own; both must end alike.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


class Notes:
    """Fingerprints of what a run notes, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, embeddings: Any) -> None:
        self.seen.append(np.ascontiguousarray(embeddings).tobytes().hex()[:4096])


class Kill:
    """Ends the process at the N-th call, as a scheduler would: no cleanup, no ``finally``."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", type=int, metavar="N")
    arguments = parser.parse_args()
    program = import_module(f"tests.resume.{arguments.name}")
    resumed, whole = Notes(), Notes()
    weights = program.train(arguments.folder, resumed, Kill(arguments.kill))
    with tempfile.TemporaryDirectory() as folder:
        kill = Kill(None)
        expected = program.train(Path(folder), whole, kill)
    same = [
        name
        for name, value in expected.items()
        if np.array_equal(np.asarray(value), np.asarray(weights[name]))
    ]
    print(
        json.dumps(
            {
                "weights": len(expected),
                "same": len(same),
                "differ": sorted(expected.keys() - same),
                "resumed": len(resumed.seen),
                "whole": len(whole.seen),
                "same_lookups": whole.seen[len(whole.seen) - len(resumed.seen) :] == resumed.seen,
                "all_differ": len(set(whole.seen)) == len(whole.seen),
            }
        )
    )


if __name__ == "__main__":
    main()
