"""What the machine runs out of: one class for each thing that a caller would do, and the same on the wire."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from pathlib import Path

import pytest
from tests.support.engines import TINY, Records, create_collection

from chroma_async.engine.engine import Engine
from chroma_async.errors import InsufficientStorageError, ResourceLimitError, StorageCorrupt, from_wire
from chroma_async.seams import Seams, SystemClock, ThreadWorkers
from chroma_async.seams.limits import check_room, limit_error
from chroma_async.server.answers import error_response
from chroma_async.wal import SqliteLog


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (os_error(errno.ENOSPC), "disk_full"),
        (os_error(errno.EDQUOT), "disk_full"),
        (os_error(errno.EFBIG), "disk_full"),
        (os_error(errno.EROFS), "read_only"),
        (os_error(errno.EMFILE), "file_handles"),
        (os_error(errno.ENFILE), "file_handles"),
        (os_error(errno.ENOMEM), "memory"),
        (MemoryError(), "memory"),
    ],
)
def test_each_limit_has_a_class_and_a_reason(error: Exception, reason: str, tmp_path: Path) -> None:
    found = limit_error(error, tmp_path)
    assert isinstance(found, InsufficientStorageError if reason == "disk_full" else ResourceLimitError)
    assert found.reason == reason
    assert found.retryable


@pytest.mark.parametrize("error", [os_error(errno.EIO), ValueError("x"), sqlite3.OperationalError("x"), KeyError("x")])
def test_what_is_not_known_is_not_explained(error: Exception, tmp_path: Path) -> None:
    assert limit_error(error, tmp_path) is None


def test_a_limit_is_found_behind_the_error_that_it_caused(tmp_path: Path) -> None:
    """A file that can't be opened for want of handles is not damaged."""
    error = StorageCorrupt("file can't be read")
    error.__cause__ = os_error(errno.EMFILE)
    found = limit_error(error, tmp_path)
    assert found is not None
    assert found.reason == "file_handles"


def test_a_database_that_could_not_be_opened_near_the_limit_of_handles_lacked_them(tmp_path: Path) -> None:
    """Whoever looks afterwards finds some: another thread has closed a file meanwhile."""
    with pytest.raises(sqlite3.OperationalError) as raised:
        sqlite3.connect(tmp_path / "absent" / "db")
    assert raised.value.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN
    assert limit_error(raised.value, tmp_path) is None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 10, hard))
    try:
        found = limit_error(raised.value, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found is not None
    assert found.reason == "file_handles"


def test_sqlite_says_it_by_its_own_codes(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError) as read_only:
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert isinstance(limit_error(full.value, tmp_path), InsufficientStorageError)
    assert isinstance(limit_error(read_only.value, tmp_path), ResourceLimitError)


def test_limits_cross_the_wire_with_the_time_to_come_back() -> None:
    for error, status in ((InsufficientStorageError("no room"), 507), (ResourceLimitError("no handles"), 503)):
        response = error_response(error)
        assert response.status == status
        assert response.headers is not None
        assert response.headers["retry-after"] == "5"
        assert type(from_wire(error.wire_name, status, "no room")) is type(error)


def test_room_is_refused_before_the_reserve_is_touched(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    check_room(tmp_path, 1, 0)
    with pytest.raises(InsufficientStorageError, match="reserve_bytes"):
        check_room(tmp_path, 1, free + 2**30)


class BackwardsClock(SystemClock):
    """A clock that somebody sets back a year at each look."""

    def __init__(self) -> None:
        self._now_ns = 2_000_000_000 * 10**9

    def now_ns(self) -> int:
        self._now_ns -= 365 * 86_400 * 10**9
        return self._now_ns


@pytest.mark.anyio
async def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path) -> None:
    """Order is that of LSNs, waiting is measured by a clock that never goes back; the time of day is only noted."""
    log = await SqliteLog.open(tmp_path)
    workers = ThreadWorkers(2, "reader")
    engine = Engine(tmp_path, log, workers, TINY, Seams(clock=BackwardsClock()))
    await engine.start()
    records = Records(engine, (await create_collection(engine)).id)
    for generation in range(5):
        await records.upsert(["a"], [[float(generation)]], documents=[str(generation)])
        assert (await records.get()).columns.documents == [str(generation)]
    await engine.close()
    workers.close()
    await log.close()
