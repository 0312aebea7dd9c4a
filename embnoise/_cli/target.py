"""The layer that a command is about, from what is typed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from embnoise._cli.usage import UsageError
from embnoise._validation import did_you_mean
from embnoise.testing import Case, Claims, case
from embnoise.testing.cases import check_make_layer
from embnoise.testing.claims import FLAGS, NOTES
from embnoise.testing.failures import ERRORS, raised_by_layer
from embnoise.testing.find_driver import adapters, guessed_driver

__all__ = ["add_target", "case_of", "load"]

_WORDS = {"none": None, "true": True, "false": False}
_DRIVERS = ("numpy", "torch", "jax", "keras")
_TARGET = "the target must be module:name, such as my_package.layers:make_layer"
_CALL = "--call must be module:function, such as my_package.layers:call"


def add_target(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "target", help=f"module:make_layer, or module:case for a case that has claims{more}"
    )
    parser.add_argument(
        "--driver",
        help="numpy, torch, jax, keras, or the name of another adapter (default: guessed)",
    )
    parser.add_argument(
        "--inputs", choices=["embeddings", "ids"], help="what the layer takes (default: embeddings)"
    )
    parser.add_argument(
        "--padding-id", type=int, metavar="N", help="the id of padding, for ids (default: 0)"
    )
    parser.add_argument("--call", metavar="module:function", help="how to call the layer")
    claims = parser.add_argument_group(
        "claims", "what the layer claims; none, true and false in any case"
    )
    for name, default in vars(Claims()).items():
        if name not in NOTES:
            continue
        if name == "schedule":  # a function, which cannot be typed
            claims.add_argument("--schedule", help=argparse.SUPPRESS)
            continue
        option, note = name.replace("_", "-"), NOTES[name].replace("`", "").rstrip(".")
        if name in FLAGS:
            prefix, note = ("not-", f"not claimed: {note}") if default else ("", note)
            claims.add_argument(
                f"--{prefix}{option}", dest=name, action="store_const", const=not default, help=note
            )
        elif isinstance(default, tuple):
            claims.add_argument(f"--{option}", action="append", metavar="NAME", help=note)
        else:
            claims.add_argument(f"--{option}", help=f"{note} (default: {str(default).lower()})")


def case_of(options: argparse.Namespace) -> Case:
    """The case that the command line describes."""
    if options.schedule is not None:
        raise UsageError(
            f"--schedule={options.schedule}: a schedule is a function, which cannot be typed; make "
            "a case with Claims(schedule=...), such as linear(1, 0, 100), and pass module:case"
        )
    known = {*_DRIVERS, *adapters()}
    if options.driver is not None and options.driver not in known:
        raise UsageError(
            f"--driver must be {', '.join(_DRIVERS)} or the name of an installed adapter, got "
            f"{options.driver!r}{did_you_mean(options.driver, known)}"
        )
    target = load(options.target)
    if not (isinstance(target, Case) or callable(target)):
        raise UsageError(
            f"{options.target} must be a function make_layer, or a case, got {target!r:.60}"
        )
    given: dict[str, Any] = {
        name: _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        for name, value in vars(options).items()
        if name in NOTES and value is not None
    }
    if isinstance(target, Case):
        about = (options.driver, options.inputs, options.padding_id, options.call)
        if given or any(each is not None for each in about):
            raise UsageError(
                f"{options.target} is a case, which has its own driver and claims: leave out the "
                "options for them"
            )
        return target
    return case(
        options.target.rpartition(":")[2],
        target,
        driver=options.driver or _driver_for(target),
        inputs=options.inputs or ("embeddings" if options.padding_id is None else "ids"),
        padding_id=options.padding_id or 0,
        call=None if options.call is None else load(options.call, _CALL),
        claims=Claims(**given),
    )


def _driver_for(make_layer: Any) -> str:
    """The driver's name, guessed from a layer."""
    check_make_layer(make_layer)
    called = "make_layer(dim=8, alpha=1.0, seed=0)"
    try:
        layer = make_layer(dim=8, alpha=1.0, seed=0)
    except ERRORS as error:
        raise UsageError(str(raised_by_layer(called, error))) from None
    if layer is None:
        raise UsageError(f"{called} returned None, and must return a layer")
    name = guessed_driver(layer)
    if name is None:
        raise UsageError(
            "--driver is needed, since the layer does not show its framework: numpy, torch, jax, "
            "keras or the name of another adapter"
        )
    return name


def load(target: str, accepted: str = _TARGET) -> Any:
    """What ``module:name`` names; modules are found in this folder too, as for a script.

    Args:
        target: What was typed.
        accepted: What it must be, for errors.
    """
    module, colon, name_in_it = target.partition(":")
    if module.endswith(".py") or module.startswith(".") or "/" in module:
        meant, where = _module_of(module)
        name = name_in_it or accepted.rpartition(":")[2]
        raise UsageError(
            f"{target!r} names a file, and a module is needed (did you mean {meant}:{name}{where}?)"
        )
    if not (module and colon and name_in_it):
        raise UsageError(f"{accepted}, got {target!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (error.name == module or module.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {error.name!r} here or installed") from None
        raise UsageError(f"{module} needs {error.name}, which is not installed") from None
    except ERRORS as error:
        raise UsageError(f"importing {module} raised {type(error).__name__}: {error}") from None
    for name in name_in_it.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{module} has no {name_in_it!r}{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    return found


def _module_of(path: str) -> tuple[str, str]:
    """The name of the module in a file, and from where it can be imported, if not from here."""
    place = Path(os.path.relpath(path.removesuffix(".py")))
    if place.parts[0] == os.pardir:
        return place.name, f" in the folder {Path(path).parent}"
    return ".".join(place.parts).lstrip("."), ""
