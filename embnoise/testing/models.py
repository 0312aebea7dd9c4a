"""``check_model``: noise on a saved model, checked end to end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from embnoise._noise import Noise, check_noise, neftune
from embnoise._validation import check_bool, check_callable, format_value
from embnoise.testing.failures import (
    ERRORS,
    ClaimViolatedError,
    NotClaimedError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.model_checks import MODEL_CHECKS, ModelCheck
from embnoise.testing.model_run import ModelRun
from embnoise.testing.report import Findings, Result
from embnoise.testing.saved_model import SavedTable, load_model

__all__ = ["ModelReport", "check_model"]

DTYPE = "float32"
FIRST = {"MD01": ("failed", "error"), "MD02": ("error",)}
"""After which results of which checks there is nothing more to learn."""


def check_model(
    path: str | Path,
    noise: Noise | None = None,
    *,
    layer: str | None = None,
    adapter: str | None = None,
    raises: bool = True,
    progress: Callable[[str], None] = lambda what: None,
) -> ModelReport:
    """Attach noise to a saved model, and check what the model does with it.

    The model is loaded from disk, never from the network, in float32 on the CPU. It is called with
    padded, packed and square batches, in training and in evaluation mode, and nothing is trained
    or written.

    Args:
        path: A folder that ``save_pretrained`` of transformers wrote, a ``.keras`` file, or the
            folder of a keras-hub preset.
        noise: The noise to attach. Default: ``neftune(5.0, seed=0)``.
        layer: The embedding's name, if the model has several.
        adapter: The adapter that loads the model. Default: the one that recognizes the path.
        raises: Whether to raise if a check failed.
        progress: Called with the name of each check before it runs.

    Returns:
        A report with ``ok``, ``results``, ``table()`` and ``to_json()``.

    Raises:
        ExceptionGroup: Checks failed; it holds one ``CheckFailedError`` for each.
        FileNotFoundError: There is nothing at the path.
        TypeError: An argument has the wrong type.
        ValueError: It is not a model that an adapter can load, its embedding is not found, or
            alpha is 0.
        ImportError: What loads it is not installed.
    """
    __tracebackhide__ = True
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path must be a string or a path, got {format_value(path)}")
    check_bool("raises", raises)
    check_callable("progress", progress)
    noise = neftune(5.0, seed=0) if noise is None else check_noise(noise)
    if not noise.alpha_at(0) > 0:
        raise ValueError(f"alpha must be above 0 at step 0, got {noise.alpha_at(0)}")
    results: list[Result] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "embnoise: ")  # MD02 reports them
        progress(f"loading {path}")
        model = load_model(Path(path), layer, adapter)
        if isinstance(model, SavedTable):
            raise ValueError(
                f"{str(path)!r} holds arrays and no model to call; `embnoise inspect` shows what "
                "noise does to its embedding table"
            )
        run = ModelRun(model, noise)
        for code, check in MODEL_CHECKS.items():
            progress(f"{code} {check.__name__}")
            results.append(_result(run, code, check))
            if code in FIRST and results[-1].status in FIRST[code]:
                break  # the other checks would report the same
    report = ModelReport(str(path), model.name, model.embedding, noise, tuple(results))
    if raises:
        report.raise_if_wrong()
    return report


def _result(run: ModelRun, code: str, check: ModelCheck) -> Result:
    started, run.assertions = time.perf_counter(), 0
    name = check.__name__
    try:
        status, message = "passed", check(run)
    except NotClaimedError as why:
        status, message = "not_claimed", str(why)
    except (ClaimViolatedError, UntestableError) as found:
        status, message = found.status, f"{code} {name}: {found}"
    except ERRORS as error:  # from the model
        untestable = raised_by_layer("the model", error)
        status, message = untestable.status, f"{code} {name}: {untestable}"
    seconds = time.perf_counter() - started
    return Result(code, name, DTYPE, status, message, run.assertions, seconds)


@dataclass(frozen=True)
class ModelReport(Findings):
    """What the checks of a saved model found.

    Attributes:
        path: Where the model is.
        model: Its class.
        embedding: The embedding that got the noise.
        noise: The noise.
        results: One for each check; the message of one that passed says what it saw.
    """

    path: str
    model: str
    embedding: str
    noise: Noise
    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        """The path."""
        return self.path

    def header(self) -> list[str]:
        """The model and the noise."""
        return [f"{self.path}: {self.model}, noise on {self.embedding}", f"  {self.noise}"]

    def about(self) -> dict[str, Any]:
        """The model and the noise."""
        return {
            "path": self.path,
            "model": self.model,
            "embedding": self.embedding,
            "noise": str(self.noise),
        }

    def table(self, *, color: bool = False) -> str:
        """A line for each check with what it saw, and the messages of failures below."""
        wide = max(len(result.name) for result in self.results)
        lines = [*self.header(), ""]
        for each in self.results:
            shown = f"{each.status.replace('_', ' '):11}"
            if color:
                shown = f"\033[{31 if each.wrong else 32}m{shown}\033[0m"
            said = "" if each.wrong else each.message
            lines.append(f"  {each.code} {each.name.ljust(wide)}  {shown}  {said}".rstrip())
        lines += [line for each in self.results if each.wrong for line in ("", each.message)]
        seconds = sum(each.seconds for each in self.results)
        verdict = "holds" if self.ok else "does not hold"
        return "\n".join(
            [*lines, "", f"{self.title} {verdict}: {self.summary()} in {seconds:.1f} s"]
        )
