"""Calls about the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import orjson
from msgspec.structs import replace

from chroma_async.protocol.call import API_V2, Call, Route, WireResponse

OPERATIONS_HEADER: Final = "chroma-async-idempotency"
"""Of the answer to `GetIdentity`, from a server that carries out a write with an Idempotency-Key once."""


class Heartbeat(Call[int], frozen=True, kw_only=True):
    """Nanoseconds since 1970 on the server's clock; public."""

    route: ClassVar = Route("GET", API_V2 + "/heartbeat")
    safe_to_repeat: ClassVar = True

    @classmethod
    def encode_result(cls, result: int) -> WireResponse:
        return WireResponse(status=200, body=orjson.dumps({"nanosecond heartbeat": result}))

    @classmethod
    def decode_result(cls, response: WireResponse) -> int:
        return cast("int", orjson.loads(response.body)["nanosecond heartbeat"])


class GetVersion(Call[str], frozen=True, kw_only=True):
    """Version of the API as Chroma's server names it; public."""

    route: ClassVar = Route("GET", API_V2 + "/version")
    safe_to_repeat: ClassVar = True


class CheckHealth(Call[dict[str, bool]], frozen=True, kw_only=True):
    """Whether the server can read and write."""

    route: ClassVar = Route("GET", API_V2 + "/healthcheck")
    safe_to_repeat: ClassVar = True


class GetPreflight(Call[dict[str, Any]], frozen=True, kw_only=True):
    """Limits and abilities that a client asks for before its first write."""

    route: ClassVar = Route("GET", API_V2 + "/pre-flight-checks")
    safe_to_repeat: ClassVar = True


@dataclass(frozen=True, slots=True)
class Identity:
    user_id: str
    tenant: str | None
    databases: list[str] | None


class GetIdentity(Call[Identity], frozen=True, kw_only=True):
    """Who the caller is, and which tenant and databases that gives."""

    route: ClassVar = Route("GET", API_V2 + "/auth/identity")
    safe_to_repeat: ClassVar = True

    @classmethod
    def encode_result(cls, result: Identity) -> WireResponse:
        """What the server keeps of keys is said here, where clients ask first."""
        answer = super().encode_result(result)
        return replace(answer, headers={OPERATIONS_HEADER: "1"})

    @classmethod
    def decode_result(cls, response: WireResponse) -> Identity:
        fields = cast("dict[str, Any]", orjson.loads(response.body))
        return Identity(fields["user_id"], fields["tenant"], fields["databases"])


class Reset(Call[bool], frozen=True, kw_only=True):
    """Delete everything; refused unless the server allows it."""

    route: ClassVar = Route("POST", API_V2 + "/reset")
    writes_catalog: ClassVar = True

    @classmethod
    def decode(cls, request: object) -> Reset:
        return cls()
