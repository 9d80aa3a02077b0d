"""Records: writes are proposed to the writer, reads run on a read view."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec
import numpy as np
import orjson

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import RecordsDeleted, RecordsHead, RecordsWritten, WriteOperation
from chroma_async.core.where import Where, conjoin, parse_where, parse_where_document
from chroma_async.engine.batch import QueryJob
from chroma_async.engine.handlers.registry import Context, handles, require_collection
from chroma_async.engine.paging import pages, view_of_now
from chroma_async.engine.progress import LOOK_SECONDS, lowest
from chroma_async.engine.ranking import Neighbours
from chroma_async.engine.read_view import View
from chroma_async.engine.reads import Kind
from chroma_async.engine.repeats import KeyedWrite, keyed
from chroma_async.engine.writer import Append, Decision, Proposal
from chroma_async.errors import NotFoundError, NotYetVisibleError, UnavailableError
from chroma_async.model import STAGES, Collection, CollectionId, MetadataPatch, Slots, Vectors
from chroma_async.protocol import (
    AddRecords,
    CountRecords,
    DeleteRecords,
    FlushCollection,
    FlushDatabase,
    GetIndexingStatus,
    GetRecords,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
)
from chroma_async.protocol.embeddings import NO_VECTORS
from chroma_async.protocol.lines import check_dimension
from chroma_async.protocol.metadata import CheckedMetadatas
from chroma_async.protocol.records import Reading, RecordsCall, Waiting, WriteRecords
from chroma_async.protocol.results import (
    Columns,
    CountResult,
    DeleteResult,
    FlushResult,
    GetResult,
    IndexingStatus,
    QueryResult,
    WriteResult,
    page,
)
from chroma_async.protocol.schema import check_filter_allowed
from chroma_async.protocol.validation import parse_collection_id

T = TypeVar("T")
Outcome = TypeVar("Outcome", WriteResult, DeleteResult)

ENCODE_INLINE_BYTES: Final = 256 * 2**10
"""Smaller batches are encoded on the event loop: a trip to a worker thread would cost more."""

DEFAULT_RESULTS: Final = 10
EVERYTHING: Final = ("embeddings", "documents", "metadatas", "uris")


def _find(context: Context, call: RecordsCall[Any]) -> Collection:
    """Return the collection of a call, then check what the call asks of it."""
    collection = require_collection(context.follower.catalog, call)
    call.validate_fields()
    return collection


# ---- writes


@handles(AddRecords)
@handles(UpsertRecords)
@handles(UpdateRecords)
async def write(context: Context, call: WriteRecords) -> WriteResult:
    """Append one batch, whole or not at all."""
    collection = require_collection(context.follower.catalog, call)
    size = _size_estimate(call)
    if size <= ENCODE_INLINE_BYTES:
        append = _checked(collection, call)
    else:
        append = await context.workers.run(lambda: _checked(collection, call))
    repeats = keyed(call.idempotency_key, collection.id, append.payload, lambda lsn, _: WriteResult(lsn))
    if repeats is not None:
        append = msgspec.structs.replace(append, operation_id=repeats.operation_id())
    await context.before_write(collection.id, _dimension(call))
    await context.wait_for_room(collection.id, size)

    def decide(catalog: Catalog) -> Decision[WriteResult]:
        now = require_collection(catalog, call)
        check_dimension(now.dimension, _dimension(call))
        return Decision([append], WriteResult)

    result = await context.writer.submit(Proposal(decide, size_bytes=len(append.payload), repeats=repeats))
    return result if call.wait is None else await _waited(context, call, result)


async def _waited(context: Context, call: WriteRecords | DeleteRecords, result: Outcome) -> Outcome:
    """Wait until what was written has come as far as the call asks, and say how far it has come."""
    if result.lsn is None or call.wait is None:
        return result
    collection_id = parse_collection_id(call.collection_id)
    reached = await context.progress.wait(collection_id, result.lsn, call.wait, call.patience_seconds)
    return replace(result, reached=reached)


def _dimension(call: WriteRecords) -> int | None:
    vectors = NO_VECTORS if call.embeddings is None else call.embeddings.vectors
    return vectors.shape[1] if len(vectors) else None


def _size_estimate(call: WriteRecords) -> int:
    vectors = 0 if call.embeddings is None else call.embeddings.vectors.nbytes
    return vectors + 64 * len(call.ids) * (1 + (call.documents is not None) + (call.metadatas is not None))


def _checked(collection: Collection, call: WriteRecords) -> Append:
    """Check what a batch says, in Chroma's order, and encode it."""
    metadatas = call.checked_metadatas()
    check_dimension(collection.dimension, _dimension(call))
    call.validate_lengths()
    return _encode(collection, call, metadatas)


