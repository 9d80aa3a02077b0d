"""Calls over HTTP."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from functools import partial
from ssl import SSLContext
from typing import TypeVar

import httpx
from msgspec.structs import replace

from chroma_async.client._async.http_feed import AsyncHttpFeed, opened_feed
from chroma_async.client.address import Address
from chroma_async.client.answers import Failure, explain_silence, read_failure, read_result
from chroma_async.client.colours import async_sleep
from chroma_async.client.pool import AsyncPools
from chroma_async.client.retry import RetryPolicy
from chroma_async.client.session import Session
from chroma_async.client.single import Single
from chroma_async.client.split import encoded_parts
from chroma_async.protocol import Call, WireRequest
from chroma_async.protocol.call import KEY_HEADER
from chroma_async.protocol.changes import WatchCall
from chroma_async.protocol.ingest import NDJSON
from chroma_async.protocol.records import lsn_of
from chroma_async.protocol.system import OPERATIONS_HEADER

R = TypeVar("R")

FEED_SLACK_SECONDS = 15.0


class AsyncHttpTransport(Single):
    """Sends calls to a server, over connections that are kept and shared.

    A request is sent again when nothing of it had left (no connection), when the server refused it (429), and, for calls
    that are safe to repeat, when the connection broke or a hop answered 502, 503 or 504; `RetryPolicy` says how often.
    A read whose `min_lsn` our server has waited for in vain is not: that would wait again.
    Writes of records are safe to repeat where the server says that it keeps their keys, as ours does. Those whose body would
    pass 40 MiB travel in several requests.
    """

    def __init__(
        self,
        address: Address,
        *,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
        retry: RetryPolicy,
        limits: httpx.Limits,
        verify: bool | SSLContext = True,
    ) -> None:
        self._address = address
        self._headers = {**headers, "Accept": "application/json"}
        self._timeout = timeout
        self._retry = retry
        self._limits = limits
        self._verify = verify
        self._pools = AsyncPools(self._connections)
        self._server_keeps_keys = False
        self.session = Session()

    async def open(self) -> None:
        await self._pools.own()

    async def send(self, call: Call[R]) -> R:
        """Return the result of the call; of the last part, if a write had to be cut.

        Raises:
            ServerUnreachableError: no answer, or none of the server; the message names the hop and the cause.
            ChromaError: the error that the server answered.
        """
        parts = encoded_parts(self.session.reading(call))
        with self.session.forgetting():
            results = [await self._send_part(part, request) for part, request in parts]
        return results[-1]

    async def open_feed(self, call: WatchCall) -> AsyncHttpFeed:
        """Open a feed, as `send` answers a call, but without trying again: whoever follows it does that."""
        pool = await self._pools.own()
        request = call.encode()
        timeout = _patient(self._timeout, call.choice().heartbeat_seconds)
        opening = pool.build_request(
            call.route.method, self._address.url(call.route, request), headers={"Accept": NDJSON}, timeout=timeout
        )
        try:
            response = await pool.send(opening, stream=True)
        except httpx.RequestError as error:
            failure = explain_silence(error, self._address, timeout, safe_to_repeat=True)
            raise failure.error from error
        return await opened_feed(pool, response, partial(explain_silence, address=self._address, timeout=timeout))

    async def aclose(self) -> None:
        await self._pools.aclose()

    async def _send_part(self, call: Call[R], request: WireRequest) -> R:
        attempt = 0
        if call.takes_key and request.idempotency_key is None:
            request = replace(request, idempotency_key=uuid.uuid4().hex)
        while True:
            outcome = await self._attempt(call, request)
            if isinstance(outcome, httpx.Response):
                self.session.saw(lsn_of(outcome.headers))
                return read_result(call, outcome)
            wait = self._retry.wait_seconds(attempt, outcome.asked_seconds, random.random())
            if wait is None or not outcome.repeatable:
                raise outcome.error from outcome.cause
            await async_sleep(wait)
            attempt += 1

    async def _attempt(self, call: Call[R], request: WireRequest) -> httpx.Response | Failure:
        pool = await self._pools.own()
        headers = {"Content-Type": request.content_type} if call.route.has_body else {}
        if request.idempotency_key is not None:
            headers[KEY_HEADER] = request.idempotency_key
        safe_to_repeat = call.safe_to_repeat or (call.takes_key and self._server_keeps_keys)
        url = self._address.url(call.route, request)
        timeout = _extended(self._timeout, call.patience_seconds)
        sending = pool.build_request(call.route.method, url, content=request.body or None, headers=headers, timeout=timeout)
        try:
            response = await pool.send(sending)
        except httpx.RequestError as error:
            return explain_silence(error, self._address, timeout, safe_to_repeat=safe_to_repeat)
        self._server_keeps_keys = self._server_keeps_keys or OPERATIONS_HEADER in response.headers
        return response if response.is_success else read_failure(response, safe_to_repeat=safe_to_repeat)

    def _connections(self) -> httpx.AsyncClient:
        socket = self._address.unix_socket
        transport = None if socket is None else httpx.AsyncHTTPTransport(uds=socket, limits=self._limits)
        return httpx.AsyncClient(
            headers=self._headers, timeout=self._timeout, limits=self._limits, verify=self._verify, transport=transport
        )


def _patient(timeout: httpx.Timeout, heartbeat_seconds: float) -> httpx.Timeout:
    """A timeout for answers that never end: a heartbeat or two may be late."""
    read = FEED_SLACK_SECONDS + 2 * heartbeat_seconds
    return httpx.Timeout(connect=timeout.connect, read=read, write=timeout.write, pool=timeout.pool)


def _extended(timeout: httpx.Timeout, seconds: float) -> httpx.Timeout:
    """A timeout that leaves the server this much longer for its answer."""
    if not seconds or timeout.read is None:
        return timeout
    return httpx.Timeout(connect=timeout.connect, read=timeout.read + seconds, write=timeout.write, pool=timeout.pool)
