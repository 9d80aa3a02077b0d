"""Promises that make sense only for sync clients: threads, forks, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from chroma_async import EphemeralClient, HttpClient, PersistentClient, errors

FORGOTTEN = """
import sys
from chroma_async import PersistentClient
client = PersistentClient(sys.argv[1])
collection = client.get_or_create_collection("kept")
collection.add(["a"], [[1.0, 2.0]])
print(collection.count())
{end}
"""


def letters(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


def wait_for_threads(count: int) -> None:
    """A closed database's thread ends a moment after it has answered."""
    wait_until(lambda: threading.active_count() <= count, tell=threading.enumerate)


def test_a_constructor_connects_as_chromas_does() -> None:
    with pytest.raises(errors.ServerUnreachableError, match="can't connect"):
        HttpClient("127.0.0.1", 1, retries=0)


def test_one_client_serves_many_threads() -> None:
    with EphemeralClient() as client, ThreadPoolExecutor(8) as threads:
        collection = client.create_collection("busy")
        done = [threads.submit(collection.add, f"id-{number}", [number, 1]) for number in range(100)]
        for future in done:
            future.result()
        assert collection.count() == 100


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del client, collection"])
def test_a_program_that_forgets_to_close_still_ends(tmp_path: Path, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN.format(end=end), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    with PersistentClient(tmp_path / "data") as client:
        assert client.get_collection("kept").count() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_open_its_own_client(tmp_path: Path) -> None:
    code = """
import os, sys
from chroma_async import PersistentClient
client = PersistentClient(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        client.heartbeat()
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.heartbeat() > 0)
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "this client was opened before a fork; open another one in the child process\n7 True\n"


def test_an_async_embedding_function_keeps_its_event_loop_between_calls() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        loops.append(asyncio.get_running_loop())
        return letters(texts)

    with EphemeralClient() as client:
        collection = client.create_collection("async", embedding_function=embed)
        collection.add("a", documents="text")
        collection.query(query_texts="text")
    assert len(loops) == 2
    assert loops[0] is loops[1]


def test_a_sync_client_works_inside_a_running_event_loop() -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        return letters(texts)

    async def main() -> int:
        with EphemeralClient() as client:
            collection = client.create_collection("inside", embedding_function=embed)
            collection.add(["a", "b"], documents=["x", "yy"])
            return collection.count()

    assert asyncio.run(main()) == 2


def test_a_forgotten_client_is_closed_in_order(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    for _ in range(5):
        EphemeralClient().create_collection("brief").add("a", [1, 2])
    gc.collect()
    wait_for_threads(before)
    assert caplog.records == []


def test_closing_ends_the_background_threads() -> None:
    before = threading.active_count()
    with EphemeralClient() as client:
        client.create_collection("brief")
        assert threading.active_count() > before
    wait_for_threads(before)


def test_a_directory_that_can_t_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"the data directory can't be made: Not a directory: .*file.data"):
        PersistentClient(tmp_path / "file" / "data")
