"""Cut the body of an ingest stream, as it comes, into parts that can be decoded by themselves."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from chroma_async.errors import InvalidArgumentError, PayloadTooLargeError

PART_BYTES_MAX: Final = 2**20
"""Of a part that is more than one line, or one Arrow message."""

PART_LINES_MAX: Final = 8_192


class Piece(Struct, frozen=True):
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

SMALL_BYTES: Final = 1_024
SMALL_PIECES_MAX: Final = 1_024
"""When so many pieces of a body are smaller than that, those that came meanwhile are joined."""

_CONTINUES: Final = 0xFFFFFFFF
_END: Final = struct.pack("<II", _CONTINUES, 0)
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
"""`MessageHeader` in format/Message.fbs of Arrow."""


class _Message(Struct, frozen=True):
    """An encapsulated message: its bytes, as they came, and how many they are; its kind, the rows of a batch, and the
    dictionary that it makes or adds to.
    """

    pieces: Sequence[bytes | memoryview]
    size_bytes: int
    kind: int
    rows: int = 0
    dictionary: int = 0
    is_delta: bool = False

    def apart(self) -> _Message:
        """The message without the rest of the body that came with it: to be kept for long, or beside many others."""
        return replace(self, pieces=(b"".join(self.pieces),))


class ArrowCutter:
    """Cuts an Arrow IPC stream, between batches. Each part begins with the schema and the dictionaries that it needs.

    Of the metadata of a message, a flatbuffer, only lengths and kinds are looked at here.

        https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
        https://flatbuffers.dev/internals/
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._pieces: deque[bytes | memoryview] = deque()
        """Of the body, as they came: they are joined once, in a part."""
        self._held_bytes = 0
        self._loose_pieces = self._small_pieces = 0
        """How many came since some were joined, and how many of them are small."""
        self._head: bytes | None = None
        """Prefix and metadata of the message that the pieces begin with, where they are there."""
        self._next_bytes = 0
        """Of that message."""
        self._schema: _Message | None = None
        self._dictionaries: dict[int, list[_Message]] = {}
        self._dictionary_bytes: dict[int, int] = {}
        self._dictionary_bytes_sum = 0
        self._messages: deque[_Message] = deque()
        self._is_closed = False
        self.waiting_bytes = 0

    def feed(self, data: bytes) -> None:
        if data:
            self._add(data)
        try:
            while (head := self._whole()) is not None:
                self._head = None
                self._take(head, self._taken(self._next_bytes))
        except struct.error as error:
            raise _damaged() from error

    def _add(self, data: bytes) -> None:
        """Add a piece; many small ones become a larger one, since each takes room of its own."""
        self._pieces.append(data)
        self._held_bytes += len(data)
        self._loose_pieces += 1
        self._small_pieces += len(data) < SMALL_BYTES
        if self._small_pieces >= SMALL_PIECES_MAX:
            last = [self._pieces.pop() for _ in range(min(self._loose_pieces, len(self._pieces)))]
            self._pieces.append(b"".join(reversed(last)))
            self._loose_pieces = self._small_pieces = 0

    def end(self) -> None:
        if self._held_bytes:
            raise InvalidArgumentError(f"the Arrow stream ends in the middle of a message. bytes={self._held_bytes}")

    def _whole(self) -> bytes | None:
        """The head of the message that the pieces begin with; None while not all of it is there."""
        if self._held_bytes and self._is_closed:
            raise InvalidArgumentError("something follows the end of the Arrow stream: send one stream in a body")
        if self._head is None:
            self._look_ahead()
        return self._head if self._held_bytes >= self._next_bytes else None

    def _look_ahead(self) -> None:
        """Look at the head of the next message, if all of that is there."""
        if self._held_bytes < len(_END):
            return
        prefix = self._first(len(_END))
        marker, metadata_bytes = _unpacked("<I", prefix, 0), _unpacked("<I", prefix, 4)
        if marker != _CONTINUES:
            raise InvalidArgumentError("this is no Arrow IPC stream, or one in the format before Arrow 0.15")
        length = len(_END) + metadata_bytes
        self._check_size(length)
        if self._held_bytes < length:
            return
        head = self._first(length)
        body_bytes = _Table.root(memoryview(head)[len(_END) :]).number(3, "<q") if metadata_bytes else 0
        if body_bytes < 0:
            raise _damaged()
        self._check_size(length + body_bytes)
        self._head, self._next_bytes = head, length + body_bytes

    def _first(self, count: int) -> bytes:
        """The first bytes of what is there, which stay there."""
        taken = self._taken(count)
        self._pieces.extendleft(reversed(taken))
        self._held_bytes += count
        return b"".join(taken)

    def _taken(self, count: int) -> list[bytes | memoryview]:
        """Take away so many bytes, which are there."""
        self._held_bytes -= count
        taken: list[bytes | memoryview] = []
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(memoryview(piece)[count:])
                piece = memoryview(piece)[:count]
            taken.append(piece)
            count -= len(piece)
        return taken

    def _check_size(self, length: int) -> None:
        if length > self._message_bytes_max:
            raise PayloadTooLargeError(
                "a message of the Arrow stream is too long: write batches of fewer rows. "
                f"bytes={length} bytes_max={self._message_bytes_max}"
            )

    def _take(self, head: bytes, pieces: Sequence[bytes | memoryview]) -> None:
        if head == _END:
            self._is_closed = True
            return
        message = _parsed(head, pieces)
        if message.size_bytes < SMALL_BYTES:
            message = message.apart()  # its pieces would take several times as much
        if (message.kind == _SCHEMA) != (self._schema is None):
            raise InvalidArgumentError("an Arrow stream begins with a schema, and has one")
        if message.kind == _SCHEMA:
            self._schema = message.apart()
            return
        if message.kind == _BATCH:
            self.waiting_bytes += message.size_bytes
            self._messages.append(message)
            return
        before = self._dictionary_bytes.get(message.dictionary, 0)
        now = message.size_bytes + (before if message.is_delta else 0)
        self._dictionary_bytes[message.dictionary] = now
        self._dictionary_bytes_sum += now - before
        if self._dictionary_bytes_sum > DICTIONARY_BYTES_MAX:
            raise PayloadTooLargeError(
                f"the dictionaries of the Arrow stream are too large: send plain strings. bytes_max={DICTIONARY_BYTES_MAX}"
            )
        if self.waiting_bytes:
            self.waiting_bytes += message.size_bytes
            self._messages.append(message)  # those that wait have the dictionaries of before
        else:
            self._remember(message)

    def cut(self) -> Piece | None:
        if not self.waiting_bytes:
            return None
        chosen = [*([] if self._schema is None else [self._schema]), *chain.from_iterable(self._dictionaries.values())]
        size = lines = 0
        while self._messages and (not size or (size < PART_BYTES_MAX and lines < PART_LINES_MAX)):
            message = self._next()
            chosen.append(message)
            size += message.size_bytes
            lines += message.rows
        while self._messages and self._messages[0].kind == _DICTIONARY:
            self._next()  # the next part begins with it
        pieces = chain.from_iterable(message.pieces for message in chosen)
        return Piece(b"".join((*pieces, _END)), lines)

    def _next(self) -> _Message:
        message = self._messages.popleft()
        self.waiting_bytes -= message.size_bytes
        if message.kind == _DICTIONARY:
            self._remember(message)
        return message

    def _remember(self, message: _Message) -> None:
        known = self._dictionaries.setdefault(message.dictionary, [])
        if not message.is_delta:
            known.clear()
        known.append(message.apart())


