"""Tenants and databases."""

from __future__ import annotations

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import DatabaseCreated, DatabaseDeleted, TenantCreated
from chroma_async.engine.handlers.registry import Context, handles
from chroma_async.engine.writer import Decision, Proposal, happened
from chroma_async.errors import NotFoundError, UniqueConstraintError
from chroma_async.model import Database, Tenant
from chroma_async.protocol import (
    CreateDatabase,
    CreateTenant,
    DeleteDatabase,
    GetDatabase,
    GetTenant,
    ListDatabases,
    UpdateTenant,
)
from chroma_async.protocol.results import page


@handles(CreateTenant)
async def create_tenant(context: Context, call: CreateTenant) -> None:
    def decide(catalog: Catalog) -> Decision[None]:
        if catalog.tenant(call.name) is not None:
            raise UniqueConstraintError(f"Tenant [{call.name}] already exists")
        return happened(TenantCreated(call.name))

    await context.writer.submit(Proposal(decide))


@handles(GetTenant)
async def get_tenant(context: Context, call: GetTenant) -> Tenant:
    tenant = context.follower.catalog.tenant(call.tenant)
    if tenant is None:
        raise NotFoundError(f"Tenant [{call.tenant}] not found")
    return tenant


@handles(UpdateTenant)
async def update_tenant(context: Context, call: UpdateTenant) -> None:
    return None


@handles(CreateDatabase)
async def create_database(context: Context, call: CreateDatabase) -> None:
    database_id = context.seams.entropy.uuid()

    def decide(catalog: Catalog) -> Decision[None]:
        if catalog.database(call.tenant, call.name) is not None:
            raise UniqueConstraintError(f"Database [{call.name}] already exists")
        return happened(DatabaseCreated(database_id, call.name, call.tenant))

    await context.writer.submit(Proposal(decide))


@handles(GetDatabase)
async def get_database(context: Context, call: GetDatabase) -> Database:
    database = context.follower.catalog.database(call.tenant, call.database)
    if database is None:
        raise NotFoundError(f"Database [{call.database}] not found. Are you sure it exists?")
    return database


@handles(ListDatabases)
async def list_databases(context: Context, call: ListDatabases) -> list[Database]:
    return context.follower.catalog.databases(call.tenant)[page(call.limit, call.offset)]


@handles(DeleteDatabase)
async def delete_database(context: Context, call: DeleteDatabase) -> None:
    def decide(catalog: Catalog) -> Decision[None]:
        if catalog.database(call.tenant, call.database) is None:
            raise NotFoundError(f"Database [{call.database}] not found")
        return happened(DatabaseDeleted(call.database, call.tenant))

    await context.writer.submit(Proposal(decide))
