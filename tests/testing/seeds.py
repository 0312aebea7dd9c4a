"""How often the kit fails a correct layer: none of thousands of kit seeds should.

    python -m tests.testing.seeds --seeds 2000 --frameworks torch,jax --out seeds.jsonl

runs the checks that chance may fail on every correct layer with every seed, in the quick profile.
Each layer runs in blocks of seeds, on all cores; each block that is done is a line in ``--out``,
and a run that was killed goes on from there. The table at the end counts all that the file holds.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from embnoise.testing import Check, iter_checks
from tests.frameworks import hasty_jax, kept_kernels, share_compiled_jax
from tests.testing.faults.families import correct

SEEDS = {"torch": 2000, "jax": 2000, "keras": 500}
BLOCK = 20

Block = tuple[str, str, int, int]
"""Framework, layer, first seed, and the one after the last."""


def layers(framework: str) -> dict[str, Any]:
    """The correct layers of a framework, by name."""
    if framework != "jax":
        import_module("torch").set_num_threads(1)
    own = import_module(f"tests.testing.{framework}_layers").CORRECT
    return {layer.name: layer for layer in [*own, *correct(framework)]}


def run(block: Block) -> dict[str, Any]:
    """The line of a block."""
    framework, name, first, end = block
    made = layers(framework)[name].case()
    started, ran, failed = time.perf_counter(), 0, []
    with {"keras": kept_kernels, "jax": hasty_jax}.get(framework, contextlib.nullcontext)():
        for seed in range(first, end):
            for check in iter_checks(made, profile="quick", seed=seed):
                if _is_random(check):
                    result = check.run()
                    ran += result.status != "not_claimed"
                    if result.wrong:
                        message = result.message.partition("\n")[0]
                        failed.append({"seed": seed, "check": check.id, "message": message})
    seconds = round(time.perf_counter() - started, 1)
    return {"block": list(block), "ran": ran, "failed": failed, "seconds": seconds}


def _is_random(check: Check) -> bool:
    """Whether chance may fail a check: not that of compiled calls, if the same noise is drawn."""
    seeded, key = check.case.claims.seeded, check.case.driver.key
    repeats = seeded is True or (seeded == "global" and key is not None)
    return check.spec.random and not (check.spec.code == "EN22" and repeats)


def done(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; the last one may have been cut off."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def blocks(chosen: dict[str, list[str]], seeds: int | None, first: int) -> list[Block]:
    """All blocks of the layers, by framework: the first seeds of all layers come first."""
    return sorted(
        (
            (framework, name, start, min(start + BLOCK, end))
            for framework, names in chosen.items()
            for end in [first + (seeds or SEEDS[framework])]
            for name in names
            for start in range(first, end, BLOCK)
        ),
        key=lambda block: block[2],
    )


def table(lines: list[dict[str, Any]]) -> str:
    """A row for each layer."""
    rows: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        framework, name, first, end = line["block"]
        row = rows.setdefault((framework, name), [0, 0, 0, 0])
        added = (end - first, line["ran"], len(line["failed"]), line["seconds"])
        rows[framework, name] = [old + new for old, new in zip(row, added, strict=True)]
    head = f"{'framework':10} {'layer':34} {'seeds':>6} {'checks':>8} {'failed':>7} {'seconds':>8}"
    body = [
        f"{framework:10} {name:34} {seeds:6} {ran:8} {failed:7} {seconds:8.0f}"
        for (framework, name), (seeds, ran, failed, seconds) in sorted(rows.items())
    ]
    total = [sum(column) for column in zip(*rows.values(), strict=True)] or [0, 0, 0, 0]
    last = f"{'total':45} {total[0]:6} {total[1]:8} {total[2]:7} {total[3]:8.0f}"
    return "\n".join([head, *body, last])


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.testing.seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, help=f"how many (default: {SEEDS})")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--frameworks", default="torch,jax,keras")
    parser.add_argument("--layers", default="", help="those whose names match this pattern")
    parser.add_argument("--out", type=Path, default=Path("seeds.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing and print the table; returns 1 if a check failed."""
    options = options_of(arguments)
    chosen = {
        framework: [name for name in layers(framework) if re.search(options.layers, name)]
        for framework in options.frameworks.split(",")
    }
    wanted = blocks(chosen, options.seeds, options.first)
    known = {tuple(line["block"]) for line in done(options.out)}
    missing = [block for block in wanted if block not in known]
    spawned = multiprocessing.get_context("spawn")  # threads of the frameworks do not survive fork
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.out.exists() and not options.out.read_bytes().endswith(b"\n"):
        with options.out.open("a") as file:  # a line that was cut off must not join the next
            file.write("\n")
    with (
        tempfile.TemporaryDirectory() as cache,
        options.out.open("a") as file,
        concurrent.futures.ProcessPoolExecutor(options.processes, spawned) as pool,
        tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="block") as bar,
    ):
        share_compiled_jax(cache)
        for future in concurrent.futures.as_completed([pool.submit(run, each) for each in missing]):
            line = future.result()
            file.write(json.dumps(line) + "\n")
            file.flush()
            for failure in line["failed"]:
                tqdm.write(f"{failure['check']} at seed {failure['seed']}: {failure['message']}")
            bar.update()
    of_this_run = set(wanted)
    lines = [line for line in done(options.out) if tuple(line["block"]) in of_this_run]
    print(table(lines))
    return int(any(line["failed"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
