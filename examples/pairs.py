"""Instruction pairs: from docstrings that are always at hand, or from a file in Alpaca's form."""

from __future__ import annotations

import importlib
import inspect
import json
import random
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# Modules that do something when imported, that not every Python has, or that all know as os.path.
SKIPPED = {
    "antigravity",
    "idlelib",
    "lib2to3",
    "ntpath",
    "posixpath",
    "readline",
    "rlcompleter",
    "this",
    "tkinter",
    "turtle",
    "turtledemo",
}
SUBMODULES = [
    "collections.abc",
    "concurrent.futures",
    "importlib.util",
    "logging.handlers",
    "os.path",
    "unittest.mock",
    "urllib.parse",
    "urllib.request",
    "xml.etree.ElementTree",
    "numpy",
    "numpy.fft",
    "numpy.linalg",
    "numpy.ma",
    "numpy.polynomial",
    "numpy.random",
    "numpy.strings",
]


@dataclass(frozen=True)
class Pair:
    """One record in Alpaca's form."""

    instruction: str
    output: str
    input: str = ""

    @property
    def prompt(self) -> str:
        """What the model reads before it answers."""
        context = f"Input: {self.input}\n" if self.input else ""
        return f"Instruction: {self.instruction}\n{context}Response:\n"


def split(pairs: list[Pair], train: int, held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Shuffled pairs to train on and held-out pairs; no answer is there twice.

    At most a quarter of the pairs is held out, so that a small file leaves enough to train on.
    """
    by_answer: dict[str, Pair] = {}
    for pair in pairs:
        by_answer.setdefault(pair.output, pair)
    unique = list(by_answer.values())
    if len(unique) < 4:
        raise ValueError(f"at least 4 pairs with different answers are needed, got {len(unique)}")
    random.Random(seed).shuffle(unique)  # noqa: S311
    held_out = min(held_out, len(unique) // 4)
    return unique[held_out : held_out + train], unique[:held_out]


def read_pairs(path: Path) -> list[Pair]:
    """The records of a JSON list or of a JSONL file.

    Raises:
        ValueError: the file, the record's number (from 1) and what is wrong with it.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of records, got a {type(records).__name__}")
    return [_pair(record, f"{path}, record {n}") for n, record in enumerate(records, start=1)]


def _pair(record: Any, place: str) -> Pair:
    if not isinstance(record, dict):
        raise ValueError(f"{place}: must be an object, got a {type(record).__name__}")
    for field in ("instruction", "output"):
        if field not in record:
            raise ValueError(f"{place}: the field {field!r} is missing")
    fields = {name: record.get(name) or "" for name in ("instruction", "output", "input")}
    for field, value in fields.items():
        if not isinstance(value, str) or not (value.strip() or field == "input"):
            raise ValueError(f"{place}: {field!r} must be a text, got {record[field]!r}")
    return Pair(**fields)


def docstring_pairs() -> list[Pair]:
    """What the public functions, methods and classes of Python and NumPy do.

    Always in the same order. Of several names with the same answer, the shortest asks.
    """
    documented: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules and functions may be deprecated
        for module_name, module in _modules():
            for name, thing in _public(module):
                documented[f"{module_name}.{name}".removeprefix("builtins.")] = thing
    pairs: dict[str, Pair] = {}
    for name in sorted(documented, key=lambda name: (name.count("."), name)):
        is_class = inspect.isclass(documented[name])
        question = f"What is {name}?" if is_class else f"What does {name} do?"
        answer = _first_sentence(documented[name].__doc__)
        if answer:
            pairs.setdefault(answer, Pair(question, answer))
    return list(pairs.values())


def _modules() -> Iterator[tuple[str, ModuleType]]:
    for name in sorted(sys.stdlib_module_names - SKIPPED) + SUBMODULES:
        if not name.startswith("_"):
            try:
                yield name, importlib.import_module(name)
            except ImportError:  # another platform's
                continue


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes of a module and the methods of its classes, with their names."""
    exported = getattr(module, "__all__", None)
    for name in exported or list(vars(module)):
        thing = getattr(module, name, None)
        imported = getattr(thing, "__module__", None) != module.__name__
        if name.startswith("_") or (imported and not exported):
            continue
        if inspect.isclass(thing):
            yield name, thing
            for method, function in vars(thing).items():
                if inspect.isroutine(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function
        elif inspect.isroutine(thing) or isinstance(thing, np.ufunc):
            yield name, thing


def _first_sentence(docstring: Any) -> str | None:
    """The first sentence after the signature, if it is one and not too long."""
    if not isinstance(docstring, str):
        return None
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        text = " ".join(paragraph.split())
        if not re.match(r"[\w.]+\(", text):  # a signature
            sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0]
            return sentence if len(sentence.split()) >= 3 and len(sentence) <= 160 else None
    return None
