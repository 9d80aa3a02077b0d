"""The ingest stream: a numbered sequence of lines, each of which writes or deletes one record.

Lines are counted from 0 by whoever makes them, so that a sequence can be sent in any number of requests, and again from any
position: the server remembers through which one it has them, and skips what it has.

A body is NDJSON (one JSON object on each line) or an Arrow IPC stream (one row for each line), with the fields of `Line`.
An answer is NDJSON. Each of its objects is an `Acknowledgement`; the last one says that it is, by `done` or by `error`.

    https://github.com/ndjson/ndjson-spec
    https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, Self

import msgspec
import orjson

from chroma_async.errors import ChromaError, InvalidArgumentError, UnavailableError, from_wire
from chroma_async.model import Lsn, Operation
from chroma_async.protocol.call import COLLECTION, Place, Route, WireRequest, WireResponse
from chroma_async.protocol.records import RecordsCall
from chroma_async.protocol.validation import is_visible_ascii

NDJSON: Final = "application/x-ndjson"
ARROW: Final = "application/vnd.apache.arrow.stream"

NAME_LENGTH_MAX: Final = 255
POSITION_MAX: Final = 2**63 - 1

OnError = Literal["continue", "stop"]


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `embedding` is a list of numbers, or base64 of little-endian float32."""

    id: str
    op: Operation = "upsert"
    embedding: list[float] | str | None = None
    document: str | None = None
    metadata: dict[str, Any] | None = None
    uri: str | None = None


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """A line that was passed over, and why. `line` is its number in the stream, `error` a class of errors by wire name."""

    line: int
    message: str
    error: str = InvalidArgumentError.wire_name


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All lines before `position` are durable, and a reader who asks for `lsn` sees what came of them."""

    position: int
    lsn: int | None = None
    errors: list[LineError] = []
    errors_dropped: int = 0
    """More bad lines, which are not named because too many were waiting for the client to read."""
    done: bool = False
    """The body was read to its end, and this is the last of the answer."""
    error: str | None = None
    status: int = 500
    message: str = ""
    """Why the stream ends here, the rest of the body unread, as an answer to a request would say it; the last one, too."""


class IngestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a part of a stream. `errors` are its lines that were passed over, now or when they were first sent."""

    position: int
    lsn: Lsn | None = None
    errors: list[LineError] = []

    @property
    def stopped_by(self) -> LineError | None:
        """The bad line that the stream stopped at, with `on_error` being "stop": what came before it is durable."""
        return self.errors[-1] if self.errors and self.errors[-1].line == self.position else None


