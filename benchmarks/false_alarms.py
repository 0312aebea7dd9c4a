"""How often the kit fails a correct layer: none of 2,000 kit seeds should.

    python benchmarks/false_alarms.py torch --seeds 2000

runs the random checks of every correct layer in ``tests/testing`` with every seed, in the quick
profile (the rate is the same in all profiles). The exact checks leave nothing to chance, and run
with seed 0.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from embnoise.testing import check_layer, iter_checks


def alarms(layer: Any, seeds: int) -> tuple[int, list[str]]:
    """The number of checks that ran, and the ids of those that failed."""
    report = check_layer(layer.case(), profile="quick", raises=False)
    ran = len(report.results)
    failed = [f"{each.code} at seed 0" for each in report.results if each.wrong]
    for seed in tqdm(range(1, seeds), desc=layer.name, leave=False):
        for check in iter_checks(layer.case(), profile="quick", seed=seed):
            if check.spec.random:
                result = check.run()
                ran += result.status != "not_claimed"
                if result.wrong:
                    failed.append(f"{check.id} at seed {seed}")
                    tqdm.write(failed[-1])
    return ran, failed


def main() -> int:
    """Print a line for each layer; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("framework", choices=["torch", "jax", "keras"])
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--only", default="", help="layers whose names match this pattern")
    options = parser.parse_args()
    if options.framework != "jax":
        importlib.import_module("torch").set_num_threads(1)
    layers = importlib.import_module(f"tests.testing.{options.framework}_layers").CORRECT
    wrong = 0
    print(f"{'layer':24} {'checks run':>10} {'failed':>7} {'seconds':>8}")
    for layer in layers:
        if not re.search(options.only, layer.name):
            continue
        started = time.perf_counter()
        ran, failed = alarms(layer, options.seeds)
        wrong += len(failed)
        seconds = time.perf_counter() - started
        print(f"{layer.name:24} {ran:10} {len(failed):7} {seconds:8.0f}", *failed[:5], flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
