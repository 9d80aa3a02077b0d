"""Ingest streams over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.types import Receive, Scope

from chroma_async.errors import UnsupportedMediaTypeError
from chroma_async.protocol import Ingest, WireRequest, WireResponse
from chroma_async.protocol.ingest import ARROW, NDJSON
from chroma_async.server.body import discard_body, read_body
from chroma_async.server.endpoint import Endpoint, Host, decode_query, decode_segment
from chroma_async.server.observe import BODY_BYTES

CONTENT_TYPES: Final[Mapping[str, str]] = {
    NDJSON: NDJSON,
    "application/ndjson": NDJSON,
    "application/jsonl": NDJSON,
    "application/json": NDJSON,
    ARROW: ARROW,
}
"""What a body may say that it is, and what that is to us. One JSON object is NDJSON of one line."""


class IngestEndpoint(Endpoint):
    """Answers parts of streams."""

    def __init__(self, host: Host) -> None:
        super().__init__(Ingest.route, Ingest.__name__, host)

    async def _answer(self, scope: Scope, receive: Receive) -> WireResponse:
        if self._host.refusal_of is not None:
            refusal = self._host.refusal_of(Ingest)
            if refusal is not None:
                await discard_body(receive, timeout_seconds=self._host.settings.body_timeout_seconds)
                raise refusal
        call = Ingest.decode(await self._read(scope, receive))
        response = Ingest.encode_result(await self._dispatch(call, receive))
        return replace(response, headers={"content-type": NDJSON})

    async def _read(self, scope: Scope, receive: Receive) -> WireRequest:
        settings = self._host.settings
        body = await read_body(receive, bytes_max=settings.body_bytes_max, timeout_seconds=settings.body_timeout_seconds)
        scope[BODY_BYTES] = len(body)
        kind = content_type(scope)
        segments: list[str] = scope["path_segments"]
        path = {name: decode_segment(text) for name, text in zip(self._path_fields, segments, strict=True)}
        query = {"stream_id": secrets.token_hex(16), "session": secrets.token_hex(16), **decode_query(scope)}
        return WireRequest(path=path, query=query, body=body, content_type=kind)


def content_type(scope: Scope) -> str:
    """Return what kind of stream a body is.

    Raises:
        UnsupportedMediaTypeError: none of ours.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    text = next((value for name, value in headers if name == b"content-type"), NDJSON.encode())
    kind = CONTENT_TYPES.get(text.partition(b";")[0].strip().lower().decode("latin-1"))
    if kind is None:
        raise UnsupportedMediaTypeError(f"a stream is sent as `Content-Type: {NDJSON}` or `{ARROW}`")
    return kind
