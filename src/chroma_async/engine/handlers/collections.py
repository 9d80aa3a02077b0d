"""Collections."""

from __future__ import annotations

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import CollectionCreated, CollectionDeleted, CollectionModified, PurgeAsked
from chroma_async.engine.handlers.registry import Context, handles, require_collection
from chroma_async.engine.writer import Append, Decision, Proposal, happened
from chroma_async.errors import InvalidArgumentError, NotFoundError, UniqueConstraintError
from chroma_async.model import Collection, CollectionId, Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.protocol import (
    CountCollections,
    CreateCollection,
    DeleteCollection,
    GetCollection,
    GetCollectionById,
    ListCollections,
    ModifyCollection,
    PurgeCollection,
    ReindexCollection,
)
from chroma_async.protocol.collection_json import resolve_creation, updated_settings
from chroma_async.protocol.metadata import normalise_collection_metadata
from chroma_async.protocol.results import PurgeResult, page
from chroma_async.protocol.schema import updated_schema
from chroma_async.protocol.v1 import FindCollection
from chroma_async.protocol.validation import parse_collection_id


@handles(CreateCollection)
async def create_collection(context: Context, call: CreateCollection) -> Collection:
    settings = resolve_creation(call.configuration, call.schema, call.metadata)
    event = CollectionCreated(
        id=CollectionId(context.seams.entropy.uuid()),
        name=call.name,
        tenant=call.tenant,
        database=call.database,
        metadata=normalise_collection_metadata(call.metadata),
        hnsw=settings.hnsw,
        embedding_function=settings.embedding_function,
        schema=settings.schema,
    )

    def decide(catalog: Catalog) -> Decision[Collection]:
        if catalog.database(call.tenant, call.database) is None:
            raise InvalidArgumentError(f"Database [{call.database}] does not exist")
        existing = catalog.collection_named(call.tenant, call.database, call.name)
        if existing is None:
            return Decision([Append.of_catalog(event)], lambda lsn: event.collection())
        if not call.get_or_create:
            raise UniqueConstraintError(f"Collection [{call.name}] already exists")
        return Decision([], lambda lsn: existing)

    return await context.writer.submit(Proposal(decide))


@handles(GetCollection)
async def get_collection(context: Context, call: GetCollection) -> Collection:
    collection = context.follower.catalog.collection_named(call.tenant, call.database, call.name)
    if collection is None:
        raise NotFoundError(f"Collection [{call.name}] does not exist")
    return collection


@handles(GetCollectionById)
async def get_collection_by_id(context: Context, call: GetCollectionById) -> Collection:
    collection = context.follower.catalog.collection(parse_collection_id(call.collection_id))
    if collection is None or (collection.tenant, collection.database) != (call.tenant, call.database):
        raise NotFoundError(f"Collection [{call.collection_id}] does not exist")
    return collection


@handles(FindCollection)
async def find_collection(context: Context, call: FindCollection) -> Collection:
    collection = context.follower.catalog.collection(parse_collection_id(call.collection_id))
    if collection is None:
        raise NotFoundError(f"Collection [{call.collection_id}] does not exist.")
    return collection


@handles(ListCollections)
async def list_collections(context: Context, call: ListCollections) -> list[Collection]:
    collections = context.follower.catalog.collections(call.tenant, call.database)
    return collections[page(call.limit, call.offset)]


@handles(CountCollections)
async def count_collections(context: Context, call: CountCollections) -> int:
    return len(context.follower.catalog.collections(call.tenant, call.database))


@handles(ModifyCollection)
async def modify_collection(context: Context, call: ModifyCollection) -> None:
    metadata = normalise_collection_metadata(call.kept_metadata)

    def decide(catalog: Catalog) -> Decision[None]:
        old = require_collection(catalog, call)
        new_name = call.new_name or old.name
        if new_name != old.name and catalog.collection_named(old.tenant, old.database, new_name) is not None:
            raise UniqueConstraintError(f"Collection [{new_name}] already exists")
        settings = updated_settings(old, call.new_configuration)
        event = CollectionModified(
            id=old.id,
            name=new_name,
            metadata=old.metadata if metadata is None else metadata or None,
            hnsw=settings.hnsw,
            embedding_function=settings.embedding_function,
            schema=settings.schema,
        )
        return happened(event)

    await context.writer.submit(Proposal(decide))


@handles(ReindexCollection)
async def reindex_collection(context: Context, call: ReindexCollection) -> None:
    def decide(catalog: Catalog) -> Decision[None]:
        old = require_collection(catalog, call)
        hnsw = call.applied_to(old.hnsw)
        if old.schema is not None and hnsw.space != old.hnsw.space:
            raise InvalidArgumentError("the space is fixed by the collection's schema; make a collection with another one")
        changes = {"max_neighbors": hnsw.max_neighbors, "ef_construction": hnsw.ef_construction}
        event = CollectionModified(
            id=old.id,
            name=old.name,
            metadata=old.metadata,
            hnsw=hnsw,
            embedding_function=old.embedding_function,
            schema=updated_schema(old.schema, changes, None),
        )
        return happened(event)

    await context.writer.submit(Proposal(decide))


@handles(PurgeCollection)
async def purge_collection(context: Context, call: PurgeCollection) -> PurgeResult:
    """Ask the compactor, by an entry of the log, and wait until it is done."""

    def decide(catalog: Catalog) -> Decision[tuple[Lsn, Collection]]:
        old = require_collection(catalog, call)
        return Decision([Append.of_catalog(PurgeAsked(old.id))], lambda lsn: (lsn, old))

    lsn, old = await context.writer.submit(Proposal(decide))

    def is_done(manifest: Manifest) -> bool:
        return manifest.purge is not None and manifest.purge.number > old.purges

    manifest = await context.progress.until(old.id, is_done, call.patience_seconds)
    if manifest is None or manifest.purge is None:
        return PurgeResult(lsn, done=False)
    purge = manifest.purge
    return PurgeResult(lsn, True, purge.applied, purge.records, purge.dropped_vectors, purge.ended_at_ns / 1e9)


@handles(DeleteCollection)
async def delete_collection(context: Context, call: DeleteCollection) -> None:
    def decide(catalog: Catalog) -> Decision[None]:
        collection = catalog.collection_named(call.tenant, call.database, call.name)
        if collection is None:
            raise NotFoundError(f"Collection [{call.name}] does not exist")
        return happened(CollectionDeleted(collection.id, collection.name, collection.tenant, collection.database))

    await context.writer.submit(Proposal(decide))
