"""The clients: one set of methods over three ways to reach an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from chroma_async.client._async.collection import MISSING_DEFAULT, AsyncCollection
from chroma_async.client._async.embedder import DataLoader
from chroma_async.client._async.watch import AsyncWatch
from chroma_async.client.address import DEFAULT_HOST, DEFAULT_PORT
from chroma_async.client.checks import (
    checked_lsn,
    checked_metadata,
    checked_missing,
    checked_name,
    checked_optional_count,
    checked_stage,
    checked_wait_seconds,
)
from chroma_async.client.colours import AsyncCaller, AsyncConnectable, AsyncLock
from chroma_async.client.configuration import chosen_function, to_input
from chroma_async.client.embedding import DEFAULT_EMBEDDING, EmbeddingArgument, require_same
from chroma_async.client.headers import checked_headers
from chroma_async.client.options import (
    chosen_limits,
    chosen_timeout,
    data_directory,
    engine_settings,
    server_address,
    verification,
)
from chroma_async.client.process import get_settings
from chroma_async.client.results import Database, Tenant, to_database
from chroma_async.client.retry import RetryPolicy
from chroma_async.client.settings import Settings, request_headers
from chroma_async.client.transports.base import AsyncTransport
from chroma_async.client.transports.embedded import AsyncEmbeddedTransport, engine_opener
from chroma_async.client.watching import RECONNECT_SECONDS, WATCH_INCLUDE, OnGone, watch_fields
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT, DatabaseAddress, Stage
from chroma_async.model import Collection as Model
from chroma_async.protocol import (
    CountCollections,
    CreateCollection,
    CreateDatabase,
    CreateTenant,
    DeleteCollection,
    DeleteDatabase,
    FlushDatabase,
    GetCollection,
    GetCollectionById,
    GetDatabase,
    GetIdentity,
    GetPreflight,
    GetTenant,
    GetVersion,
    Heartbeat,
    ListCollections,
    ListDatabases,
    Reset,
    WatchDatabase,
)
from chroma_async.protocol.changes import ChangeKind, Included
from chroma_async.protocol.results import FlushResult
from chroma_async.protocol.system import Identity
from chroma_async.settings import EngineSettings, Missing

if TYPE_CHECKING:  # httpx is loaded when a client is made, not when it is imported
    import httpx

    from chroma_async.client._async.http import AsyncHttpTransport


class AsyncClientAPI(AsyncConnectable):
    """What every client offers, however it reaches its engine; `chroma_async` has the constructors.

    Connecting asks who the caller is, and whether tenant and database exist, as Chroma's clients do. A client may be used by
    many tasks or threads at once. An engine in this process stays in the event loop that opened it; a server is reached from
    any number of loops, by connections of their own. Close it, or use it as a context manager.

    `missing` says whether `$ne`, `$nin`, `$not_contains` and `$not_regex` match records that lack the field or the document:
    "exclude" or "include". Without it the engine's setting or the server's option counts, and else records are excluded.
    """

    def __init__(
        self, transport: AsyncTransport, settings: Settings, tenant: str, database: str, missing: Missing | None
    ) -> None:
        self.tenant = tenant
        self.database = database
        self.transport = transport
        self._settings = settings
        self._missing: Missing | None = checked_missing(missing)
        self._caller = AsyncCaller()
        self._lock = AsyncLock()
        self._ready = False
        self._max_batch_size: int | None = None
        self._begin()

    @property
    def lsn(self) -> int:
        """The newest position in the log that this client has written or seen; 0 before it has, or of another server.

        Its own reads see that anyway. Another client's do with `read_after`, or by `min_lsn`.
        """
        return self.transport.session.lsn

    def read_after(self, lsn: int) -> None:
        """Let all reads of this client see what another one has seen, by that one's `lsn`."""
        self.transport.session.saw(checked_lsn(lsn))

    async def connect(self) -> None:
        """Connect, if that has not happened yet.

        Raises:
            ServerUnreachableError: nobody answers, or somebody else.
            NotFoundError: the tenant or the database does not exist.
        """
        if self._ready:
            return
        async with self._lock:
            if not self._ready:
                await self.transport.open()
                await self._adopt(await self.transport.send(GetIdentity()))
                await self._require(self.tenant, self.database)
                self._ready = True

    async def _adopt(self, identity: Identity) -> None:
        """Take the one tenant and database of the user from the server, where the settings say so."""
        if not self._settings.chroma_overwrite_singleton_tenant_database_access_from_auth:
            return
        if identity.tenant not in (None, "*"):
            self.tenant = identity.tenant or self.tenant
        databases = set(identity.databases or ())
        if len(databases) == 1 and "*" not in databases:
            self.database = databases.pop()

    async def _require(self, tenant: str, database: str) -> None:
        await self.transport.send(GetTenant(tenant=checked_name(tenant, "tenant")))
        await self.transport.send(GetDatabase(tenant=tenant, database=checked_name(database, "database")))

    async def _address(self) -> DatabaseAddress:
        """Connect, and return the fields by which calls name the database: which one it is, the server may say."""
        await self.connect()
        return DatabaseAddress(tenant=self.tenant, database=self.database)

    async def __aenter__(self) -> Self:
        return await self._connected()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, or the engine. Collections of this client can't be used any more."""
        await self._caller.aclose()
        await self.transport.aclose()

    async def heartbeat(self) -> int:
        """Return the server's clock, in nanoseconds since 1970."""
        return await self.transport.send(Heartbeat())

    async def get_version(self) -> str:
        """Return the version of the API."""
        return await self.transport.send(GetVersion())

    def get_settings(self) -> Settings:
        """Return the settings that the client was made with."""
        return self._settings

    async def get_max_batch_size(self) -> int:
        """Return how many records the server advises to write at once. Larger batches are taken as well."""
        if self._max_batch_size is None:
            answer = await self.transport.send(GetPreflight())
            self._max_batch_size = int(answer["max_batch_size"])
        return self._max_batch_size

    async def get_user_identity(self) -> Identity:
        """Return who the server thinks we are."""
        return await self.transport.send(GetIdentity())

    async def flush(self, wait: Stage = "applied", wait_seconds: float | None = None) -> FlushResult:
        """Make durable all that was acknowledged before, and wait until all collections of the database have applied it.

        See `AsyncCollection.flush`; `waiting` names the collections that have not come so far within `wait_seconds` (30).
        """
        seconds = checked_wait_seconds(wait_seconds)
        call = FlushDatabase(wait=checked_stage(wait), wait_seconds=seconds, **await self._address())
        return await self.transport.send(call)

    def watch(
        self,
        after: str | None = None,
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
        """Follow the changes of all collections of this database, and of which there are. See `AsyncWatch`.

        A change is one write, whole: its LSN, time, kind, ids, and what of the rest `include` names. Without `after` the
        feed begins now; with `after=0` at the oldest change that is kept; with the `position` of another watch where that
        was. `snapshot=True` begins with the records that there are. Where a connection breaks, the feed goes on.

        Args:
            after: a `cursor` of this feed, or "0".
            snapshot: first "snapshot_begin", then "snapshot" with records, page by page, then "snapshot_end", then changes.
            include: some of "documents", "embeddings", "metadatas", "uris".
            kinds: some of "add", "update", "upsert", "delete", "collection_created", "collection_modified" and
                "collection_deleted"; None: all.
            where: a filter on the metadata that a change carries. Deletions carry none, and always pass.
            missing: as in the class's docstring.
            heartbeats: whether the signs of life come too, which say how far the feed has come.
            heartbeat_seconds: how often there is one at least; 15 by default, 0.1 to 3600.
            on_gone: when changes are not kept any more, raise, or begin again from a snapshot.
            reconnect_seconds: how long to try to connect again; then the error is raised.

        Raises (while iterating):
            GoneError: what follows the position is not kept any more: begin again from a snapshot.
            NotFoundError: the database does not exist.
            InvalidArgumentError: an argument that can't be meant so.
        """
        chosen = self._missing if missing is None else missing
        fields = watch_fields(after, snapshot, include, kinds, where, chosen or MISSING_DEFAULT, heartbeat_seconds)
        call = WatchDatabase(tenant=self.tenant, database=self.database, **fields)
        return AsyncWatch(self.transport, call, on_gone=on_gone, heartbeats=heartbeats, reconnect_seconds=reconnect_seconds)

    async def reset(self) -> bool:
        """Delete everything, in all tenants.

        Raises:
            ForbiddenError: the server, or the settings of an embedded client, don't allow it.
        """
        return await self.transport.send(Reset())

    async def set_tenant(self, tenant: str, database: str = DEFAULT_DATABASE) -> None:
        """Go on in another tenant.

        Raises:
            NotFoundError: the tenant, or the database in it, does not exist; the client stays where it was.
        """
        await self._require(tenant, database)
        self.tenant, self.database = tenant, database

    async def set_database(self, database: str) -> None:
        """Go on in another database of the same tenant.

        Raises:
            NotFoundError: it does not exist; the client stays where it was.
        """
        await self._require(self.tenant, database)
        self.database = database

    @staticmethod
    def clear_system_cache() -> None:
        """Nothing is cached: clients share no state. Here because programs for Chroma call it."""

    async def create_collection(
        self,
        name: str,
        schema: Any = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING,
        data_loader: DataLoader | None = None,
        get_or_create: bool = False,
    ) -> AsyncCollection:
        """Create a collection.

        `configuration` is such as `{"hnsw": {"space": "cosine"}}`. The embedding function's name and configuration are
        stored, so that `get_collection` finds it again.

        Raises:
            UniqueConstraintError: there is one of that name, and `get_or_create` is not set.
            InvalidArgumentError: the name breaks the rule: 3 to 512 of a-z, A-Z, 0-9, `.`, `_` and `-`.
        """
        function = chosen_function(embedding_function, configuration)
        described_schema = schema.serialize_to_json() if hasattr(schema, "serialize_to_json") else schema
        call = CreateCollection(
            name=checked_name(name),
            metadata=checked_metadata(metadata, nones_allowed=False),
            configuration=to_input(configuration, function, metadata),
            schema=described_schema,
            get_or_create=get_or_create,
            **await self._address(),
        )
        model = await self.transport.send(call)
        if get_or_create:
            require_same(function, model.embedding_function)
        return self._collection(model, function, data_loader)

    async def get_or_create_collection(
        self,
        name: str,
        schema: Any = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING,
        data_loader: DataLoader | None = None,
    ) -> AsyncCollection:
        """Return the collection of that name as it is, or create it with what is given.

        Raises:
            ValueError: it exists with another embedding function.
        """
        return await self.create_collection(
            name, schema, configuration, metadata, embedding_function, data_loader, get_or_create=True
        )

    async def get_collection(
        self,
        name: str,
        embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING,
        data_loader: DataLoader | None = None,
    ) -> AsyncCollection:
        """Return the collection of that name.

        Raises:
            NotFoundError: there is none.
            ValueError: it was made with another embedding function.
        """
        call = GetCollection(name=checked_name(name), **await self._address())
        model = await self.transport.send(call)
        require_same(embedding_function, model.embedding_function)
        return self._collection(model, embedding_function, data_loader)

    async def get_collection_by_id(
        self,
        id: UUID | str,  # noqa: A002 - Chroma's name
        embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING,
        data_loader: DataLoader | None = None,
    ) -> AsyncCollection:
        """Return the collection of that UUID.

        Raises:
            NotFoundError: there is none in this tenant and database.
            InvalidArgumentError: it is no UUID.
        """
        model = await self.transport.send(GetCollectionById(collection_id=str(id), **await self._address()))
        require_same(embedding_function, model.embedding_function)
        return self._collection(model, embedding_function, data_loader)

    async def list_collections(self, limit: int | None = None, offset: int | None = None) -> list[AsyncCollection]:
        """Return the collections of this database, in the order of their UUIDs."""
        call = ListCollections(
            limit=checked_optional_count(limit, "limit"),
            offset=checked_optional_count(offset, "offset"),
            **await self._address(),
        )
        return [self._collection(model, DEFAULT_EMBEDDING, None) for model in await self.transport.send(call)]

    async def count_collections(self) -> int:
        """Return the number of collections in this database."""
        return await self.transport.send(CountCollections(**await self._address()))

    async def delete_collection(self, name: str) -> None:
        """Delete a collection with its records.

        Raises:
            NotFoundError: there is none of that name.
        """
        await self.transport.send(DeleteCollection(name=checked_name(name), **await self._address()))

    def _collection(
        self, model: Model, embedding_function: EmbeddingArgument, data_loader: DataLoader | None
    ) -> AsyncCollection:
        return AsyncCollection(self.transport, self._caller, model, embedding_function, data_loader, self._missing)


class AsyncClient(AsyncClientAPI):
    """The client that the settings ask for.

    With `chroma_server_host` one of that server, with `is_persistent` one of the directory `persist_directory`, else one
    that keeps nothing. Without settings those of `configure` count.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        *,
        missing: Missing | None = None,
    ) -> None:
        settings = settings or get_settings()
        super().__init__(_transport_of(settings), settings, tenant, database, missing)


class AsyncHttpClient(AsyncClientAPI):
    """A client of a server, ours or Chroma's.

    `host` is a name, or a URL with scheme, port and path prefix (`https://db.example.org/vectors`). Who asks is said by
    `auth`, a user's name and password, by `token`, by the settings as for Chroma, or by `headers`. `timeout` is in seconds,
    or an `httpx.Timeout`; by default 10 to connect and 60 for an answer. `retries` is the number of further attempts when a
    request could not be delivered, was refused for now, or, for calls that are safe to repeat, got no answer. `limits` says
    how many connections there may be, and how many idle ones are kept.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        ssl: bool = False,
        headers: dict[str, str] | None = None,
        settings: Settings | None = None,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        *,
        timeout: float | httpx.Timeout | None = None,
        auth: tuple[str, str] | None = None,
        token: str | None = None,
        retries: int = 2,
        limits: httpx.Limits | None = None,
        missing: Missing | None = None,
    ) -> None:
        settings = settings or Settings()
        sent = request_headers(settings, headers, auth, token)
        transport = _http_transport(host, port, ssl, sent, settings, timeout, retries, limits)
        super().__init__(transport, settings, tenant, database, missing)


