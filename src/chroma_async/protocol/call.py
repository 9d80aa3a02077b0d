"""A call is one client request as a frozen value; its class knows the route, the encoding and the result.

From the classes come the server's routes, the client's requests and the embedded client's messages: there is one request
model, and `CALLS` (in `chroma_async.protocol`) is its catalogue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar, cast, get_args

import msgspec
import numpy as np
import orjson

from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import Lsn
from chroma_async.protocol.embeddings import EmbeddingBatch, decode_embedding_batch, decode_query_vectors
from chroma_async.protocol.explain import PREFIX, describe, malformed
from chroma_async.protocol.validation import LSN_MAX, U32_MAX

R = TypeVar("R")

Place = Literal["path", "query", "header", "body"]

API_V2 = "/api/v2"
TENANT = API_V2 + "/tenants/{tenant}"
DATABASE = TENANT + "/databases/{database}"
COLLECTIONS = DATABASE + "/collections"
COLLECTION = COLLECTIONS + "/{collection_id}"

JSON: Final = "application/json"
ENCODE_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
KEY_FIELD: Final = "idempotency_key"
KEY_HEADER: Final = "idempotency-key"

LOOK_FOR_DUPLICATES_BYTES_MAX: Final = 16 * 2**10
"""Bodies in which fields that are given twice are looked for; in larger ones the last value counts."""


class Route(msgspec.Struct, frozen=True):
    """Method and path of a call. A `{name}` in the path and the names in `query` are fields of the call."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    status: int = 200

    @property
    def path_fields(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def has_body(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH")


class WireRequest(msgspec.Struct, frozen=True):
    """What travels to the server. Path values and query values are decoded text; `body` is empty, or of `content_type`."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""
    idempotency_key: str | None = None
    """What the header of that name says."""
    content_type: str = JSON


class WireResponse(msgspec.Struct, frozen=True):
    """What travels back. Header names are lower-case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])


