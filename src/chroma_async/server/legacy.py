"""The first API over HTTP: requests of old clients become today's calls, and results what those clients can parse."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace
from starlette.types import Receive, Scope

from chroma_async.errors import ChromaError
from chroma_async.protocol import WireRequest, WireResponse
from chroma_async.protocol.v1 import FindCollection, Generation, LegacyRoute, legacy_name
from chroma_async.server.answers import error_response
from chroma_async.server.endpoint import AnsweringEndpoint, Host, header


class LegacyCallEndpoint(AnsweringEndpoint):
    """Answers one route of the first API."""

    def __init__(self, row: LegacyRoute, host: Host) -> None:
        super().__init__(row.route, f"{row.route.method} {row.route.path}", host)
        self._row = row

    async def _answer(self, scope: Scope, receive: Receive) -> WireResponse:
        request = await self._read(scope, receive)
        if self._row.is_addressed_by_id:
            request = await self._with_place(request)
        call = await self._decode(self._row.decode, request)
        result = await self._dispatch(call, receive)
        generation = Generation.of(header(scope, b"user-agent") or "")
        return await self._encode(partial(self._row.encode, generation=generation), result)

    async def _with_place(self, request: WireRequest) -> WireRequest:
        """Say where the collection lives: everything after this treats the call like any other."""
        found = await self._host.dispatch(FindCollection(collection_id=request.path["collection_id"]))
        place = {"tenant": found.tenant, "database": found.database}
        return replace(request, path={**request.path, **place})

    def _refusal(self, error: ChromaError, trace: str | None) -> WireResponse:
        return error_response(error, trace, named=legacy_name(error))