def _encode(collection: Collection, call: WriteRecords, metadatas: CheckedMetadatas) -> Append:
    batch = call.embeddings
    operation = cast("WriteOperation", call.operation)
    event = RecordsWritten(
        head=RecordsHead(collection.id, operation, len(call.ids), _dimension(call), metadatas.types),
        ids=call.ids,
        vectors=NO_VECTORS if batch is None else batch.vectors,
        rows=None if batch is None else batch.rows,
        documents=call.documents,
        metadatas=None if call.metadatas is None else cast("list[MetadataPatch | None]", metadatas.stored),
        uris=call.uris,
    )
    return Append.of_records(event)


@handles(DeleteRecords)
async def delete(context: Context, call: DeleteRecords) -> DeleteResult:
    """Delete by ids at once; by filter, with the log's turn held, so that no write comes between match and delete."""
    collection = _find(context, call)
    where = _filter(call.where, call.where_document)
    check_filter_allowed(collection, where)
    if call.ids is None and where is None:
        return DeleteResult(deleted=0, lsn=None)
    await context.before_write(collection.id, None)
    repeats = keyed(call.idempotency_key, collection.id, _content(call), lambda lsn, count: DeleteResult(count, lsn))
    if where is None:
        ids = call.ids or []
        decide = partial(_decide_delete, call=call, ids=ids, repeats=repeats)
        result = await context.writer.submit(Proposal(decide, repeats=repeats))
        return await _waited(context, call, result)
    matched: list[str] = []

    async def match() -> None:
        matched[:] = await _read_view(context, collection, lambda view: _matching_ids(view, call, where, context), None)

    decide = partial(_decide_delete, call=call, ids=matched, repeats=repeats)
    result = await context.writer.submit(Proposal(decide, prepare=match, repeats=repeats))
    return await _waited(context, call, result)


def _content(call: DeleteRecords) -> bytes:
    return orjson.dumps([call.ids, call.where, call.where_document, call.limit], option=orjson.OPT_SORT_KEYS)


def _decide_delete(
    catalog: Catalog, call: DeleteRecords, ids: Sequence[str], repeats: KeyedWrite[DeleteResult] | None
) -> Decision[DeleteResult]:
    """A deletion of nothing is no entry, unless it has a key: sent again, it must not find what was added meanwhile."""
    collection = require_collection(catalog, call)
    count = len(ids)
    if not ids and repeats is None:
        return Decision([], lambda _: DeleteResult(deleted=0, lsn=None))
    event = RecordsDeleted(collection.id, list(dict.fromkeys(ids)))
    operation_id = None if repeats is None else repeats.operation_id(count)
    return Decision([Append.of_records(event, operation_id)], lambda lsn: DeleteResult(deleted=count, lsn=lsn))


def _matching_ids(view: View, call: DeleteRecords, where: Where, context: Context) -> list[str]:
    slots = view.slots(call.ids, where, call.missing_by(context.settings.missing))
    return [row.id for row in view.rows(slots[page(call.limit)])]


# ---- flush


@handles(FlushCollection)
async def flush_collection(context: Context, call: FlushCollection) -> FlushResult:
    """Flush one collection."""
    return await _flush(context, [_find(context, call)], call)


