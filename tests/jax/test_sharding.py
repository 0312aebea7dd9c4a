"""Sharded over batch, sequence, both or channels: the same bits, and nothing to communicate."""

import os
import subprocess
import sys
from pathlib import Path


def test_on_a_mesh_of_8_host_devices():
    script = Path(__file__).with_name("sharded.py")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert ran.stdout.strip() == "sharded", ran.stderr
