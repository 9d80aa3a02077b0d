"""Two threads that decoded the first manifests, or entries, of a process at the same time crashed it (SIGSEGV).

msgspec looks into a type when it is first decoded, in Python code, so that another thread may run meanwhile and use what is
only half there. A worker that was asked a lot right after its start died of it, and so would a program with an embedded
client that several threads use. Decoders are now made when modules are loaded.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.architecture.tree import ROOT

PROCESSES = 12
PROGRAM = """
import sys, threading
from chroma_async.core.events import TenantCreated, decode, encode
from chroma_async.projections.manifest import Manifest, decode_manifest, encode_manifest

manifest, entry = encode_manifest(Manifest()), encode(TenantCreated(name="t"))
sys.setswitchinterval(1e-6)
together = threading.Barrier(64)

def work():
    together.wait()
    decode_manifest(manifest)
    decode(entry)

threads = [threading.Thread(target=work) for _ in range(64)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
"""Before, one in four or five such processes crashed."""


def test_first_decodings_at_once_crash_no_process() -> None:
    codes = [subprocess.run([sys.executable, "-c", PROGRAM], timeout=60, check=False).returncode for _ in range(PROCESSES)]
    assert codes == [0] * PROCESSES


@pytest.mark.parametrize("part", ["core", "projections", "engine"])
def test_what_threads_decode_has_a_decoder_that_is_made_beforehand(part: str) -> None:
    """Backups are listed by one thread."""
    files = sorted((ROOT / "src" / "chroma_async" / part).rglob("*.py"))
    found = [
        file.name for file in files if re.search(r"msgspec\.\w+\.decode\([^)]*type=|msgspec\.convert\(", file.read_text())
    ]
    assert set(found) <= {"backup_list.py"}
