"""How much one client may ask for: requests in a second, and requests at the same time.

A client is the identity that was authenticated, else the address (of IPv6 the network of 64 bits that one customer usually
has). Each worker counts for itself. What is kept of a client is small; those that were here longest ago are forgotten.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from chroma_async.errors import RateLimitError
from chroma_async.server.answers import error_response, refuse
from chroma_async.server.observe import REQUEST_ID, SENDER
from chroma_async.server.peers import client_of, source_of
from chroma_async.server.routing import PROBE_PATHS
from chroma_async.settings import ServerSettings

CLIENTS_MAX: Final = 10_000

_UNLIMITED: Final = frozenset(path.encode() for path in PROBE_PATHS)


class Bucket:
    """Tokens of one client: `rate` a second come in, no more than one second's at once; a request takes one."""

    __slots__ = ("_at", "_rate", "_tokens", "_tokens_max")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens_max = max(1.0, rate)
        self._tokens = self._tokens_max
        self._at = now

    def take(self, now: float) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        self._tokens = min(self._tokens_max, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate


class Limits:
    """Refuses what is too much with status 429, and says when to come back."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._rate = settings.requests_per_second
        self._concurrency = settings.concurrency
        self._timeout_seconds = settings.body_timeout_seconds
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._running: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["raw_path"] in _UNLIMITED:
            await self._app(scope, receive, send)
            return
        client = client_key(scope)
        refusal = self._refusal(client)
        if refusal is not None:
            response = error_response(refusal, scope.get(REQUEST_ID))
            await refuse(scope, receive, send, response, timeout_seconds=self._timeout_seconds)
            return
        self._running[client] = self._running.get(client, 0) + 1
        try:
            await self._app(scope, receive, send)
        finally:
            left = self._running[client] - 1
            if left:
                self._running[client] = left
            else:
                del self._running[client]

    def _refusal(self, client: str) -> RateLimitError | None:
        if self._concurrency is not None and self._running.get(client, 0) >= self._concurrency:
            return RateLimitError(
                f"too many requests at the same time; wait for some of them. concurrency={self._concurrency}"
            )
        if self._rate is None:
            return None
        now = self._clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = Bucket(self._rate, now)
            if len(self._buckets) > CLIENTS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        seconds = bucket.take(now)
        if not seconds:
            return None
        message = f"too many requests; send fewer. requests_per_second={self._rate:g}"
        return RateLimitError(message, retry_after_seconds=math.ceil(seconds))


def client_key(scope: Scope) -> str:
    """Whom a request is counted for: identities and addresses never meet in one name."""
    sender = scope.get(SENDER)
    return source_of(client_of(scope)) if sender is None else f"identity {sender.name}"
