"""Ctrl-C in a program that ingests by the sync client."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.api.serving import serving

from chroma_async import HttpClient

PROGRAM = """
import itertools, sys
from chroma_async import HttpClient

with HttpClient(sys.argv[1]) as client:
    rows = ({"id": f"i{n}", "embedding": [n, 1.0]} for n in itertools.count())
    client.get_collection("docs").ingest_from(rows, stream_id="endless")
"""


def test_a_program_ends_at_ctrl_c_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path) as url, HttpClient(url) as client:
        docs = client.create_collection("docs", embedding_function=None)
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, url], stderr=subprocess.PIPE, text=True)
        while not docs.count():
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=20)
        assert program.returncode == -signal.SIGINT, errors
        assert errors.rstrip().endswith("KeyboardInterrupt")
        with docs.ingest(stream_id="endless") as stream:
            assert stream.position == docs.count()
            stream.add("last", [1, 2])
        assert docs.count() == stream.position
