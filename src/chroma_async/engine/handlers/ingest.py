"""Ingest streams: a part is decoded in a thread, then appended whole, once, with the position that follows it."""

from __future__ import annotations

from typing import Final

from chroma_async.core.catalog import Catalog
from chroma_async.engine.handlers.registry import Context, handles, require_collection
from chroma_async.engine.parts import Part
from chroma_async.engine.streams import Known, StreamPart, stream_prefix
from chroma_async.engine.writer import Decision, Proposal
from chroma_async.errors import StreamGapError, UnsupportedMediaTypeError
from chroma_async.model import Collection
from chroma_async.protocol import GetIngestPosition, Ingest
from chroma_async.protocol.arrow import decode_arrow
from chroma_async.protocol.ingest import ARROW, NDJSON, IngestResult
from chroma_async.protocol.lines import Decoded, decode_ndjson

DECODE_INLINE_BYTES: Final = 16 * 2**10
"""Smaller parts are decoded on the event loop: a trip to a worker thread would cost more."""

STEPS_BACK_MAX: Final = 3


@handles(Ingest)
async def ingest(context: Context, call: Ingest) -> IngestResult:
    """Append what is new in a part of a stream."""
    collection = require_collection(context.follower.catalog, call)
    with context.streams.place(stream_prefix(collection.id, call.stream_id)) as place:
        if len(call.content) <= DECODE_INLINE_BYTES:
            part = _part(collection, call)
        else:
            part = await context.workers.run(lambda: _part(collection, call))
        for attempt in range(STEPS_BACK_MAX + 1):
            await place.first()
            await context.before_write(collection.id, part.dimension)
            await context.wait_for_room(collection.id, part.size_bytes)
            try:
                return await _append(context, call, collection, part)
            except StreamGapError:
                if attempt == STEPS_BACK_MAX or not place.step_back():  # else what is missing may be behind it in the line
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")


async def _append(context: Context, call: Ingest, collection: Collection, part: Part) -> IngestResult:
    stream = StreamPart(collection.id, call.stream_id, call.session, part, lambda: context.follower.position)

    def decide(catalog: Catalog) -> Decision[IngestResult]:
        return stream.decide(require_collection(catalog, call))

    result = await context.writer.submit(Proposal(decide, size_bytes=part.size_bytes, repeats=stream))
    context.metrics.ingest_lines.inc(result.position - stream.known)
    context.metrics.ingest_bad_lines.inc(sum(stream.known <= error.line < result.position for error in result.errors))
    return result


def _part(collection: Collection, call: Ingest) -> Part:
    return Part(collection.id, _decoded(collection, call), call.on_error)


def _decoded(collection: Collection, call: Ingest) -> Decoded:
    if call.content_type == NDJSON:
        return decode_ndjson(call.content, call.position, collection.dimension)
    if call.content_type == ARROW:
        return decode_arrow(call.content, call.position, collection.dimension)
    raise UnsupportedMediaTypeError(f"a stream is sent as {NDJSON} or {ARROW}. got={call.content_type[:80]!r}")


@handles(GetIngestPosition)
async def ingest_position(context: Context, call: GetIngestPosition) -> IngestResult:
    """Look up through which line the log has a stream."""
    collection = require_collection(context.follower.catalog, call)
    prefix = stream_prefix(collection.id, call.stream_id)
    known = Known.of(prefix, (await context.log.operations([prefix])).get(prefix))
    return IngestResult(position=known.position, lsn=known.lsn)
