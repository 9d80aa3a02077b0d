"""A stream of lines into a collection: cut into parts, embedded and encoded beside one another, sent one after the other."""

from __future__ import annotations

import random
import time
import uuid
from collections import deque
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from chroma_async.client._async.embedder import AsyncEmbedder
from chroma_async.client.checks import checked_ids
from chroma_async.client.colours import AsyncCaller, AsyncLock, async_sleep, is_async
from chroma_async.client.gathering import Gathering
from chroma_async.client.ingest_options import (
    CONCURRENCY,
    PART_BYTES_MAX,
    PART_LINES_MAX,
    IngestOptions,
)
from chroma_async.client.ingest_report import BadLines, IngestReport, Report, progress_bar
from chroma_async.client.lanes import AsyncFeed, AsyncLanes, AsyncOutcome, AsyncQuickLock, AsyncSignal, AsyncWaker
from chroma_async.client.lines import NO_EMBEDDING, Lines, joined, with_vectors, without_vectors
from chroma_async.client.parts import encode, preferred_type
from chroma_async.client.records import WHAT_TO_PASS, checked_records, to_lines
from chroma_async.client.retry import RetryPolicy
from chroma_async.client.sources import SourceOptions, open_source
from chroma_async.client.transports.base import AsyncTransport
from chroma_async.errors import (
    ChromaError,
    ForeignAnswerError,
    InvalidArgumentError,
    PayloadTooLargeError,
    UnavailableError,
    UnimplementedError,
    UnsupportedMediaTypeError,
)
from chroma_async.model import Collection as Model
from chroma_async.model import Operation, address_of
from chroma_async.protocol import Call
from chroma_async.protocol.ingest import NDJSON, GetIngestPosition, Ingest, IngestResult, LineError

R = TypeVar("R")

BACKOFF: Final = RetryPolicy(retries=2**31)


@dataclass(frozen=True, slots=True)
class _Part:
    lines: Lines
    content: bytes
    content_type: str


