"""A process that compacts, and may not open or write what that takes, gives its place to one that may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chroma_async import PersistentClient

HOLDER = """
import os, resource, sys, time
from pathlib import Path
import chroma_async
from chroma_async.engine import compactor

compactor.GIVE_WAY_SECONDS = 1.0
lock = Path(sys.argv[1], "compactor.lock")
with chroma_async.PersistentClient(sys.argv[1]):
    while not lock.exists() or lock.read_text() != f"{os.getpid()}\\n":
        time.sleep(0.01)
    handles = len(os.listdir("/dev/fd"))
    kind, most = (resource.RLIMIT_NOFILE, handles) if sys.argv[2] == "handles" else (resource.RLIMIT_FSIZE, 100_000)
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    print("limited", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("limited", ["handles", "size of files"])
def test_a_limit_of_one_process_keeps_no_other_one_from_compacting(tmp_path: Path, limited: str) -> None:
    with PersistentClient(tmp_path, compact=False) as client:
        client.create_collection("things", embedding_function=None)
    command = [sys.executable, "-c", HOLDER, str(tmp_path), limited]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "limited\n"
            with PersistentClient(tmp_path) as client:
                things = client.get_collection("things", embedding_function=None)
                ids = [str(number) for number in range(500)]
                for _ in range(2):
                    result = things.upsert(ids, np.ones((500, 128)), wait="applied", wait_seconds=20)
                assert result.reached != "committed"
            assert holder.poll() is None
        finally:
            holder.kill()
