"""Cut the body of an ingest stream, as it comes, into parts that can be decoded by themselves."""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

from chroma_async.errors import InvalidArgumentError, PayloadTooLargeError

PART_BYTES_MAX: Final = 4 * 2**20
"""Of a part that is more than one line, or one Arrow message."""

PART_LINES_MAX: Final = 8_192


@dataclass(frozen=True, slots=True)
class Piece:
    """A part: its bytes, and how many lines they are."""

    content: bytes
    lines: int


class Cutter(Protocol):
    """Takes a body piece by piece, and gives it back part by part."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that could be cut now."""
        ...

    def feed(self, data: bytes) -> None:
        """Take what came next.

        Raises:
            ChromaError: it can't be read on from here; what came before can still be cut.
        """
        ...

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            ChromaError: it must not end here; what came before can still be cut.
        """
        ...

    def cut(self) -> Piece | None:
        """Return the next part; None for now."""
        ...


COUNT_BYTES: Final = 64 * 2**10
"""Line ends are counted in so many bytes at a time: a part of short lines ends long before `PART_BYTES_MAX`."""


class LineCutter:
    """Cuts NDJSON, behind line ends."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._buffer = bytearray()
        self.waiting_bytes = 0

    def feed(self, data: bytes) -> None:
        end = data.rfind(b"\n") + 1
        if end:
            self._check_line(data.index(b"\n"))
            self._buffer += data[:end]
            self.waiting_bytes = len(self._buffer)
        self._check_line(len(data) - end)
        self._buffer += data[end:]

    def _check_line(self, more_bytes: int) -> None:
        if len(self._buffer) - self.waiting_bytes + more_bytes > self._line_bytes_max:
            raise PayloadTooLargeError(f"a line of the stream is too long. bytes_max={self._line_bytes_max}")

    def end(self) -> None:
        """The last line needs no line end."""
        self.waiting_bytes = len(self._buffer)

    def cut(self) -> Piece | None:
        if not self.waiting_bytes:
            return None
        end, lines = self._counted(self._part_end())
        content = bytes(memoryview(self._buffer)[:end])
        del self._buffer[:end]
        self.waiting_bytes -= end
        return Piece(content, lines + (not content.endswith(b"\n")))

    def _part_end(self) -> int:
        """Where a part ends that has not too many bytes, or one line."""
        buffer, end = self._buffer, self.waiting_bytes
        if end <= PART_BYTES_MAX:
            return end
        return buffer.rfind(b"\n", 0, PART_BYTES_MAX) + 1 or buffer.find(b"\n", 0, end) + 1 or end

    def _counted(self, end: int) -> tuple[int, int]:
        """Where a part ends that has not too many lines either, and how many line ends are in it."""
        buffer, lines, place = self._buffer, 0, 0
        while place < end:
            step = min(place + COUNT_BYTES, end)
            found = buffer.count(b"\n", place, step)
            if lines + found > PART_LINES_MAX:
                for _ in range(PART_LINES_MAX - lines):
                    place = buffer.index(b"\n", place) + 1
                return place, PART_LINES_MAX
            lines, place = lines + found, step
        return end, lines


DICTIONARY_BYTES_MAX: Final = 4 * 2**20
"""Of all dictionaries of a stream: each part repeats them."""

_CONTINUES: Final = 0xFFFFFFFF
_END: Final = struct.pack("<II", _CONTINUES, 0)
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
"""`MessageHeader` in format/Message.fbs of Arrow."""


@dataclass(frozen=True, slots=True)
class _Message:
    """An encapsulated message: its bytes, its kind, the rows of a batch, and the dictionary that it makes or adds to."""

    data: bytes
    kind: int
    rows: int = 0
    dictionary: int = 0
    is_delta: bool = False