@handles(FlushDatabase)
async def flush_database(context: Context, call: FlushDatabase) -> FlushResult:
    """Flush all collections of a database."""
    catalog = context.follower.catalog
    if catalog.database(call.tenant, call.database) is None:
        raise NotFoundError(f"Database [{call.database}] not found.")
    return await _flush(context, catalog.collections(call.tenant, call.database), call)


async def _flush(context: Context, collections: Sequence[Collection], call: Waiting) -> FlushResult:
    """Make durable all that was acknowledged before, whatever the durability; then wait until it is applied, or indexed.

    One collection is applied when the newest entry of its own is: nothing of it comes later.
    """
    lsn = context.follower.position
    await context.log.sync()
    wanted = call.wait or "committed"
    targets = {item.id: context.follower.sink(item.id).entries.newest for item in collections}
    reached = await context.progress.wait_for_all(targets, wanted, call.patience_seconds)
    behind = [item.name for item in collections if STAGES.index(reached[item.id]) < STAGES.index(wanted)]
    return FlushResult(lsn, lowest(reached.values(), wanted), sorted(behind))


# ---- reads


def _filter(where: object, where_document: object) -> Where | None:
    return conjoin(parse_where(where), parse_where_document(where_document))


async def _read_view(
    context: Context,
    collection: Collection,
    function: Callable[[View], T],
    kind: Kind | None,
    *,
    columns: bool = True,
    newest: bool = False,
    tail: bool = True,
) -> T:
    """Run a function on a read view: a long one, of kind None, in a worker thread."""
    reader = context.follower.sink(collection.id)

    def run(at_hand: bool) -> T:
        with reader.view(columns=columns, at_hand=at_hand, newest=newest, tail=tail) as view:
            return function(view)

    return await context.runner(collection.id).run(run, kind)


def is_visible(context: Context, call: Reading, collection_id: CollectionId) -> bool:
    """Whether a read sees what it asks for without waiting."""
    if call.min_lsn is None:
        return True
    if context.follower.position < call.min_lsn:
        return False
    return not call.is_of_applied or not context.follower.sink(collection_id).entries.newest_through(call.min_lsn)


async def _until_visible(
    context: Context, call: CountRecords | GetRecords | QueryRecords, collection: Collection
) -> Collection:
    """Wait until this process knows the log through the LSN that a read names; for one of the applied, until that is.

    Returns the collection as of then.
    """
    wanted = call.min_lsn
    if wanted is None or is_visible(context, call, collection.id):
        return collection
    deadline = context.seams.clock.monotonic() + call.patience_seconds
    while context.follower.position < wanted and context.seams.clock.monotonic() < deadline:
        if context.progress.is_stopped:
            raise UnavailableError("this process is stopping; read again")
        await context.seams.clock.sleep(LOOK_SECONDS)
        await context.follower.catch_up()
    if context.follower.position < wanted:
        raise NotYetVisibleError(
            "the log did not come to this LSN in time: it may be another log than the one the LSN is of (a restored backup, "
            f"another server at this address). min_lsn={wanted} newest={context.follower.position}"
        )
    if call.is_of_applied:
        due = context.follower.sink(collection.id).entries.newest_through(wanted)
        rest = max(0.0, deadline - context.seams.clock.monotonic())
        if due and await context.progress.wait(collection.id, due, "applied", rest) == "committed":
            raise NotYetVisibleError(f"the background work did not come to this LSN in time. min_lsn={wanted}")
    return require_collection(context.follower.catalog, call)


@handles(CountRecords)
async def count(context: Context, call: CountRecords) -> CountResult:
    collection = await _until_visible(context, call, _find(context, call))

    def run(view: View) -> CountResult:
        return CountResult(view.image.live, view.lsn)

    return await _read_view(context, collection, run, "count", columns=False, tail=not call.is_of_applied)


@handles(GetIndexingStatus)
async def indexing_status(context: Context, call: GetIndexingStatus) -> IndexingStatus:
    collection = _find(context, call)
    counts = await _read_view(context, collection, lambda view: view.indexing_status(), "count", columns=False, newest=True)
    return IndexingStatus(num_indexed_ops=counts.indexed, num_unindexed_ops=counts.unindexed)


