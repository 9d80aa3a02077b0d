"""Calls about tenants and databases."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import orjson

from chroma_async.model import DEFAULT_TENANT, Database, Tenant
from chroma_async.protocol.call import API_V2, DATABASE, TENANT, Call, EmptyResultCall, Route, WireResponse
from chroma_async.protocol.validation import check_database_in_path, check_name, check_tenant_name


class CreateTenant(EmptyResultCall, frozen=True, kw_only=True):
    """Create a tenant; names are free but for their length."""

    route: ClassVar = Route("POST", API_V2 + "/tenants")
    writes_catalog: ClassVar = True
    name: str

    def validate(self) -> None:
        check_tenant_name(self.name)


class GetTenant(Call[Tenant], frozen=True, kw_only=True):
    """A tenant by name."""

    route: ClassVar = Route("GET", TENANT)
    safe_to_repeat: ClassVar = True
    tenant: str

    @classmethod
    def decode_result(cls, response: WireResponse) -> Tenant:
        fields = cast("dict[str, Any]", orjson.loads(response.body))
        return Tenant(fields["name"], fields.get("resource_name"))


class UpdateTenant(EmptyResultCall, frozen=True, kw_only=True):
    """Accepted and without effect, as on Chroma's single node: resource names belong to its cloud."""

    route: ClassVar = Route("PATCH", TENANT)
    writes_catalog: ClassVar = True
    safe_to_repeat: ClassVar = True
    tenant: str
    resource_name: str


def _database(fields: dict[str, Any]) -> Database:
    return Database(id=fields["id"], name=fields["name"], tenant=fields["tenant"])


class CreateDatabase(EmptyResultCall, frozen=True, kw_only=True):
    """Create a database in a tenant."""

    route: ClassVar = Route("POST", TENANT + "/databases")
    writes_catalog: ClassVar = True
    tenant: str = DEFAULT_TENANT
    name: str

    def validate(self) -> None:
        check_name(self.name)


class GetDatabase(Call[Database], frozen=True, kw_only=True):
    """A database by name."""

    route: ClassVar = Route("GET", DATABASE)
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str

    def validate(self) -> None:
        check_database_in_path(self.database)

    @classmethod
    def decode_result(cls, response: WireResponse) -> Database:
        return _database(orjson.loads(response.body))


class ListDatabases(Call[list[Database]], frozen=True, kw_only=True):
    """Databases of a tenant in the byte order of their names."""

    route: ClassVar = Route("GET", TENANT + "/databases", query=("limit", "offset"))
    safe_to_repeat: ClassVar = True
    tenant: str
    limit: int | None = None
    offset: int | None = None

    @classmethod
    def decode_result(cls, response: WireResponse) -> list[Database]:
        return [_database(fields) for fields in orjson.loads(response.body)]


class DeleteDatabase(EmptyResultCall, frozen=True, kw_only=True):
    """Delete a database with all of its collections."""

    route: ClassVar = Route("DELETE", DATABASE)
    writes_catalog: ClassVar = True
    tenant: str
    database: str
