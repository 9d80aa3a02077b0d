"""A request ends when its client has gone, and is no failure of the server."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from chroma_async.server import endpoint
from chroma_async.server.body import ClientDisconnect

pytestmark = pytest.mark.anyio


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def waiting_request() -> None:
    with endpoint._Patience(gone):
        await asyncio.sleep(20)


async def test_request_of_a_client_that_has_gone_ends_without_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be its connection's own task: the log had a traceback for each client that gave up."""
    monkeypatch.setattr(endpoint, "PATIENCE_SECONDS", 0.01)
    task = asyncio.create_task(waiting_request())
    with pytest.raises(ClientDisconnect):
        await task
    assert not task.cancelled()
    assert task.cancelling() == 0


async def test_request_of_a_client_that_has_gone_is_cancelled_if_somebody_else_does_so_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE_SECONDS", 20)
    patience = endpoint._Patience(gone)

    async def cancelled_twice() -> None:
        with patience:
            await asyncio.sleep(20)

    task = asyncio.create_task(cancelled_twice())
    await asyncio.sleep(0)
    await patience._watch()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_request_that_is_cancelled_by_somebody_else_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE_SECONDS", 20)
    task = asyncio.create_task(waiting_request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
