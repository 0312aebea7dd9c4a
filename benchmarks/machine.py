"""Where figures come from: the processor, and the memory of this process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def processor() -> str:
    """The processor's name and how many of its cores this process may use."""
    names = {
        value.strip()
        for key, _, value in (line.partition(":") for line in _lines(Path("/proc/cpuinfo")))
        if key.strip() == "model name"
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = ", ".join(sorted(names)) or platform.processor() or platform.machine()
    return f"{name}, {cores} cores"


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The most memory that this process takes during a call; ``None`` outside of Linux."""
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the peak is counted from here on
    except OSError:
        return None
    run()
    peak = next(line for line in _lines(_PROCESS / "status") if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