class AsyncPersistentClient(AsyncClientAPI):
    """A client with the engine in this process, on a directory; other processes may have the same directory open.

    `compact=False` leaves the background work to other processes that have the directory open.
    """

    def __init__(
        self,
        path: str | Path = "./chroma",
        settings: Settings | None = None,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        *,
        engine: EngineSettings | None = None,
        compact: bool = True,
        missing: Missing | None = None,
    ) -> None:
        settings = settings or Settings()
        opener = engine_opener(data_directory(path), engine_settings(settings, engine), compact=compact)
        super().__init__(AsyncEmbeddedTransport(opener), settings, tenant, database, missing)


class AsyncEphemeralClient(AsyncClientAPI):
    """A client with an engine of its own in this process that keeps nothing: two of them share no data."""

    def __init__(
        self,
        settings: Settings | None = None,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        *,
        engine: EngineSettings | None = None,
        missing: Missing | None = None,
    ) -> None:
        settings = settings or Settings()
        opener = engine_opener(None, engine_settings(settings, engine))
        super().__init__(AsyncEmbeddedTransport(opener), settings, tenant, database, missing)


class AsyncAdminClient(AsyncConnectable):
    """Tenants and databases.

    `AsyncAdminClient(settings)` speaks to the server that the settings name (`chroma_server_host`), or opens their
    `persist_directory`; `AsyncAdminClient.of(client)` shares the connection of another client, which stays the one to close.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or get_settings()
        self._transport = _transport_of(settings)
        self._owned = True
        self._begin()

    @classmethod
    def of(cls, client: AsyncClientAPI) -> AsyncAdminClient:
        """Return an admin client on the connection, or the engine, of another client."""
        admin = cls.__new__(cls)
        admin._transport = client.transport
        admin._owned = False
        return admin

    async def connect(self) -> None:
        """Open the engine; a server is asked nothing."""
        await self._transport.open()

    async def __aenter__(self) -> Self:
        return await self._connected()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections or the engine, unless they belong to another client."""
        if self._owned:
            await self._transport.aclose()

    async def create_tenant(self, name: str) -> None:
        """Create a tenant.

        Raises:
            UniqueConstraintError: there is one of that name.
        """
        await self._transport.send(CreateTenant(name=checked_name(name)))

    async def get_tenant(self, name: str) -> Tenant:
        """Return a tenant.

        Raises:
            NotFoundError: there is none of that name.
        """
        tenant = await self._transport.send(GetTenant(tenant=checked_name(name)))
        return Tenant(name=tenant.name)

    async def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Create a database.

        Raises:
            UniqueConstraintError: the tenant has one of that name.
        """
        await self._transport.send(CreateDatabase(name=checked_name(name), tenant=checked_name(tenant, "tenant")))

    async def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> Database:
        """Return a database.

        Raises:
            NotFoundError: the tenant has none of that name.
        """
        return to_database(
            await self._transport.send(GetDatabase(database=checked_name(name), tenant=checked_name(tenant, "tenant")))
        )

    async def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Delete a database with all of its collections.

        Raises:
            NotFoundError: the tenant has none of that name.
        """
        await self._transport.send(DeleteDatabase(database=checked_name(name), tenant=checked_name(tenant, "tenant")))

    async def list_databases(
        self, limit: int | None = None, offset: int | None = None, tenant: str = DEFAULT_TENANT
    ) -> list[Database]:
        """Return the databases of a tenant, ordered by name."""
        call = ListDatabases(
            tenant=checked_name(tenant, "tenant"),
            limit=checked_optional_count(limit, "limit"),
            offset=checked_optional_count(offset, "offset"),
        )
        return [to_database(found) for found in await self._transport.send(call)]

    @staticmethod
    def clear_system_cache() -> None:
        """Nothing is cached: clients share no state. Here because programs for Chroma call it."""


AsyncAdminAPI = AsyncAdminClient


def _http_transport(
    host: str,
    port: int,
    ssl: bool,
    headers: dict[str, str],
    settings: Settings,
    timeout: float | httpx.Timeout | None = None,
    retries: int = 2,
    limits: httpx.Limits | None = None,
) -> AsyncHttpTransport:
    from chroma_async.client._async.http import AsyncHttpTransport

    return AsyncHttpTransport(
        server_address(host, port, ssl, settings),
        headers=checked_headers(headers),
        timeout=chosen_timeout(timeout),
        retry=RetryPolicy(retries=retries),
        limits=chosen_limits(limits, settings),
        verify=verification(settings),
    )


def _transport_of(settings: Settings) -> AsyncTransport:
    if settings.means_http:
        if settings.chroma_server_host is None:
            raise ValueError(f"settings need chroma_server_host. chroma_api_impl={settings.chroma_api_impl!r}")
        return _http_transport(DEFAULT_HOST, DEFAULT_PORT, False, request_headers(settings, None), settings)
    path = data_directory(settings.persist_directory) if settings.is_persistent else None
    return AsyncEmbeddedTransport(engine_opener(path, engine_settings(settings, None)))
