"""The catalog is a fold of events, and its rows say the same."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from chroma_async.core.catalog import Catalog, merge_fields
from chroma_async.core.events import (
    CatalogEvent,
    CollectionCreated,
    CollectionDeleted,
    CollectionModified,
    DatabaseCreated,
    DatabaseDeleted,
    EverythingDeleted,
    PurgeAsked,
    RecordsHead,
    TenantCreated,
)
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT, CollectionId, HnswConfiguration

NAMES = ("a", "b", "c")


@st.composite
def histories(draw: st.DrawFn) -> list[CatalogEvent | RecordsHead]:
    """Events as a writer would accept them, one after another."""
    catalog = Catalog()
    events: list[CatalogEvent | RecordsHead] = []
    for number in range(draw(st.integers(0, 30))):
        event = draw(st.sampled_from(_possible(catalog, number)))
        catalog.apply(event)
        events.append(event)
    return events


def _possible(catalog: Catalog, number: int) -> list[CatalogEvent | RecordsHead]:
    new = str(uuid.UUID(int=number))
    found: list[CatalogEvent | RecordsHead] = [EverythingDeleted(new)]
    found.extend(TenantCreated(name) for name in NAMES if catalog.tenant(name) is None)
    for tenant in catalog.tenants():
        found.extend(DatabaseCreated(new, name, tenant.name) for name in NAMES if not catalog.database(tenant.name, name))
        for database in catalog.databases(tenant.name):
            found.append(DatabaseDeleted(database.name, tenant.name))
            found.extend(_of_collections(catalog, tenant.name, database.name, new))
    return found


def _of_collections(catalog: Catalog, tenant: str, database: str, new: str) -> list[CatalogEvent | RecordsHead]:
    free = [name for name in NAMES if catalog.collection_named(tenant, database, name) is None]
    configuration = HnswConfiguration()
    found: list[CatalogEvent | RecordsHead] = [
        CollectionCreated(CollectionId(new), name, tenant, database, None, configuration, None, None) for name in free
    ]
    for old in catalog.collections(tenant, database):
        found.extend((CollectionDeleted(old.id), PurgeAsked(old.id)))
        found.extend(CollectionModified(old.id, name, {"m": 1}, configuration, None, None) for name in [*free, old.name])
        found.append(RecordsHead(old.id, "add", 1, 3, {"f": ("int",)}))
        found.append(RecordsHead(old.id, "add", 1, None, {"f": ("str",), "g": ("bool",)}))
    return found


def everything(catalog: Catalog) -> object:
    return [
        (
            tenant,
            [(database, catalog.collections(tenant.name, database.name)) for database in catalog.databases(tenant.name)],
        )
        for tenant in catalog.tenants()
    ]


@given(histories())
def test_rows_say_what_the_events_said(history: list[CatalogEvent | RecordsHead]) -> None:
    catalog, rows = Catalog(), dict[str, bytes]()
    for event in history:
        for key, value in catalog.apply(event).items():
            if value is None:
                del rows[key]
            else:
                rows[key] = value
    again = Catalog.from_rows(rows)
    assert everything(again) == everything(catalog)
    assert again.collection_ids() == catalog.collection_ids()
    for collection_id in catalog.collection_ids():
        collection = catalog.collection(collection_id)
        assert collection is not None
        for side in (catalog, again):
            assert side.collection_named(collection.tenant, collection.database, collection.name) == collection


@given(histories(), st.integers(0, 30))
def test_fork_is_independent(history: list[CatalogEvent | RecordsHead], cut: int) -> None:
    catalog = Catalog()
    for event in history[:cut]:
        catalog.apply(event)
    before, fork = everything(catalog), catalog.fork()
    for event in history[cut:]:
        fork.apply(event)
    assert everything(catalog) == before


def test_dimension_is_fixed_by_the_first_vectors_and_never_changes() -> None:
    catalog = Catalog()
    catalog.apply(TenantCreated("t"))
    catalog.apply(DatabaseCreated("d", "d", "t"))
    name = CollectionId("c")
    catalog.apply(CollectionCreated(name, "c", "t", "d", None, HnswConfiguration(), None, None))
    for dimension, expected in [(None, None), (4, 4), (None, 4), (4, 4)]:
        catalog.apply(RecordsHead(name, "add", 1, dimension, {}))
        collection = catalog.collection(name)
        assert collection is not None
        assert collection.dimension == expected
    catalog.apply(CollectionModified(name, "other", None, HnswConfiguration(), None, None))
    renamed = catalog.collection_named("t", "d", "other")
    assert renamed is not None
    assert renamed.dimension == 4
    assert catalog.collection_named("t", "d", "c") is None


def test_reset_leaves_the_defaults() -> None:
    catalog = Catalog()
    catalog.apply(TenantCreated("t"))
    catalog.apply(EverythingDeleted("id"))
    assert [tenant.name for tenant in catalog.tenants()] == [DEFAULT_TENANT]
    assert [database.name for database in catalog.databases(DEFAULT_TENANT)] == [DEFAULT_DATABASE]


def test_fields_are_merged_by_type_in_order_of_appearance() -> None:
    known = {"f": ("int",)}
    assert merge_fields(known, {"f": ("int",)}) is known
    assert merge_fields(known, {"g": ("str",), "f": ("bool", "int")}) == {"f": ("int", "bool"), "g": ("str",)}
