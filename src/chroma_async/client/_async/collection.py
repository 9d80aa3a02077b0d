"""One collection, as its users see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from msgspec.structs import replace

from chroma_async.client._async.embedder import AsyncEmbedder, DataLoader
from chroma_async.client._async.ingest import AsyncIngestStream, ingest_source
from chroma_async.client._async.unsupported import AsyncUnsupported
from chroma_async.client._async.watch import AsyncWatch
from chroma_async.client.call_options import WriteOptions, read_options, write_options
from chroma_async.client.checks import (
    GET_INCLUDE,
    QUERY_INCLUDE,
    checked_count,
    checked_ids,
    checked_include,
    checked_metadata,
    checked_missing,
    checked_name,
    checked_optional_count,
    checked_read_ids,
    checked_stage,
    checked_wait_seconds,
)
from chroma_async.client.colours import AsyncCaller
from chroma_async.client.configuration import new_function, to_update
from chroma_async.client.embedding import DEFAULT_EMBEDDING, EmbeddingArgument
from chroma_async.client.filters import checked_where, checked_where_document
from chroma_async.client.ingest_options import LINGER_SECONDS, RETRY_SECONDS, IngestOptions, checked_source_options
from chroma_async.client.ingest_report import IngestReport, LineErrorCallback
from chroma_async.client.records import Records, checked_records
from chroma_async.client.results import (
    DeleteResult,
    GetResult,
    QueryResult,
    to_delete_result,
    to_get_result,
    to_query_result,
)
from chroma_async.client.sources import FileFormat
from chroma_async.client.transports.base import AsyncTransport
from chroma_async.client.types import ReadLevel
from chroma_async.client.vectors import checked_finite, to_matrix
from chroma_async.client.watching import RECONNECT_SECONDS, WATCH_INCLUDE, OnGone, watch_fields
from chroma_async.model import Collection as Model
from chroma_async.model import JsonObject, Operation, Precision, Space, Stage, Vectors, address_of
from chroma_async.protocol import (
    AddRecords,
    CountRecords,
    DeleteRecords,
    FlushCollection,
    GetIndexingStatus,
    GetRecords,
    ModifyCollection,
    PurgeCollection,
    QueryRecords,
    ReindexCollection,
    UpdateRecords,
    UpsertRecords,
    WatchCollection,
)
from chroma_async.protocol.changes import ChangeKind, Included
from chroma_async.protocol.collection_json import collection_to_json, updated_configuration
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.ingest import OnError
from chroma_async.protocol.records import WriteRecords
from chroma_async.protocol.results import FlushResult, IndexingStatus, PurgeResult, WriteResult
from chroma_async.protocol.unsupported import ForkCollection
from chroma_async.settings import Missing

MISSING_DEFAULT: Final[Missing] = "exclude"
"""What our clients ask for where neither a call, nor the client, nor a setting says it."""


class AsyncCollection(AsyncUnsupported):
    """A collection: records with an id, a vector, and optionally a document, metadata and a URI.

    Made by a client's `create_collection`, `get_collection` and their like. Vectors may be given as lists of numbers or as
    numpy arrays; one record or query may stand without its list.

    Writes are acknowledged when they are durable and visible to every later read. A write is atomic, unless it is so large
    that over HTTP it would pass 40 MiB: then it travels in parts, each of which is atomic.

    A write's result has its `lsn`, the position in the log, and how far it has `reached`: "committed", unless `wait` asks
    for more. With `wait="applied"` it returns when the write is in the tables and vector files, with `wait="indexed"` when
    it is in the graph too where one is due, and after `wait_seconds` (30) in any case: what it has not reached then it will
    reach later, and nothing of it is lost. Reads see a write as soon as it is committed; waiting makes them no more right.

    A read sees all that was acknowledged before it, and what its client has written or seen, whichever server answers. With
    `min_lsn` it sees what somebody else has written, too (`result.lsn` or `client.lsn` there): it waits until the server
    knows that, for up to `wait_seconds` (10). With `read_level=ReadLevel.INDEX_ONLY` it leaves out what the background work
    has not applied yet.

    A write with an `idempotency_key` is carried out once, however often it is sent, within the newest 100,000 entries of the
    log: also after a crash, by another process, through another worker. Over HTTP each write has one, so that the client can
    send it again when a connection breaks; give your own where your program may start over.

    `missing` says whether `$ne`, `$nin`, `$not_contains` and `$not_regex` match records that lack the field or the document:
    "exclude" or "include". Without it the client's counts, then the engine's setting or the server's option; else they are
    excluded.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        caller: AsyncCaller,
        model: Model,
        embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING,
        data_loader: DataLoader | None = None,
        missing: Missing | None = None,
    ) -> None:
        self._transport = transport
        self._caller = caller
        self._model = model
        self._embedder = AsyncEmbedder(caller, embedding_function, model.embedding_function, data_loader)
        self._missing: Missing | None = checked_missing(missing)

    @property
    def id(self) -> UUID:
        return UUID(self._model.id)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def metadata(self) -> JsonObject | None:
        return self._model.metadata

    @property
    def tenant(self) -> str:
        return self._model.tenant

    @property
    def database(self) -> str:
        return self._model.database

    @property
    def configuration_json(self) -> JsonObject:
        """The configuration as the server describes it: `hnsw`, `spann`, `embedding_function`."""
        return self._described("configuration_json")

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration with the embedding function itself in place of its description.

        Raises:
            ValueError: the embedding function is not registered in this process.
        """
        return {**self.configuration_json, "embedding_function": self._embedder.function()}

    @property
    def schema(self) -> JsonObject:
        """The indexes of the collection and of its metadata fields, in Chroma's form, as they were when it was fetched."""
        return self._described("schema")

    def get_model(self) -> Model:
        """Return what is known of the collection, as a value."""
        return self._model

    def _described(self, part: str) -> JsonObject:
        described = collection_to_json(self._model)[part]
        return cast("JsonObject", described)

    @property
    def _identity(self) -> tuple[object, ...]:
        return (self.tenant, self.database, self._model.id, self.name, self.metadata, self.configuration_json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncCollection) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._model.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, id={self._model.id!r})"

    async def add(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        wait: Stage | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> WriteResult:
        """Add records; one whose id exists already keeps its first value.

        Without `embeddings`, the embedding function embeds the documents (or images, or what the data loader makes of the
        URIs). A batch of any size is taken; see the class for what is atomic, and for `wait`.

        Raises:
            ValueError: lists of different lengths, or values of wrong types; the message says which.
            DuplicateIDError: the same id twice in the call.
            InvalidArgumentError: the vectors have another dimension than the collection's.
            NotFoundError: the collection was deleted.
        """
        options = write_options(wait, wait_seconds, idempotency_key)
        records = checked_records(ids, embeddings, metadatas, documents, images, uris, nones_allowed=False)
        return await self._write(AddRecords, records, await self._vectors(records), options)

    async def upsert(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        wait: Stage | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> WriteResult:
        """Add records, or replace those that exist; metadata merges field by field, and a None value deletes a field.

        Raises: as `add`.
        """
        options = write_options(wait, wait_seconds, idempotency_key)
        records = checked_records(ids, embeddings, metadatas, documents, images, uris)
        return await self._write(UpsertRecords, records, await self._vectors(records), options)

    async def update(
        self,
        ids: Any,
        embeddings: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        images: Any = None,
        uris: Any = None,
        *,
        wait: Stage | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> WriteResult:
        """Change records; what is not given stays, unknown ids are ignored. New documents are embedded anew.

        Raises: as `add`.
        """
        options = write_options(wait, wait_seconds, idempotency_key)
        records = checked_records(ids, embeddings, metadatas, documents, images, uris)
        embeds = records.vectors is not None or records.documents is not None or records.images is not None
        return await self._write(UpdateRecords, records, await self._vectors(records) if embeds else None, options)

    async def _write(
        self, kind: type[WriteRecords], records: Records, vectors: Vectors | None, options: WriteOptions
    ) -> WriteResult:
        call = kind(
            **address_of(self._model),
            ids=records.ids,
            embeddings=None if vectors is None else EmbeddingBatch(vectors),
            documents=records.documents,
            metadatas=records.metadatas,
            uris=records.uris,
            **options,
        )
        return await self._transport.send(call)

    async def delete(
        self,
        ids: Any = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        limit: int | None = None,
        *,
        missing: Missing | None = None,
        wait: Stage | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> DeleteResult:
        """Delete the records with these ids, those that match the filters, or those that do both; at most `limit`.

        Raises:
            ValueError: neither ids nor a filter, or a limit without a filter.
        """
        if ids is None and where is None and where_document is None:
            raise ValueError("say what to delete: ids, where or where_document; delete_collection deletes everything")
        if limit is not None and where is None and where_document is None:
            raise ValueError("limit needs where or where_document")
        call = DeleteRecords(
            **address_of(self._model),
            ids=None if ids is None else checked_ids(ids),
            where=checked_where(where),
            where_document=checked_where_document(where_document),
            limit=checked_optional_count(limit, "limit"),
            missing=self._chosen(missing),
            missing_default=MISSING_DEFAULT,
            **write_options(wait, wait_seconds, idempotency_key),
        )
        return to_delete_result(await self._transport.send(call))

    def ingest(
        self,
        *,
        stream_id: str | None = None,
        on_error: OnError = "continue",
        on_line_error: LineErrorCallback | None = None,
        embedding_concurrency: int | None = None,
        linger_seconds: float = LINGER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        progress: bool = False,
    ) -> AsyncIngestStream:
        """Return a stream of writes, to be used as a context: `async with collection.ingest() as stream`. See its class.

        Args:
            stream_id: a name by which to go on later: the stream then begins after the lines that the server has.
            on_error: what a bad line does: "continue" passes it over, "stop" ends the stream with it.
            on_line_error: called with each bad line; where there is no event loop, in a thread of the stream.
            embedding_concurrency: calls of the embedding function at once; by default 4, or 1 if it is an ordinary function.
            linger_seconds: how long a record waits for others to travel with.
            retry_seconds: how long a part is sent again and again when there is no answer, no room, or too much waiting.
            progress: show a bar on standard error, if that is a terminal; needs rich.
        """
        options = IngestOptions(
            stream_id, on_error, on_line_error, embedding_concurrency, linger_seconds, retry_seconds, progress
        )
        return self._stream(options, self.name)

    async def ingest_from(
        self,
        source: Any,
        *,
        mapping: Mapping[str, Any] | None = None,
        op: Operation = "upsert",
        format: FileFormat | None = None,  # noqa: A002
        delimiter: str | None = None,
        stream_id: str | None = None,
        on_error: OnError = "continue",
        on_line_error: LineErrorCallback | None = None,
        embedding_concurrency: int | None = None,
        linger_seconds: float = LINGER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        progress: bool = False,
    ) -> IngestReport:
        """Send all lines of a source, and return what came of it. docs/streaming.md tells of files, columns and types.

        With a `stream_id` of before it goes on after the lines that the server has: the source must be the same, from its
        beginning.

        Args:
            source: the path of a file (NDJSON, CSV, Parquet, Arrow); a pandas DataFrame; an Arrow table, reader or whatever
                has an Arrow stream; an iterable, ordinary or asynchronous, of dictionaries, of `Line`, or of Arrow record
                batches.
            mapping: which columns are which fields, such as `{"id": "key", "document": "text", "metadata": ["year:int"]}`.
            op: what lines do that don't say it: "add", "upsert", "update" or "delete".
            format: of a file whose name does not say it: "ndjson", "csv", "tsv", "parquet" or "arrow".
            delimiter: between the cells of CSV.

        The other arguments are those of `ingest`.

        Raises:
            ValueError: a source that is none, or whose columns don't fit the mapping.
            ImportError: pyarrow is needed, for Parquet and Arrow, or rich, and is not installed.
            ChromaError: the stream failed; what it was. What came before is durable.
        """
        source_options = checked_source_options(mapping, op, format, delimiter)
        options = IngestOptions(
            stream_id, on_error, on_line_error, embedding_concurrency, linger_seconds, retry_seconds, progress
        )
        return await ingest_source(self._stream(options, self.name), source, source_options)

    def _stream(self, options: IngestOptions, description: str) -> AsyncIngestStream:
        return AsyncIngestStream(self._transport, self._caller, self._model, self._embedder, options, description)

    async def get(
        self,
        ids: Any = None,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
        *,
        missing: Missing | None = None,
        read_level: Any = None,
        min_lsn: int | None = None,
        wait_seconds: float | None = None,
    ) -> GetResult:
        """Return the records with these ids, those that match the filters, those that do both, or all; in insertion order.

        `include` takes documents, embeddings, metadatas, uris, and data (what the data loader makes of the URIs).
        """
        wanted = self._checked_include(include, GET_INCLUDE)
        call = GetRecords(
            **address_of(self._model),
            ids=None if ids is None else checked_ids(ids),
            where=checked_where(where),
            where_document=checked_where_document(where_document),
            limit=checked_optional_count(limit, "limit"),
            offset=checked_optional_count(offset, "offset"),
            include=_sent(wanted),
            missing=self._chosen(missing),
            missing_default=MISSING_DEFAULT,
            **read_options(read_level, min_lsn, wait_seconds),
        )
        result = await self._transport.send(call)
        data = await self._embedder.load(result.columns.uris) if "data" in wanted else None
        return to_get_result(result, wanted, data)

    async def peek(self, limit: int = 10) -> GetResult:
        """Return the first records, with their vectors."""
        return await self.get(limit=limit, include=["embeddings", "metadatas", "documents"])

    async def query(
        self,
        query_embeddings: Any = None,
        query_texts: Any = None,
        query_images: Any = None,
        query_uris: Any = None,
        ids: Any = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents", "distances"),
        *,
        missing: Missing | None = None,
        read_level: Any = None,
        min_lsn: int | None = None,
        wait_seconds: float | None = None,
    ) -> QueryResult:
        """Return the records nearest to each query, nearest first: min(n_results, matching records) of them.

        Queries are vectors, or texts, images or URIs for the embedding function. `ids` and the filters narrow the search; an
        empty list of ids narrows it to nothing.

        Raises:
            ValueError: no query, or an argument of a wrong type.
            InvalidArgumentError: the vectors have another dimension than the collection's, or the filter is not valid.
        """
        wanted = self._checked_include(include, QUERY_INCLUDE)
        call = QueryRecords(
            **address_of(self._model),
            n_results=checked_count(n_results, "n_results", 1),
            ids=checked_read_ids(ids),
            where=checked_where(where),
            where_document=checked_where_document(where_document),
            include=_sent(wanted),
            missing=self._chosen(missing),
            missing_default=MISSING_DEFAULT,
            **read_options(read_level, min_lsn, wait_seconds),
            query_embeddings=checked_finite(
                await self._embedder.queries(query_texts, query_images, query_uris)
                if query_embeddings is None
                else to_matrix(query_embeddings, "query_embeddings"),
                "query_embeddings",
            ),
        )
        result = await self._transport.send(call)
        data = [await self._embedder.load(columns.uris) for columns in result.columns] if "data" in wanted else None
        return to_query_result(result, wanted, data)

    async def count(
        self,
        read_level: Any = ReadLevel.INDEX_AND_WAL,
        *,
        min_lsn: int | None = None,
        wait_seconds: float | None = None,
    ) -> int:
        """Return the number of records; with `ReadLevel.INDEX_ONLY`, of those that the background work has applied."""
        call = CountRecords(**address_of(self._model), **read_options(read_level, min_lsn, wait_seconds))
        return (await self._transport.send(call)).count

    async def get_indexing_status(self) -> IndexingStatus:
        """Return how far the background work on this collection has come."""
        return await self._transport.send(GetIndexingStatus(**address_of(self._model)))

    async def flush(self, wait: Stage = "applied", wait_seconds: float | None = None) -> FlushResult:
        """Make durable all that was acknowledged before, whatever the durability, and wait until it is applied, or indexed.

        After `wait_seconds` (30) the answer says how far it has come, in `reached`. Chroma has nothing like it.
        """
        seconds = checked_wait_seconds(wait_seconds)
        call = FlushCollection(**address_of(self._model), wait=checked_stage(wait), wait_seconds=seconds)
        return await self._transport.send(call)

    async def fork(self, new_name: str) -> AsyncCollection:
        """Return a copy of the collection under another name.

        Raises:
            UnimplementedError: the server, such as ours, does not fork.
        """
        call = ForkCollection(**address_of(self._model), new_name=new_name)
        model = cast("Model", await self._transport.send(call))
        return AsyncCollection(
            self._transport, self._caller, model, self._embedder.given, self._embedder.data_loader, self._missing
        )

    async def modify(
        self,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Rename the collection, replace its metadata as a whole, or change its configuration; None leaves a part alone.

        Raises:
            ValueError: an option that can't change after creation, such as the distance, or which embedding function it is.
            UniqueConstraintError: the name is taken.
        """
        if metadata is not None and "hnsw:space" in metadata:
            raise ValueError("the distance of a collection can't change; leave hnsw:space out")
        function = new_function(configuration, self._model.embedding_function)
        call = ModifyCollection(
            **address_of(self._model),
            new_name=None if name is None else checked_name(name, "name"),
            new_metadata=checked_metadata(metadata),
            new_configuration=to_update(configuration, function),
        )
        await self._transport.send(call)
        self._remember(call, function)

    def watch(
        self,
        after: int | str | None = None,
        *,
        snapshot: bool = False,
        include: Sequence[Included] = WATCH_INCLUDE,
        kinds: Sequence[ChangeKind] | None = None,
        where: Any = None,
        missing: Missing | None = None,
        heartbeats: bool = False,
        heartbeat_seconds: float | None = None,
        on_gone: OnGone = "raise",
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncWatch:
        """Follow the changes of this collection, live. See `AsyncWatch` and `Mirror`.

        A change is one write, whole: its LSN, time, kind, ids, and what of the rest `include` names. Without `after` the
        feed begins now; with `after=0` at the oldest change that is kept; with the `position` of another watch where that
        was. `snapshot=True` begins with the records that there are. Where a connection breaks, the feed goes on.

        Args:
            after: an LSN.
            snapshot: first "snapshot_begin", then "snapshot" with records, page by page, then "snapshot_end", then changes.
            include: some of "documents", "embeddings", "metadatas", "uris".
            kinds: some of "add", "update", "upsert", "delete"; None: all.
            where: a filter on the metadata that a change carries. Deletions carry none, and always pass.
            missing: as in the class's docstring.
            heartbeats: whether the signs of life come too, which say how far the feed has come.
            heartbeat_seconds: how often there is one at least; 15 by default, 0.1 to 3600.
            on_gone: when changes are not kept any more, raise, or begin again from a snapshot.
            reconnect_seconds: how long to try to connect again; then the error is raised.

        Raises (while iterating):
            GoneError: what follows the position is not kept any more: begin again from a snapshot.
            NotFoundError: the collection does not exist.
            InvalidArgumentError: an argument that can't be meant so.
        """
        chosen = self._chosen(missing) or MISSING_DEFAULT
        fields = watch_fields(after, snapshot, include, kinds, where, chosen, heartbeat_seconds)
        call = WatchCollection(**address_of(self._model), **fields)
        return AsyncWatch(self._transport, call, on_gone=on_gone, heartbeats=heartbeats, reconnect_seconds=reconnect_seconds)

    async def reindex(
        self,
        *,
        space: Space | None = None,
        max_neighbors: int | None = None,
        ef_construction: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Build the index anew with other parameters; None leaves one as it is. Chroma has nothing like it.

        It returns when that is decided. Queries go on by the old index, in the old space, until the new one is built and
        takes its place at once.

        Args:
            space: "l2", "ip" or "cosine".
            max_neighbors: neighbours of each vector in the graph.
            ef_construction: how widely they are looked for.
            precision: of the graph's vectors: "f32", "bf16", or for cosine "i8". Distances are those of float32 anyway.

        Raises:
            InvalidArgumentError: nothing is to be changed, or to a value that is not possible.
        """
        call = ReindexCollection(
            **address_of(self._model),
            space=space,
            max_neighbors=max_neighbors,
            ef_construction=ef_construction,
            precision=precision,
        )
        await self._transport.send(call)
        self._model = replace(self._model, hnsw=call.applied_to(self._model.hnsw))

    async def purge(self, wait_seconds: float | None = None) -> PurgeResult:
        """Let every trace of deleted and replaced records leave the disk, and return a receipt. Chroma has nothing like it.

        It is done in any case; `done` says whether that was within `wait_seconds` (600). Backups are files of their own.
        """
        call = PurgeCollection(**address_of(self._model), wait_seconds=checked_wait_seconds(wait_seconds))
        return await self._transport.send(call)

    def _remember(self, done: ModifyCollection, function: EmbeddingArgument) -> None:
        update = done.new_configuration
        described = None if update is None else update.embedding_function
        self._model = replace(
            self._model,
            name=done.new_name or self._model.name,
            metadata=self._model.metadata if done.kept_metadata is None else done.kept_metadata or None,
            hnsw=updated_configuration(self._model.hnsw, update),
            embedding_function=described or self._model.embedding_function,
        )
        self._embedder.given = function or self._embedder.given
        self._embedder.stored = self._model.embedding_function

    def _chosen(self, missing: Missing | None) -> Missing | None:
        return self._missing if missing is None else checked_missing(missing)

    def _checked_include(self, include: Sequence[str], allowed: Sequence[str]) -> list[str]:
        wanted = checked_include(include, allowed)
        if "data" in wanted and self._embedder.data_loader is None:
            raise ValueError("include 'data' needs a data loader; pass data_loader=... to the client's method")
        return wanted

    async def _vectors(self, records: Records) -> Vectors:
        return await self._embedder.records(records) if records.vectors is None else records.vectors


def _sent(include: Sequence[str]) -> Any:
    """What the server includes for it: data is made of URIs, on the client."""
    wanted = [name for name in include if name != "data"]
    return [*wanted, "uris"] if "data" in include and "uris" not in wanted else wanted