def _damaged() -> InvalidArgumentError:
    return InvalidArgumentError("this is no Arrow IPC stream, or a damaged one")


def _parsed(head: bytes, pieces: Sequence[bytes | memoryview]) -> _Message:
    """Look into the metadata of a message, which are in its head.

    Raises:
        InvalidArgumentError: it is of a kind that streams of lines have not.
        struct.error: it is damaged.
    """
    table = _Table.root(memoryview(head)[len(_END) :])
    size_bytes, kind = sum(map(len, pieces)), table.number(1, "<B")
    if kind == _SCHEMA:
        return _Message(pieces, size_bytes, kind)
    header = table.table(2)
    batch = header.table(1) if kind == _DICTIONARY else header
    if kind not in (_DICTIONARY, _BATCH):
        raise InvalidArgumentError(f"an Arrow stream of lines has batches and dictionaries alone. kind={kind}")
    if batch.has(3):
        raise InvalidArgumentError("compressed Arrow streams are not taken: write it without compression")
    if kind == _DICTIONARY:
        return _Message(pieces, size_bytes, kind, dictionary=header.number(0, "<q"), is_delta=bool(header.number(2, "<B")))
    rows = batch.number(0, "<q")
    if rows < 0:
        raise _damaged()
    return _Message(pieces, size_bytes, kind, rows=rows)


class _Table(Struct, frozen=True):
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
