"""A compactor that could not open its log for want of handles ended without a word, for the life of the client."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from chroma_async import PersistentClient
from chroma_async.wal import SqliteLog


def test_an_embedded_client_compacts_though_handles_were_short_when_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opens, calls = SqliteLog.open, list[bool]()

    async def second_fails(*arguments: Any, **options: Any) -> SqliteLog:
        calls.append(options.get("create", True))
        if len(calls) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await opens(*arguments, **options)

    monkeypatch.setattr(SqliteLog, "open", second_fails)
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("things", embedding_function=None)
        made.add(["a"], [[1.0, 2.0]], wait="applied", wait_seconds=20)
        assert client.flush("applied", wait_seconds=20).waiting == []
    assert calls == [True, False, False]
    assert sum("compactor.failed" in record.getMessage() for record in caplog.records) == 1
