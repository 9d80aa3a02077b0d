"""Which lines of an ingest stream the log has, and who sends them.

The last entry of a part has an operation id that says both:

    collection, author, 0x1e stream | position after the part | LSN of the part before | session

so that the greatest id of a stream is its newest one. The first entry of a session has a mark, an id of its own, by which a
session that wrote before is told from one that comes to take the stream over. Both are forgotten with the log's window of
operations; what a session that goes on needs is written anew in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from chroma_async.core.events import RecordsDeleted
from chroma_async.engine.author import AUTHOR
from chroma_async.engine.parts import Part
from chroma_async.engine.writer import Append, Decision
from chroma_async.errors import StreamGapError, StreamTakenError
from chroma_async.model import Collection, CollectionId, Lsn
from chroma_async.protocol.ingest import IngestResult
from chroma_async.wal import OPERATION_WINDOW

_SEPARATOR: Final = "\x1f"
_STREAM: Final = "\x1e"
_SESSION: Final = "\x1d"
"""Begin names that no Idempotency-Key can have."""

RENEW_AFTER: Final = OPERATION_WINDOW // 2
"""LSNs after which what is remembered of a stream that goes on is written anew."""


class Known(Struct, frozen=True):
    """What the log knows of a stream: the lines before `position`, from `session`, in the entry `lsn` and before."""

    position: int = 0
    lsn: Lsn | None = None
    session: str | None = None

    @classmethod
    def of(cls, prefix: str, found: tuple[str, Lsn] | None) -> Known:
        if found is None:
            return cls()
        position, _, session = found[0][len(prefix) :].split(_SEPARATOR)
        return cls(int(position, 16), found[1], session)


def stream_prefix(collection_id: CollectionId, stream_id: str) -> str:
    """Return what the operation ids of a stream begin with."""
    return _SEPARATOR.join((collection_id, AUTHOR.get() or "", _STREAM + stream_id, ""))


def _mark_prefix(collection_id: CollectionId, stream_id: str, session: str) -> str:
    return _SEPARATOR.join((collection_id, AUTHOR.get() or "", _SESSION + stream_id, session, ""))


class StreamPart:
    """A part of a stream on its way to the log: told what the log knows, it says what is left to do."""

    def __init__(
        self, collection_id: CollectionId, stream_id: str, session: str, part: Part, newest: Callable[[], Lsn]
    ) -> None:
        """`newest` tells the end of the log."""
        self._collection_id = collection_id
        self._stream_id = stream_id
        self._session = session
        self._part = part
        self._newest = newest
        self._stream = stream_prefix(collection_id, stream_id)
        self._mark = _mark_prefix(collection_id, stream_id, session)
        self._known = Known()
        self._marked: Lsn | None = None

    @property
    def prefixes(self) -> Sequence[str]:
        return self._stream, self._mark

    @property
    def known(self) -> int:
        """How many lines the log had before this part."""
        return self._known.position

    def answer(self, known: Mapping[str, tuple[str, Lsn]]) -> IngestResult | None:
        """Return the answer to a part that the log has; None for one that has something new.

        Raises:
            StreamTakenError: another session sends since.
            StreamGapError: lines are missing before this part.
        """
        self._known = now = Known.of(self._stream, known.get(self._stream))
        self._marked = known[self._mark][1] if self._mark in known else None
        if now.session not in (None, self._session) and self._marked is not None:
            raise StreamTakenError(
                "another session sends to this stream since: let one of them end, or give each a stream of its own. "
                f"stream_id={self._stream_id!r} position={now.position}"
            )
        if self._part.first > now.position:
            raise StreamGapError(
                f"lines are missing before this part: go on at line {now.position}. A stream that is not known, or was "
                f"forgotten, begins at line 0. stream_id={self._stream_id!r} position={self._part.first}"
            )
        if self._part.beyond > now.position or now.session != self._session or self._is_old(now.lsn):
            return None
        return IngestResult(position=now.position, lsn=now.lsn, errors=self._part.cut(now.position, None).errors)

    def _is_old(self, lsn: Lsn | None) -> bool:
        """Whether what an entry says has to be said again, lest it be forgotten, or was never said."""
        return lsn is None or self._newest() - lsn > RENEW_AFTER

    def decide(self, collection: Collection) -> Decision[IngestResult]:
        """Say what is left to append: entries, the last of which has the position after the part."""
        known, newest = self._known, self._newest()
        cut = self._part.cut(known.position, collection.dimension)
        beyond = max(cut.beyond, known.position)
        appends = list(cut.appends)
        if self._is_old(self._marked):
            appends.insert(0, self._nothing(f"{self._mark}{newest:016x}"))
        operation_id = self._stream + _SEPARATOR.join((f"{beyond:016x}", f"{newest:016x}", self._session))
        if not cut.appends:
            appends.append(self._nothing(operation_id))
        else:
            appends[-1] = replace(appends[-1], operation_id=operation_id)
        return Decision(appends, lambda lsn: IngestResult(position=beyond, lsn=lsn, errors=cut.errors))

    def _nothing(self, operation_id: str) -> Append:
        """An entry that changes no record: a deletion of none."""
        return Append.of_records(RecordsDeleted(self._collection_id, []), operation_id)


class Queues:
    """Keeps parts of one stream in the order in which they came to this process, while they are decoded side by side."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Event] = {}

    @contextmanager
    def place(self, stream: str) -> Generator[Place]:
        """Stand in line; who leaves lets the next one go on."""
        place = Place(self._last, stream)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """A place in the line of a stream."""

    def __init__(self, last: dict[str, asyncio.Event], stream: str) -> None:
        self._last = last
        self._stream = stream
        self._before: asyncio.Event | None = None
        self._left = asyncio.Event()
        self._stand()

    def _stand(self) -> None:
        self._before, self._left = self._last.get(self._stream), asyncio.Event()
        self._last[self._stream] = self._left

    async def first(self) -> None:
        """Wait until those before have left."""
        if self._before is not None:
            await self._before.wait()

    def step_back(self) -> bool:
        """Go to the end of the line; False where nobody else stands in it."""
        if self._last.get(self._stream) is self._left:
            return False
        self._left.set()
        self._stand()
        return True

    def leave(self) -> None:
        self._left.set()
        if self._last.get(self._stream) is self._left:
            del self._last[self._stream]