@handles(GetRecords)
async def get(context: Context, call: GetRecords) -> GetResult:
    collection = _find(context, call)
    where = _filter(call.where, call.where_document)
    check_filter_allowed(collection, where)
    collection = await _until_visible(context, call, collection)

    def run(view: View) -> GetResult:
        whole = not call.offset and (call.limit is None or call.limit >= len(call.ids or ()))
        slots = view.slots(call.ids, where, call.missing_by(context.settings.missing), with_rows=whole)
        chosen = slots[page(call.limit, call.offset)]
        view.expect(len(chosen))
        return GetResult(_columns(view, chosen, call.include), tuple(call.include), view.lsn)

    kind: Kind = "get" if call.where_document is None else "get by document"
    return await _read_view(context, collection, run, kind, columns=where is not None, tail=not call.is_of_applied)


async def all_columns(context: Context, collection: Collection, rows: int) -> AsyncGenerator[Columns]:
    """All records of a collection in insertion order, `rows` at a time, as of one instant: that of the first page."""

    def read(view: View, slots: Slots) -> Columns:
        return _columns(view, slots, EVERYTHING)

    async with view_of_now(context.follower, context.workers, collection.id) as view:
        async for columns in pages(context.workers, view, rows, read):
            if columns.ids:
                yield columns


@handles(QueryRecords)
async def query(context: Context, call: QueryRecords) -> QueryResult:
    collection = _find(context, call)
    where = _filter(call.where, call.where_document)
    queries = cast("Vectors", call.query_embeddings)
    asked = queries.shape[1] if len(queries) else None
    check_dimension(collection.dimension, asked)
    check_filter_allowed(collection, where)
    collection = await _until_visible(context, call, collection)
    dimension = collection.dimension
    if dimension is None:  # its tables know it where a log has lost its end (engine/lost_end.py)
        dimension = await _read_view(context, collection, _dimension_of_base, "count", columns=False)
    check_dimension(dimension, asked)
    wanted = DEFAULT_RESULTS if call.n_results is None else call.n_results

    tail = not call.is_of_applied

    def nothing(view: View) -> QueryResult:
        return _nothing(view, len(queries), call)

    if dimension is None or not len(queries) or not wanted:
        return await _read_view(context, collection, nothing, "count", columns=False, tail=tail)
    job = QueryJob(
        reader=context.follower.sink(collection.id),
        collection=collection,
        queries=queries,
        n_results=wanted,
        needs_columns=where is not None,
        needs_tail=tail,
        tests_documents=call.where_document is not None,
        choose=lambda view: view.mask(call.ids, where, call.missing_by(context.settings.missing)),
        finish=lambda view, found: _query_result(view, found, call),
    )
    return await context.batcher(collection.id).run(job)


def _dimension_of_base(view: View) -> int | None:
    return view.image.base.manifest.dimension


def _nothing(view: View, queries: int, call: QueryRecords) -> QueryResult:
    empty = Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    return _query_result(view, [empty] * queries, call)


def _query_result(view: View, found: Sequence[Neighbours], call: QueryRecords) -> QueryResult:
    wanted = set(call.include)
    return QueryResult(
        columns=[_columns(view, neighbours.slots, call.include) for neighbours in found],
        distances=[neighbours.distances for neighbours in found] if "distances" in wanted else None,
        include=tuple(call.include),
        lsn=view.lsn,
    )


def _columns(view: View, slots: Slots, include: Sequence[str]) -> Columns:
    rows = view.rows(slots)
    return Columns(
        ids=[row.id for row in rows],
        embeddings=view.vectors(slots) if "embeddings" in include else None,
        documents=[row.document for row in rows] if "documents" in include else None,
        metadatas=[None if row.metadata_json is None else row.metadata_json.encode() for row in rows]
        if "metadatas" in include
        else None,
        uris=[row.uri for row in rows] if "uris" in include else None,
    )