class ArrowCutter:
    """Cuts an Arrow IPC stream, between batches. Each part begins with the schema and the dictionaries that it needs.

    Of the metadata of a message, a flatbuffer, only lengths and kinds are looked at here.

        https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
        https://flatbuffers.dev/internals/
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._buffer = bytearray()
        self._next_bytes: int | None = None
        """Of the message at the start of the buffer, where they are known."""
        self._schema: bytes | None = None
        self._dictionaries: dict[int, list[bytes]] = {}
        self._dictionary_bytes: dict[int, int] = {}
        self._dictionary_bytes_sum = 0
        self._messages: deque[_Message] = deque()
        self._is_closed = False
        self.waiting_bytes = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._is_whole():
                message = bytes(memoryview(self._buffer)[: self._next_bytes])
                del self._buffer[: self._next_bytes]
                self._next_bytes = None
                self._take(message)
        except struct.error as error:
            raise _damaged() from error

    def end(self) -> None:
        if self._buffer:
            raise InvalidArgumentError(f"the Arrow stream ends in the middle of a message. bytes={len(self._buffer)}")

    def _is_whole(self) -> bool:
        """Whether there is a message at the start of the buffer, all of it."""
        if self._buffer and self._is_closed:
            raise InvalidArgumentError("something follows the end of the Arrow stream: send one stream in a body")
        if self._next_bytes is None:
            self._next_bytes = self._length()
        return self._next_bytes is not None and len(self._buffer) >= self._next_bytes

    def _length(self) -> int | None:
        """Return the bytes of the message at the start of the buffer; None while its metadata are not there."""
        if len(self._buffer) < len(_END):
            return None
        marker, metadata_bytes = _unpacked("<I", self._buffer, 0), _unpacked("<I", self._buffer, 4)
        if marker != _CONTINUES:
            raise InvalidArgumentError("this is no Arrow IPC stream, or one in the format before Arrow 0.15")
        head = len(_END) + metadata_bytes
        self._check_size(head)
        if not metadata_bytes or len(self._buffer) < head:
            return None if metadata_bytes else head
        length = head + _Table.root(bytes(self._buffer[len(_END) : head])).number(3, "<q")
        if length < head:
            raise _damaged()
        self._check_size(length)
        return length

    def _check_size(self, length: int) -> None:
        if length > self._message_bytes_max:
            raise PayloadTooLargeError(
                "a message of the Arrow stream is too long: write batches of fewer rows. "
                f"bytes={length} bytes_max={self._message_bytes_max}"
            )

    def _take(self, data: bytes) -> None:
        if data == _END:
            self._is_closed = True
            return
        message = _parsed(data)
        if (message.kind == _SCHEMA) != (self._schema is None):
            raise InvalidArgumentError("an Arrow stream begins with a schema, and has one")
        if message.kind == _SCHEMA:
            self._schema = data
            return
        if message.kind == _BATCH:
            self.waiting_bytes += len(data)
            self._messages.append(message)
            return
        before = self._dictionary_bytes.get(message.dictionary, 0)
        now = len(data) + (before if message.is_delta else 0)
        self._dictionary_bytes[message.dictionary] = now
        self._dictionary_bytes_sum += now - before
        if self._dictionary_bytes_sum > DICTIONARY_BYTES_MAX:
            raise PayloadTooLargeError(
                f"the dictionaries of the Arrow stream are too large: send plain strings. bytes_max={DICTIONARY_BYTES_MAX}"
            )
        if self.waiting_bytes:
            self.waiting_bytes += len(data)
            self._messages.append(message)  # those that wait have the dictionaries of before
        else:
            self._remember(message)

    def cut(self) -> Piece | None:
        if not self.waiting_bytes:
            return None
        chosen = [self._schema or b"", *chain.from_iterable(self._dictionaries.values())]
        size = lines = 0
        while self._messages and (not size or (size < PART_BYTES_MAX and lines < PART_LINES_MAX)):
            message = self._next()
            chosen.append(message.data)
            size += len(message.data)
            lines += message.rows
        while self._messages and self._messages[0].kind == _DICTIONARY:
            self._next()  # the next part begins with it
        return Piece(b"".join((*chosen, _END)), lines)

    def _next(self) -> _Message:
        message = self._messages.popleft()
        self.waiting_bytes -= len(message.data)
        if message.kind == _DICTIONARY:
            self._remember(message)
        return message

    def _remember(self, message: _Message) -> None:
        known = self._dictionaries.setdefault(message.dictionary, [])
        if not message.is_delta:
            known.clear()
        known.append(message.data)


def _damaged() -> InvalidArgumentError:
    return InvalidArgumentError("this is no Arrow IPC stream, or a damaged one")


def _parsed(data: bytes) -> _Message:
    """Look into the metadata of a message.

    Raises:
        InvalidArgumentError: it is of a kind that streams of lines have not.
        struct.error: it is damaged.
    """
    table = _Table.root(memoryview(data)[len(_END) :])
    kind = table.number(1, "<B")
    if kind == _SCHEMA:
        return _Message(data, kind)
    header = table.table(2)
    batch = header.table(1) if kind == _DICTIONARY else header
    if kind not in (_DICTIONARY, _BATCH):
        raise InvalidArgumentError(f"an Arrow stream of lines has batches and dictionaries alone. kind={kind}")
    if batch.has(3):
        raise InvalidArgumentError("compressed Arrow streams are not taken: write it without compression")
    if kind == _DICTIONARY:
        return _Message(data, kind, dictionary=header.number(0, "<q"), is_delta=bool(header.number(2, "<B")))
    rows = batch.number(0, "<q")
    if rows < 0:
        raise _damaged()
    return _Message(data, kind, rows=rows)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a flatbuffer: fields by number, each at an offset that the table's vtable has, 0 for an absent one."""

    data: bytes | memoryview
    position: int

    @classmethod
    def root(cls, data: bytes | memoryview) -> _Table:
        return cls(data, _unpacked("<I", data, 0))

    def _place(self, field: int) -> int:
        vtable = self.position - _unpacked("<i", self.data, self.position)
        entry = 4 + 2 * field
        offset = _unpacked("<H", self.data, vtable + entry) if entry < _unpacked("<H", self.data, vtable) else 0
        return self.position + offset if offset else 0

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return _unpacked(form, self.data, place) if place else 0

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if not place:
            raise struct.error("a table is missing")
        return _Table(self.data, place + _unpacked("<I", self.data, place))


def _unpacked(form: str, data: bytes | bytearray | memoryview, place: int) -> int:
    if place < 0:
        raise struct.error("a negative place")
    return int(struct.unpack_from(form, data, place)[0])
