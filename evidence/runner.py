"""Runs of the study in parallel processes, resumable, with the time that is left."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import process_time

from tqdm import tqdm

from evidence.arms import Arm
from evidence.results import Result, append, load

__all__ = ["Folders", "run_all"]

Folders = dict[str, Path]
"""The pretrained model of each task."""


def run_all(
    runs: Iterable[tuple[Arm, int]], folders: Folders, out: Path, processes: int, title: str
) -> list[Result]:
    """Do what the file ``out`` does not have yet; returns everything that it has then."""
    done = {(result.arm, result.seed) for result in load(out)}
    missing = [run for run in dict.fromkeys(runs) if run not in done]
    if missing:
        # No process inherits the state of this one, and each uses one thread.
        context = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(
                processes, mp_context=context, initializer=_end_with_parent
            ) as pool,
            tqdm(total=sum(arm.steps for arm, _ in missing), desc=title, unit="step") as bar,
        ):
            futures = {pool.submit(_run, arm, seed, folders): arm for arm, seed in missing}
            try:
                for future in as_completed(futures):
                    append(out, [future.result()])
                    bar.update(futures[future].steps)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return load(out)


def _end_with_parent() -> None:
    """Without this, the processes of a command that was killed would run on, for nothing."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run(arm: Arm, seed: int, folders: Folders) -> Result:
    started = process_time()
    if arm.task == "nnx":
        from evidence.nnx import run_nnx  # noqa: PLC0415, JAX is loaded where it is needed

        measures = run_nnx(arm, seed, folders["nnx"])
    else:
        import torch  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        from evidence.classification import run_bert  # noqa: PLC0415
        from evidence.training import run_llama  # noqa: PLC0415

        torch.set_num_threads(1)
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        run = run_bert if arm.task == "bert" else run_llama
        measures = run(arm, seed, folders["llama"])
    return Result(arm, seed, measures, process_time() - started)
