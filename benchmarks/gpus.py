"""GPUs, by what their vendors publish: what predictions are made from."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GPUS", "Gpu"]


class Gpu(NamedTuple):
    """A GPU."""

    target: str
    """The architecture for which compilers make code."""
    multiprocessors: int
    """Or compute units."""
    lanes: int
    """How many lanes one of them issues an instruction for in a cycle."""
    clock: float
    """Cycles per second."""
    bandwidth: float
    """Bytes per second, of its memory."""

    @property
    def lanes_per_second(self) -> float:
        """How many lanes the GPU issues an instruction for in a second."""
        return self.multiprocessors * self.lanes * self.clock


GPUS = {
    "A100 SXM 80 GB": Gpu("sm_80", 108, 128, 1.41e9, 2.04e12),
    "H100 SXM": Gpu("sm_90", 132, 128, 1.755e9, 3.35e12),
    "B200": Gpu("sm_100", 148, 128, 1.85e9, 8.0e12),
    "RTX 4090": Gpu("sm_89", 128, 128, 2.52e9, 1.008e12),
    "MI300X": Gpu("gfx942", 304, 64, 2.1e9, 5.3e12),
}
