"""Sharded over batch, sequence, both or channels: the same bits, and nothing to communicate."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def start(script, devices, *arguments):
    """Start a script beside this file, on so many host devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(__file__).with_name(script)), *arguments],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def check(process, said):
    out, errors = process.communicate(timeout=600)
    assert out.strip() == said, errors


@pytest.mark.parametrize("part", ["sampled", pytest.param("whole", marks=pytest.mark.sweep)])
def test_on_a_mesh_of_8_host_devices(part):
    check(start("sharded.py", 8, part), "sharded")


def test_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start("processes.py", 2, address, str(index)) for index in range(2)]
    for process in processes:
        check(process, "processes")
