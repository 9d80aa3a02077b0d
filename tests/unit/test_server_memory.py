"""Memory that is free goes back to the system, though blocks are kept for those who need one again at once."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")

PROGRAM = """
import time
from pathlib import Path
import numpy as np
from chroma_async.server.memory import give_back, keep_blocks

def resident_mebibytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

keep_blocks()
before = resident_mebibytes()
blocks = [np.ones(700_000, dtype=np.uint8) for _ in range(100)]
last = np.ones(500_000, dtype=np.uint8)  # above them, so that they are not simply the end of the heap
del blocks
kept = resident_mebibytes() - before
give_back(look_seconds=0.1)
left = []
for _ in range(2):
    deadline = time.monotonic() + 20
    while resident_mebibytes() - before > 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    left.append(resident_mebibytes() - before)
    blocks = [np.ones(700_000, dtype=np.uint8) for _ in range(100)]
    time.sleep(0.5)
    del blocks
print(kept, *left)
"""


def test_freed_blocks_are_kept_and_then_given_back() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    kept, left, left_again = map(int, result.stdout.split())
    assert kept >= 60
    assert left <= 10
    assert left_again <= 10


def test_what_the_environment_says_is_left_alone() -> None:
    program = "import os; from chroma_async.server.memory import *; keep_blocks(); print(os.environ['MALLOC_ARENA_MAX'])"
    environment = {"MALLOC_ARENA_MAX": "7"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert result.stdout == "7\n"