class AsyncIngestStream:
    """A stream of records into a collection, made by `AsyncCollection.ingest` and used as a context.

    Records are gathered into parts by size and time. While one part is on its way, those after it are embedded and encoded;
    when a few are under way, `add` and its like wait, so that memory stays bounded. Parts arrive in order, and each of them
    once: one that gets no answer is sent again. Leaving the context sends the rest, and waits until all is durable; leaving
    it by an exception sends nothing more.

    When a part fails for good, what came before it is durable, and nothing after it is sent: the error is raised by the next
    method that is called, and by leaving the context. An embedding function that fails is such an error.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        caller: AsyncCaller,
        model: Model,
        embedder: AsyncEmbedder,
        options: IngestOptions,
        description: str = "ingesting",
    ) -> None:
        self._transport = transport
        self._caller = caller
        self._address = address_of(model)
        self._embedder = embedder
        self._options = options
        self._description = description
        self._stream_id = options.stream_id or uuid.uuid4().hex
        self._session = uuid.uuid4().hex
        self._content_type = preferred_type()
        self._began_at = time.monotonic()
        self._began = self._position = self._next = 0
        self._lsn: int | None = None
        self._bad = BadLines(options.on_line_error)
        self._failure: Exception | None = None
        self._waiting = Gathering()
        self._sent = deque[AsyncOutcome[None]]()
        self._report: Report | None = None
        self._entered = False
        self._bar = ExitStack()

    @property
    def stream_id(self) -> str:
        """By which the stream is known to the server: a later run that gives it goes on where this one ends."""
        return self._stream_id

    @property
    def position(self) -> int:
        """How many lines of the stream are durable. At the beginning those of earlier runs: go on after them."""
        return self._position

    @property
    def lsn(self) -> int | None:
        """Where the last durable line stands in the log; None before there is one."""
        return self._lsn

    @property
    def errors(self) -> list[LineError]:
        """The bad lines that were passed over, the first 1,000 of them; lines are counted from 0."""
        return list(self._bad.first)

    @property
    def bad_lines(self) -> int:
        """How many lines were passed over."""
        return self._bad.count

    @property
    def report(self) -> IngestReport:
        """What came of it so far."""
        seconds = time.monotonic() - self._began_at
        return IngestReport(self._position, self._began, self._bad.count, self.errors, self._lsn, seconds)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this stream was used; open another one with the same stream_id to go on")
        await self._transport.open()
        self._entered, self._began_at = True, time.monotonic()
        self._lock, self._embedding, self._encoding = AsyncQuickLock(), AsyncLock(), AsyncLock()
        self._filled, self._ended = AsyncWaker(), AsyncSignal()
        if self._options.stream_id is not None:
            known = await self._patiently(GetIngestPosition(**self._address, stream_id=self._stream_id))
            self._began = self._position = self._next = known.position
            self._lsn = known.lsn
            self._transport.session.saw(known.lsn)
        self._preparing = AsyncLanes(self._options.embedding_concurrency or CONCURRENCY)
        self._sending, self._timing = AsyncLanes(1), AsyncLanes(1)
        self._report = self._bar.enter_context(progress_bar(self._description, self._began, wanted=self._options.progress))
        self._lanes = AsyncExitStack()
        for lanes in (self._preparing, self._sending, self._timing):
            await self._lanes.enter_async_context(lanes)
        self._timing.start(self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        except BaseException as failure:
            error = failure
            raise
        finally:
            await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        self._ended.set()
        self._filled.set()
        try:
            await self._lanes.__aexit__(None if error is None else type(error), error, None)
        finally:
            self._bar.close()

    # ---- what users call

    async def add(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Add one record or many; one whose id exists already keeps its first value.

        Documents without embeddings are embedded on the way. It waits only while too much is under way. A call's records may
        be cut into parts, so they are not one atomic write.

        Raises:
            ValueError: lists of different lengths, or values of wrong types; nothing of the call is sent.
            ChromaError: the stream failed; what it was.
        """
        await self._write("add", ids, embeddings, metadatas, documents, images, uris)

    async def upsert(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Add records, or replace those that exist; metadata merges field by field.

        Raises: as `add`.
        """
        await self._write("upsert", ids, embeddings, metadatas, documents, images, uris)

    async def update(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
    ) -> None:
        """Change records; what is not given stays, unknown ids are ignored. New documents are embedded anew.

        Raises: as `add`.
        """
        await self._write("update", ids, embeddings, metadatas, documents, images, uris)

    async def delete(self, ids: Any) -> None:
        """Delete records; unknown ids are ignored.

        Raises: as `add`.
        """
        await self.put(Lines(checked_ids(ids), "delete"))

    async def flush(self) -> int:
        """Send what waits, and wait until all is durable; return the position.

        Raises:
            ChromaError: the stream failed; what it was.
        """
        self._require_open()
        async with self._lock:
            if self._waiting.runs:
                await self._cut()
            under_way = list(self._sent)
        for outcome in under_way:
            await outcome.result()
        self._raise_failure()
        return self._position

    async def _write(self, operation: Operation, *columns: Any) -> None:
        records = checked_records(*columns)
        vectors = records.vectors
        embeds = vectors is None and (operation != "update" or records.images is not None)
        if embeds and (records.inputs.chosen(WHAT_TO_PASS) is None or records.images is not None):
            vectors = await self._embedder.records(records)
        await self.put(to_lines(records, operation, vectors))

    # ---- from lines to parts

    async def put(self, lines: Lines) -> None:
        """Take lines as sources give them."""
        self._require_open()
        for piece, size in lines.pieces(PART_LINES_MAX, PART_BYTES_MAX):
            async with self._lock:
                self._raise_failure()
                self._waiting.add(piece, size)
                if self._waiting.is_full:
                    await self._cut()
                elif len(self._waiting.runs) == 1:
                    self._filled.set()

    async def _cut(self) -> None:
        """Make a part of what waits, and wait while too many are under way. Only who holds the lock does so."""
        part, begin = self._waiting, self._next
        self._waiting = Gathering()
        self._next += part.lines
        prepared = self._preparing.start(self._prepare, part.runs)
        self._sent.append(self._sending.start(self._deliver, begin, prepared))
        await async_sleep(0)  # a turn for the others: nothing else on the way of a line gives one
        while len(self._sent) > (self._options.embedding_concurrency or CONCURRENCY):
            await self._sent.popleft().result()

    async def _watch(self) -> None:
        """Cut what has waited long enough."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            if self._filled.is_over:
                return
            waiting = self._waiting
            if await self._ended.wait(self._options.linger_seconds):
                return
            async with self._lock:
                if self._waiting.runs and self._waiting is waiting:
                    await self._cut()
                elif self._waiting.runs:  # since a short time only
                    self._filled.set()

    async def _prepare(self, runs: list[Lines]) -> _Part | None:
        if self._is_over:
            return None
        lines = await self._caller.call(joined, runs)
        runs.clear()
        return await self._encoded(await self._embedded(lines))

    async def _encoded(self, lines: Lines) -> _Part:
        """Encode a part, one at a time: it takes a processor, and several times the part's memory."""
        async with self._encoding:
            kind = NDJSON if lines.has_blanks else self._content_type
            return _Part(lines, await self._caller.call(encode, lines, kind), kind)

    async def _embedded(self, lines: Lines) -> Lines:
        """Embed the documents that have no vectors. A line that needs one and has nothing to embed is a bad one."""
        places = without_vectors(lines)
        function = self._embedder.function() if places else None
        if function is None:
            lines.require_vectors(places, NO_EMBEDDING)
            return lines
        documents = lines.documents or [None] * len(lines)
        lines.require_vectors([place for place in places if documents[place] is None], "there is nothing to embed")
        places = [place for place in places if documents[place] is not None]
        if not places:
            return lines
        texts = [documents[place] for place in places]
        if self._options.embedding_concurrency is None and not is_async(function):
            async with self._embedding:
                vectors = await self._embedder.texts(texts)
        else:
            vectors = await self._embedder.texts(texts)
        return with_vectors(lines, places, vectors)

    # ---- from parts to the server

    async def _deliver(self, begin: int, prepared: AsyncOutcome[_Part | None]) -> None:
        """Send a part when it is ready; what fails is kept for the caller."""
        try:
            part = await prepared.result()
            if part is not None and not self._is_over:
                await self._send(begin, part)
        except Exception as error:
            self._failure = self._failure or error

    async def _send(self, begin: int, part: _Part) -> None:
        call = Ingest(
            **self._address,
            stream_id=self._stream_id,
            session=self._session,
            position=begin,
            on_error=self._options.on_error,
            content=part.content,
            content_type=part.content_type,
        )
        try:
            result = await self._patiently(call)
        except UnsupportedMediaTypeError:
            if part.content_type == NDJSON:
                raise
            self._content_type = NDJSON
            await self._send(begin, await self._encoded(part.lines))
            return
        except PayloadTooLargeError:
            if len(part.lines) < 2:
                raise
            middle = len(part.lines) // 2
            await self._send(begin, await self._encoded(part.lines.between(0, middle)))
            await self._send(begin + middle, await self._encoded(part.lines.between(middle, len(part.lines))))
            return
        self._take(begin, part, result)

    async def _patiently(self, call: Call[R]) -> R:
        """Send a call, again and again while that may help."""
        until, attempt = None, 0
        while True:
            try:
                return await self._transport.send(call)
            except ForeignAnswerError as error:
                raise UnimplementedError(
                    f"the server takes no streams, as Chroma's don't; use add and upsert. {error}"
                ) from error
            except ChromaError as error:
                now = time.monotonic()
                until = now + self._options.retry_seconds if until is None else until
                if not error.retryable or now >= until or self._ended.is_set():
                    raise
            await self._ended.wait(BACKOFF.wait_seconds(min(attempt, 16), None, random.random()))
            attempt += 1

    def _take(self, begin: int, part: _Part, result: IngestResult) -> None:
        """Take the answer to a part."""
        end = begin + len(part.lines)
        stopped = result.stopped_by
        self._position = max(self._position, result.position)
        self._lsn = result.lsn if result.lsn is not None else self._lsn
        self._transport.session.saw(result.lsn)
        self._bad.add([self._own(begin, part, error) for error in result.errors if error is not stopped])
        if self._report is not None:
            self._report(self._position, part.lines.share)
        if stopped is not None:
            bad = self._own(begin, part, stopped)
            raise InvalidArgumentError(f"the stream stopped at a bad line: {bad.message}. line={bad.line}")
        if result.position < end:
            raise UnavailableError(f"the server took a part only to line {result.position}; it was sent to line {end}")

    def _own(self, begin: int, part: _Part, error: LineError) -> LineError:
        """Say what is wrong with a line as we know it: the server saw only that it is none."""
        fault = part.lines.faults.get(error.line - begin)
        return error if fault is None else LineError(line=error.line, error=error.error, message=fault)

    @property
    def _is_over(self) -> bool:
        return self._failure is not None or self._ended.is_set()

    def _require_open(self) -> None:
        if not self._entered:
            raise RuntimeError("a stream is used as a context: async with collection.ingest() as stream")
        if self._ended.is_set():
            self._raise_failure()
            raise RuntimeError("this stream has ended; open another one with the same stream_id to go on")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


async def ingest_source(stream: AsyncIngestStream, source: Any, options: SourceOptions) -> IngestReport:
    """Send a source to its end, beginning with the first line that the server has not."""
    async with stream:
        with open_source(source, options, stream.position) as items:
            await _put_all(stream, items)
        await stream.flush()
    return stream.report


async def _put_all(stream: AsyncIngestStream, items: Any) -> None:
    async with AsyncFeed(items) as feed:
        async for runs in feed:
            for lines in runs:
                await stream.put(lines)
