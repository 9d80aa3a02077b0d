"""What each call needs: one table for the whole catalogue, the refused calls and the first API. What is not in it is denied.

The names of actions are those of Chroma 0.5 (`chromadb.auth.AuthzAction`) where it had one, so that its files of roles mean
the same here; the others are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from chroma_async.protocol import (
    AddRecords,
    Call,
    CheckHealth,
    CountCollections,
    CountRecords,
    CreateCollection,
    CreateDatabase,
    CreateTenant,
    DeleteCollection,
    DeleteDatabase,
    DeleteRecords,
    FlushCollection,
    FlushDatabase,
    GetCollection,
    GetCollectionById,
    GetDatabase,
    GetIdentity,
    GetIndexingStatus,
    GetIngestPosition,
    GetPreflight,
    GetRecords,
    GetTenant,
    GetVersion,
    Heartbeat,
    Ingest,
    ListCollections,
    ListDatabases,
    ModifyCollection,
    PurgeCollection,
    QueryRecords,
    ReindexCollection,
    Reset,
    UpdateRecords,
    UpdateTenant,
    UpsertRecords,
    WatchCollection,
    WatchDatabase,
)
from chroma_async.protocol.call import API_V2
from chroma_async.protocol.unsupported import (
    AttachFunction,
    CountForks,
    DetachFunction,
    ForkCollection,
    GetCollectionByResourceName,
    GetFunction,
    Search,
)
from chroma_async.protocol.v1 import API_V1, FindCollection
from chroma_async.server.routing import PROBE_PATHS

Role = Literal["read", "write", "admin"]

Place = Literal[
    "public",
    "known",
    "server",
    "new tenant",
    "tenant",
    "in tenant",
    "new database",
    "database",
    "in database",
    "in collections",
    "name",
    "id",
]
"""How a call says what it is about, and so how it is checked:

- `public`: anybody may; `known`: anybody who was authenticated
- `server`: everything that there is
- `new tenant`, `tenant`: a whole tenant, its name in `name` or `tenant`; `in tenant`: anything in it will do
- `new database`, `database`: a whole database, its name in `name` or `database`; `in database`: anything in it will do
- `in collections`: as that, and the result is cut down to what may be seen
- `name`, `id`: one collection, by name or UUID
"""


class Rule(Struct, frozen=True):
    """What a call needs. `role` is the least one that has the action."""

    place: Place
    action: str = ""
    role: Role = "admin"
    writes: bool = False


def _read(place: Place, action: str) -> Rule:
    return Rule(place, action, "read")


def _write(place: Place, action: str) -> Rule:
    return Rule(place, action, "write", writes=True)


def _admin(place: Place, action: str) -> Rule:
    return Rule(place, action, "admin", writes=True)


PUBLIC: Final = Rule("public")
KNOWN: Final = Rule("known")

RULES: Final[Mapping[type[Call[Any]], Rule]] = {
    Heartbeat: PUBLIC,
    GetVersion: PUBLIC,
    CheckHealth: KNOWN,
    GetPreflight: KNOWN,
    GetIdentity: KNOWN,
    Reset: _admin("server", "system:reset"),
    CreateTenant: _admin("new tenant", "tenant:create_tenant"),
    GetTenant: _read("in tenant", "tenant:get_tenant"),
    UpdateTenant: _admin("tenant", "tenant:update_tenant"),
    CreateDatabase: _admin("new database", "db:create_database"),
    GetDatabase: _read("in database", "db:get_database"),
    ListDatabases: _read("in tenant", "db:list_databases"),
    DeleteDatabase: _admin("database", "db:delete_database"),
    CreateCollection: _write("name", "db:create_collection"),
    GetCollection: _read("name", "collection:get_collection"),
    GetCollectionById: _read("id", "collection:get_collection"),
    FindCollection: _read("id", "collection:get_collection"),
    ListCollections: _read("in collections", "db:list_collections"),
    CountCollections: _read("in collections", "db:count_collections"),
    ModifyCollection: _write("id", "collection:update_collection"),
    ReindexCollection: _write("id", "collection:reindex"),
    DeleteCollection: _write("name", "collection:delete_collection"),
    AddRecords: _write("id", "collection:add"),
    UpsertRecords: _write("id", "collection:upsert"),
    UpdateRecords: _write("id", "collection:update"),
    DeleteRecords: _write("id", "collection:delete"),
    GetRecords: _read("id", "collection:get"),
    QueryRecords: _read("id", "collection:query"),
    CountRecords: _read("id", "collection:count"),
    GetIndexingStatus: _read("id", "collection:indexing_status"),
    FlushCollection: Rule("id", "collection:flush", "write"),
    FlushDatabase: Rule("database", "db:flush", "write"),
    Ingest: _write("id", "collection:ingest"),
    GetIngestPosition: Rule("id", "collection:ingest", "write"),
    PurgeCollection: _write("id", "collection:purge"),
    WatchCollection: _read("id", "collection:watch"),
    WatchDatabase: _read("database", "db:watch"),
    Search: _read("id", "collection:search"),
    ForkCollection: _write("id", "collection:fork"),
    CountForks: _read("id", "collection:count_forks"),
    AttachFunction: _write("id", "collection:attach_function"),
    DetachFunction: _write("id", "collection:detach_function"),
    GetFunction: _read("id", "collection:get_function"),
    GetCollectionByResourceName: KNOWN,
}

GET_OR_CREATE: Final = "db:get_or_create_collection"
"""What Chroma asks for instead of `db:create_collection` when a collection may be there already."""

SEE: Final = "collection:get_collection"
"""The action that shows that a collection is there: without it, one that may not be used is one that does not exist."""

_LEVELS: Final[Mapping[Role, int]] = {"read": 0, "write": 1, "admin": 2}

ROLES: Final[Mapping[Role, frozenset[str]]] = {
    role: frozenset(
        rule.action
        for rule in (*RULES.values(), _write("name", GET_OR_CREATE))
        if rule.action and _LEVELS[rule.role] <= level
    )
    for role, level in _LEVELS.items()
}
"""The actions of each role. Every role has those of the one before."""

IMPLIED: Final[Mapping[str, tuple[str, ...]]] = {
    "db:get_database": ("db:list_databases",),
    "db:create_database": ("db:delete_database",),
    "tenant:create_tenant": ("tenant:update_tenant",),
    "collection:count": ("collection:indexing_status", "collection:count_forks"),
    "collection:query": ("collection:search",),
    "collection:get": ("collection:watch",),
    "collection:upsert": ("collection:flush",),
    "collection:delete": ("collection:purge",),
    "collection:update_collection": ("collection:reindex", "collection:attach_function", "collection:detach_function"),
    "collection:get_collection": ("collection:get_function",),
    "db:create_collection": ("collection:fork",),
    "db:reset": ("system:reset",),
}
"""Actions that Chroma had no name for, by the one that is nearest; and one that 0.4 called otherwise."""

ACTIONS: Final = frozenset({*ROLES["admin"], *IMPLIED})

PUBLIC_PATHS: Final[frozenset[bytes]] = frozenset(
    path.encode()
    for path in (
        API_V2,
        *(call.route.path for call, rule in RULES.items() if rule is PUBLIC),
        *(f"{API_V1}{name}{slash}" for name in ("", "/heartbeat", "/version") for slash in ("", "/")),
        *PROBE_PATHS,
    )
)
"""Paths, as they are sent, that GET and HEAD may be asked of without credentials."""
