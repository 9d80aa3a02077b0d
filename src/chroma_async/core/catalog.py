"""The catalog: tenants, databases and collections as folded from the log, and the rows that keep it beside the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

import msgspec
from msgspec.structs import replace

from chroma_async.core.events import (
    CatalogEvent,
    CollectionCreated,
    CollectionDeleted,
    CollectionModified,
    DatabaseCreated,
    DatabaseDeleted,
    EverythingDeleted,
    PurgeAsked,
    RecordsDeleted,
    RecordsHead,
    TenantCreated,
)
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT, Collection, CollectionId, Database, Tenant

Rows = dict[str, bytes | None]
"""Changed rows; None deletes one."""

TENANT, DATABASE, COLLECTION = "tenant", "database", "collection"

# Made before there are threads: msgspec's first look into a type must not be taken by two at once.
_TENANTS = msgspec.json.Decoder(Tenant)
_DATABASES = msgspec.json.Decoder(Database)
_COLLECTIONS = msgspec.json.Decoder(Collection)


class Catalog:
    """Names and properties; mutable, but what it holds is not. `apply` is the only way to change it.

    A fork is independent of its origin: the writer decides on a fork, and keeps it when the append succeeded.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._databases: dict[tuple[str, str], Database] = {}
        self._collections: dict[CollectionId, Collection] = {}
        self._ids: dict[tuple[str, str, str], CollectionId] = {}

    def fork(self) -> Catalog:
        copy = Catalog()
        copy._tenants = dict(self._tenants)
        copy._databases = dict(self._databases)
        copy._collections = dict(self._collections)
        copy._ids = dict(self._ids)
        return copy

    @classmethod
    def from_rows(cls, rows: Mapping[str, bytes]) -> Catalog:
        """Return the catalog that was kept as rows."""
        catalog = cls()
        for key, value in rows.items():
            catalog._load(key.partition("/")[0], value)
        return catalog

    def _load(self, kind: str, value: bytes) -> None:
        if kind == TENANT:
            tenant = _TENANTS.decode(value)
            self._tenants[tenant.name] = tenant
        elif kind == DATABASE:
            database = _DATABASES.decode(value)
            self._databases[database.tenant, database.name] = database
        else:
            self._put(_COLLECTIONS.decode(value))

    # ---- questions

    @property
    def is_empty(self) -> bool:
        """True before the very first entry: nothing was ever created here."""
        return not self._tenants

    def tenant(self, name: str) -> Tenant | None:
        return self._tenants.get(name)

    def tenants(self) -> list[Tenant]:
        return sorted(self._tenants.values(), key=lambda tenant: tenant.name.encode())

    def database(self, tenant: str, name: str) -> Database | None:
        return self._databases.get((tenant, name))

    def databases(self, tenant: str) -> list[Database]:
        """In the byte order of their names."""
        found = [database for database in self._databases.values() if database.tenant == tenant]
        return sorted(found, key=lambda database: database.name.encode())

    def collection(self, collection_id: CollectionId) -> Collection | None:
        return self._collections.get(collection_id)

    def collection_named(self, tenant: str, database: str, name: str) -> Collection | None:
        found = self._ids.get((tenant, database, name))
        return None if found is None else self._collections[found]

    def collections(self, tenant: str, database: str) -> list[Collection]:
        """In the order of their UUIDs."""
        found = [item for item in self._collections.values() if (item.tenant, item.database) == (tenant, database)]
        return sorted(found, key=lambda collection: collection.id)

    def collection_ids(self) -> frozenset[CollectionId]:
        return frozenset(self._collections)

    # ---- changes

    def apply(self, event: CatalogEvent | RecordsHead | RecordsDeleted) -> Rows:
        """Fold one event; return the rows that it changed."""
        match event:
            case TenantCreated():
                return self._put_tenant(Tenant(event.name))
            case DatabaseCreated():
                return self._put_database(Database(event.id, event.name, event.tenant))
            case DatabaseDeleted():
                return self._delete_database(event)
            case CollectionCreated():
                return self._put(event.collection())
            case CollectionModified():
                return self._modify(event)
            case CollectionDeleted():
                return self._delete([event.id])
            case EverythingDeleted():
                return self._delete_everything(event)
            case PurgeAsked():
                old = self._collections[event.id]
                return self._put(replace(old, purges=old.purges + 1))
            case RecordsHead():
                return self._learn(event)
            case RecordsDeleted():
                return {}
            case _:
                assert_never(event)

    def _put_tenant(self, tenant: Tenant) -> Rows:
        self._tenants[tenant.name] = tenant
        return {f"{TENANT}/{tenant.name}": msgspec.json.encode(tenant)}

    def _put_database(self, database: Database) -> Rows:
        self._databases[database.tenant, database.name] = database
        return {f"{DATABASE}/{database.id}": msgspec.json.encode(database)}

    def _delete_database(self, event: DatabaseDeleted) -> Rows:
        database = self._databases.pop((event.tenant, event.name))
        owned = [collection.id for collection in self.collections(event.tenant, event.name)]
        return {f"{DATABASE}/{database.id}": None, **self._delete(owned)}

    def _put(self, collection: Collection) -> Rows:
        self._collections[collection.id] = collection
        self._ids[collection.tenant, collection.database, collection.name] = collection.id
        return {f"{COLLECTION}/{collection.id}": msgspec.json.encode(collection)}

    def _modify(self, event: CollectionModified) -> Rows:
        old = self._collections[event.id]
        del self._ids[old.tenant, old.database, old.name]
        return self._put(event.applied_to(old))

    def _delete(self, collection_ids: Iterable[CollectionId]) -> Rows:
        rows: Rows = {}
        for collection_id in collection_ids:
            collection = self._collections.pop(collection_id)
            del self._ids[collection.tenant, collection.database, collection.name]
            rows[f"{COLLECTION}/{collection_id}"] = None
        return rows

    def _delete_everything(self, event: EverythingDeleted) -> Rows:
        rows = self._delete(list(self._collections))
        rows.update({f"{TENANT}/{name}": None for name in self._tenants})
        rows.update({f"{DATABASE}/{database.id}": None for database in self._databases.values()})
        self._tenants.clear()
        self._databases.clear()
        rows.update(self._put_tenant(Tenant(DEFAULT_TENANT)))
        rows.update(self._put_database(Database(event.database_id, DEFAULT_DATABASE, DEFAULT_TENANT)))
        return rows

    def _learn(self, head: RecordsHead) -> Rows:
        """A write fixes the dimension, once, and makes metadata fields known.

        Writes that follow the deletion of their collection in one transaction do not exist: the writer checks first.
        """
        old = self._collections[head.collection]
        dimension = head.dimension if old.dimension is None else old.dimension
        fields = merge_fields(old.fields, head.fields)
        if dimension == old.dimension and fields is old.fields:
            return {}
        return self._put(replace(old, dimension=dimension, fields=fields))


def merge_fields(known: Mapping[str, tuple[str, ...]], seen: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """Return the union of field types; the same object when nothing is new."""
    news = {name: kinds for name, kinds in seen.items() if not set(kinds) <= set(known.get(name, ()))}
    if not news:
        return known
    merged = dict(known)
    for name, kinds in news.items():
        merged[name] = tuple(dict.fromkeys((*known.get(name, ()), *kinds)))
    return merged