class Call(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """One request. Subclasses name their fields, their `route`, and override the codec of the result where it is not
    plain JSON.

    `safe_to_repeat` says whether sending it twice changes no more than sending it once, so that a client may retry;
    `takes_key` whether it has an `idempotency_key`, which makes it so where the server keeps keys; `vectors_may_be_null`
    whether a list of embeddings may have gaps; `writes_catalog` whether the answer names the LSN through which the log was
    known after it, though the result says nothing of it.
    """

    route: ClassVar[Route]
    safe_to_repeat: ClassVar[bool] = False
    vectors_may_be_null: ClassVar[bool] = False
    takes_key: ClassVar[bool] = False
    writes_catalog: ClassVar[bool] = False

    @classmethod
    def place_of(cls, name: str) -> Place:
        """Return where in a request a field travels."""
        if name in cls.route.path_fields:
            return "path"
        if name in cls.route.query:
            return "query"
        return "header" if cls.takes_key and name == KEY_FIELD else "body"

    @classmethod
    def decode(cls, request: WireRequest) -> Self:
        """Return the call that a request means.

        Raises:
            InvalidArgumentError: the body is not JSON, or a query value is not of its type.
            MalformedRequestError: a field is missing or has the wrong type.
        """
        fields: dict[str, Any] = dict(decode_body(cls, request.body)) if cls.route.has_body else {}
        fields.update(_decode_query(cls, request.query))
        fields.update(request.path)
        if cls.takes_key:
            fields[KEY_FIELD] = request.idempotency_key
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the call with these fields, as JSON gives them; unknown ones are ignored.

        Raises:
            MalformedRequestError: a field is missing or has the wrong type.
        """
        try:
            return msgspec.convert(fields, cls, strict=True, dec_hook=partial(_decode_custom, cls))
        except msgspec.ValidationError as error:
            raise malformed(error, fields, cls) from error

    def encode(self) -> WireRequest:
        """Return the request that carries this call; fields that are None are left out.

        Raises:
            InvalidArgumentError: JSON can't say what is in a field.
        """
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        present = {name: value for name, value in fields.items() if value is not None}
        path = {name: str(present.pop(name)) for name in self.route.path_fields}
        query = {name: _query_text(present.pop(name)) for name in self.route.query if name in present}
        key = present.pop(KEY_FIELD, None) if self.takes_key else None
        body = _encode_body(present) if self.route.has_body else b""
        return WireRequest(path=path, query=query, body=body, idempotency_key=key)

    @property
    def patience_seconds(self) -> float:
        """How long the answer may take beyond the time for the work itself, because the call asks to wait."""
        return 0.0

    def validate(self) -> None:
        """Check all that needs no state. The engine does so before it answers, and who answers in its place.

        Raises:
            InvalidArgumentError: what is wrong and what is allowed.
        """

    @classmethod
    def encode_result(cls, result: R) -> WireResponse:
        return WireResponse(status=cls.route.status, body=orjson.dumps(result, option=ENCODE_OPTIONS))

    @classmethod
    def decode_result(cls, response: WireResponse) -> R:
        return cast("R", orjson.loads(response.body))


class EmptyResultCall(Call[None], frozen=True, kw_only=True):
    """A call that is answered by an empty object."""

    @classmethod
    def encode_result(cls, result: None) -> WireResponse:
        return WireResponse(status=cls.route.status, body=b"{}")

    @classmethod
    def decode_result(cls, response: WireResponse) -> None:
        return None


def decode_body(cls: type[Call[Any]], body: bytes) -> Mapping[str, Any]:
    """Return the fields in the body of a request.

    Raises:
        InvalidArgumentError: it is not JSON, or too deep.
        MalformedRequestError: it is no object, or gives a field of the call twice.
    """
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"Failed to parse the request body as JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise MalformedRequestError(f"{PREFIX}invalid type: {describe(decoded)}, expected a map")
    if len(body) <= LOOK_FOR_DUPLICATES_BYTES_MAX:
        _refuse_duplicates(cls, body)
    return cast("dict[str, Any]", decoded)


def _refuse_duplicates(cls: type[Call[Any]], body: bytes) -> None:
    """Refuse a field that is given twice. Only a name that occurs twice in the text makes a second look necessary."""
    quoted = _quoted_fields(cls).findall(body)
    if len(quoted) == len(set(quoted)):
        return
    try:
        decoded = cast("list[tuple[str, Any]]", json.loads(body, object_pairs_hook=_Pairs, parse_int=float))
    except RecursionError:
        raise InvalidArgumentError("Failed to parse the request body as JSON: it is nested too deeply") from None
    names = [name for name, _ in decoded]
    for name in cls.__struct_fields__:
        if names.count(name) > 1:
            raise MalformedRequestError(f"{PREFIX}duplicate field `{name}`")


@cache
def _quoted_fields(cls: type[Call[Any]]) -> re.Pattern[bytes]:
    return re.compile(b'"(?:%b)"' % b"|".join(name.encode() for name in cls.__struct_fields__))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all of its entries."""


def _decode_query(cls: type[Call[Any]], query: Mapping[str, str]) -> Mapping[str, Any]:
    decoded: dict[str, Any] = {}
    for name in cls.route.query:
        if name not in query:
            continue
        try:
            decoded[name] = _decode_query_value(query[name], _field_types(cls)[name])
        except ValueError as error:
            raise InvalidArgumentError(f"Failed to deserialize query string: {name}: {error}") from error
    return decoded


def _decode_query_value(text: str, kind: Any) -> Any:
    """Return a value of the query string; what is wrong with it is said as Rust says it."""
    if kind == int | None:
        return _decode_unsigned(text, U32_MAX)
    if kind == Lsn | None:
        return _decode_unsigned(text, LSN_MAX)
    if kind == float | None:
        return float(text)
    allowed = [variant for part in get_args(kind) for variant in get_args(part)]
    if allowed and text not in allowed:
        raise ValueError(f"unknown variant `{text}`, expected one of {', '.join(f'`{variant}`' for variant in allowed)}")
    return text


def _decode_unsigned(text: str, largest: int) -> int:
    if not text:
        raise ValueError("cannot parse integer from empty string")
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("invalid digit found in string")
    if int(digits[:20]) > largest:
        raise ValueError("number too large to fit in target type")
    return int(digits)


@cache
def _field_types(cls: type[Call[Any]]) -> dict[str, Any]:
    return {info.name: info.type for info in msgspec.structs.fields(cls)}


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decode_custom(call: type[Call[Any]], kind: type[Any], value: object) -> object:
    if kind is EmbeddingBatch:
        return decode_embedding_batch(value, nulls_allowed=call.vectors_may_be_null)
    if kind is np.ndarray:
        return decode_query_vectors(value)
    raise TypeError(f"no decoder for {kind.__name__}")


def _encode_body(fields: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(fields, default=_encode_custom, option=ENCODE_OPTIONS)
    except (TypeError, RecursionError) as error:  # also what is no UTF-8
        raise InvalidArgumentError(f"an argument can't be said in JSON: {error}. arguments={', '.join(fields)}") from error


def _encode_custom(value: object) -> object:
    if isinstance(value, EmbeddingBatch):
        return value.to_wire()
    if isinstance(value, msgspec.Struct):
        return {name: item for name, item in msgspec.structs.asdict(value).items() if item is not None}
    raise TypeError(f"cannot be sent as JSON: {type(value).__name__}")
