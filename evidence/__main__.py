"""The command: ``python -m evidence run``, then ``python -m evidence report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from evidence import models
from evidence.answers import Answer, answers
from evidence.arms import FULL, QUICK, TUNING_SEEDS, Study, tuning_arms
from evidence.report import page
from evidence.results import Result, load
from evidence.runner import Folders, run_all
from evidence.tuning import chosen_arms

RESULTS = Path(__file__).parent / "results.jsonl"
REPETITIONS = Path(__file__).parent / "repetitions"
TEMPLATE = Path(__file__).parent / "page.md"
DOCS = Path(__file__).parents[1] / "docs"


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do the runs that are not done yet")
    run.add_argument("--headline", action="store_true", help="plain and noisy Llama alone")
    run.add_argument("--quick", action="store_true", help="a small study, in minutes")
    run.add_argument("--processes", type=int, default=2, help="default: 2")
    run.add_argument(
        "--out",
        type=Path,
        help="default: evidence/results.jsonl, or a file in .cache",
    )
    commands.add_parser("report", help="write docs/evidence.md and its pictures")
    arguments = parser.parse_args(argv)
    if arguments.command == "report":
        _report()
    else:
        _run(arguments)


def published() -> tuple[Study, list[Result], list[Answer], str]:
    """The study, its results, its answers and its page, from the raw results."""
    results = load(RESULTS)
    chosen = chosen_arms(results)
    study = Study(FULL, chosen)
    found = answers(study, results)
    repetitions = [
        answers(Study(FULL, chosen | chosen_arms(own)), own)
        for own in map(load, sorted(REPETITIONS.glob("*.jsonl")))
    ]
    return study, results, found, page(study, results, found, TEMPLATE.read_text(), repetitions)


def _report() -> None:
    from evidence.pictures import save_all  # noqa: PLC0415, needs matplotlib

    study, results, found, text = published()
    (DOCS / "evidence.md").write_text(text)
    for path in [DOCS / "evidence.md", *save_all(study, results, found, DOCS)]:
        print(path)


def _run(arguments: argparse.Namespace) -> None:
    size = QUICK if arguments.quick else FULL
    out = arguments.out or (models.CACHE / "quick.jsonl" if arguments.quick else RESULTS)
    headline = arguments.headline or arguments.quick
    folders: Folders = {"llama": models.pretrained(size.pretraining_steps)}
    if not headline:
        from evidence.nnx import pretrained  # noqa: PLC0415, needs JAX

        folders["nnx"] = pretrained(size.pretraining_steps, models.CACHE)
    tuning = [
        (arm, TUNING_SEEDS + number)
        for number in range(size.tuning_seeds)
        for arm in tuning_arms(size, headline=headline)
    ]
    results = run_all(tuning, folders, out, arguments.processes, "Tuning")
    study = Study(size, chosen_arms(results))
    run_all(study.runs(headline=headline), folders, out, arguments.processes, "Study")


if __name__ == "__main__":
    main()