class Ingest(RecordsCall[IngestResult], frozen=True, kw_only=True):
    """A part of a stream: the lines from `position` on, as many as there are in `content`.

    Of NDJSON every line counts, an empty one too, which says nothing; of Arrow every row. `session` is who sends: each run
    of a program has its own. Who sends to a stream last has it, and others are refused.
    """

    route: ClassVar = Route("POST", COLLECTION + "/ingest", query=("stream_id", "session", "position", "on_error"))
    safe_to_repeat: ClassVar = True
    stream_id: str
    session: str
    position: int = 0
    on_error: OnError = "continue"
    content: bytes = b""
    content_type: str = NDJSON

    @classmethod
    def place_of(cls, name: str) -> Place:
        return "header" if name == "content_type" else super().place_of(name)

    def validate(self) -> None:
        super().validate()
        check_stream_name(self.stream_id, "stream_id")
        check_stream_name(self.session, "session")
        if not 0 <= self.position <= POSITION_MAX:
            raise InvalidArgumentError(f"a position is 0 to {POSITION_MAX}. got={self.position}")

    @classmethod
    def decode(cls, request: WireRequest) -> Self:
        fields: dict[str, Any] = {**request.query, **request.path}
        if "position" in fields:
            fields["position"] = _parsed_position(fields["position"])
        if fields.get("on_error", "continue") not in ("continue", "stop"):
            raise InvalidArgumentError(f"on_error is `continue` or `stop`. got={fields['on_error'][:80]!r}")
        known = {name: value for name, value in fields.items() if name in cls.__struct_fields__}
        return cls.from_fields({**known, "content": request.body, "content_type": request.content_type})

    def encode(self) -> WireRequest:
        path = {name: str(getattr(self, name)) for name in self.route.path_fields}
        query = {name: str(getattr(self, name)) for name in self.route.query}
        return WireRequest(path=path, query=query, body=self.content, content_type=self.content_type)

    @classmethod
    def encode_result(cls, result: IngestResult) -> WireResponse:
        last = Acknowledgement(position=result.position, lsn=result.lsn, errors=result.errors, done=True)
        return WireResponse(status=cls.route.status, body=encode_acknowledgement(last))

    @classmethod
    def decode_result(cls, response: WireResponse) -> IngestResult:
        """Return the sum of the acknowledgements.

        Raises:
            ChromaError: the stream ended early, and why; but for a bad line that it stopped at, which the result names.
        """
        position, lsn, errors = 0, None, list[LineError]()
        for text in response.body.splitlines():
            acknowledged = _DECODER.decode(text)
            position, lsn = acknowledged.position, acknowledged.lsn if acknowledged.lsn is not None else lsn
            errors.extend(acknowledged.errors)
            result = IngestResult(position=position, lsn=None if lsn is None else Lsn(lsn), errors=errors)
            if acknowledged.error is not None and result.stopped_by is None:
                raise stream_error(acknowledged)
            if acknowledged.done or acknowledged.error is not None:
                return result
        raise UnavailableError(f"the answer to a stream ended early: send the rest again. position={position}")


class GetIngestPosition(RecordsCall[IngestResult], frozen=True, kw_only=True):
    """Through which line the server has a stream; 0 for one that it does not know, or knows no more."""

    route: ClassVar = Route("GET", COLLECTION + "/ingest", query=("stream_id",))
    safe_to_repeat: ClassVar = True
    stream_id: str

    def validate(self) -> None:
        super().validate()
        check_stream_name(self.stream_id, "stream_id")

    @classmethod
    def decode(cls, request: WireRequest) -> Self:
        if "stream_id" not in request.query:
            raise InvalidArgumentError("Failed to deserialize query string: missing field `stream_id`")
        return super().decode(request)

    @classmethod
    def encode_result(cls, result: IngestResult) -> WireResponse:
        return WireResponse(status=cls.route.status, body=orjson.dumps({"position": result.position, "lsn": result.lsn}))

    @classmethod
    def decode_result(cls, response: WireResponse) -> IngestResult:
        return _RESULTS.decode(response.body)


# Made before there are threads: msgspec's first look into a type must not be taken by two at once.
_DECODER: Final = msgspec.json.Decoder(Acknowledgement)
_RESULTS: Final = msgspec.json.Decoder(IngestResult)
_ENCODER: Final = msgspec.json.Encoder()


def encode_acknowledgement(acknowledged: Acknowledgement) -> bytes:
    """Return the line of an answer."""
    return _ENCODER.encode(acknowledged) + b"\n"


def stream_error(last: Acknowledgement) -> ChromaError:
    """Return the error that ended a stream."""
    return from_wire(last.error or "", last.status, last.message)


def _parsed_position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(POSITION_MAX))):
        raise InvalidArgumentError(f"a position is a number of lines, 0 to {POSITION_MAX}. got={text[:80]!r}")
    return int(text)


def check_stream_name(name: str, field: str) -> None:
    """Check what names a stream or a session.

    Raises:
        InvalidArgumentError: it could not stand in a URL and in the log as it is, or is too long.
    """
    if len(name) > NAME_LENGTH_MAX or not is_visible_ascii(name):
        raise InvalidArgumentError(
            f"a {field} has 1 to {NAME_LENGTH_MAX} visible ASCII characters, without spaces. got={name[:80]!r}"
        )
