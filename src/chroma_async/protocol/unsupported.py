"""Calls of Chroma's API that a single node does not answer, refused in the words of Chroma's own single node.

They are decoded and checked like any other call, so that a client learns about its own mistakes first. Our clients can send
them, to whatever server they speak to. A call that is taken into the catalogue replaces the row here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import orjson

from chroma_async.errors import ChromaError, InvalidArgumentError, NotFoundError, UnimplementedError
from chroma_async.model import Collection, JsonObject
from chroma_async.protocol.call import API_V2, COLLECTION, Call, Route, WireResponse
from chroma_async.protocol.collection_json import collection_from_json
from chroma_async.protocol.search import check_read_level, check_searches
from chroma_async.protocol.validation import parse_collection_id


class UnsupportedCall(Call[Any], frozen=True, kw_only=True):
    """A call that is always refused."""

    def refusal(self) -> ChromaError:
        """Return why."""
        return UnimplementedError(f"this call is not supported here. call={type(self).__name__}")

    def validate(self) -> None:
        """Refuse: the engine has no handler for it."""
        raise self.refusal()


class _CollectionCall(UnsupportedCall, frozen=True, kw_only=True):
    message: ClassVar[str]
    tenant: str
    database: str
    collection_id: str

    def validate(self) -> None:
        parse_collection_id(self.collection_id)
        super().validate()

    def refusal(self) -> ChromaError:
        return UnimplementedError(self.message)


class Search(_CollectionCall, frozen=True, kw_only=True):
    route: ClassVar = Route("POST", COLLECTION + "/search")
    message: ClassVar = "Error executing plan: Not implemented: Search operation is not implemented for local executor"
    searches: list[Any]
    read_level: str | None = None

    def refusal(self) -> ChromaError:
        check_read_level(self.read_level)
        check_searches(self.searches)
        return super().refusal()


class ForkCollection(_CollectionCall, frozen=True, kw_only=True):
    route: ClassVar = Route("POST", COLLECTION + "/fork")
    message: ClassVar = "Collection forking is unsupported for local chroma"
    new_name: str

    @classmethod
    def decode_result(cls, response: WireResponse) -> Collection:
        return collection_from_json(orjson.loads(response.body))


class CountForks(_CollectionCall, frozen=True, kw_only=True):
    route: ClassVar = Route("GET", COLLECTION + "/fork_count")
    message: ClassVar = "Count forks is unsupported for local chroma"

    @classmethod
    def decode_result(cls, response: WireResponse) -> int:
        return int(orjson.loads(response.body)["count"])


class AttachFunction(_CollectionCall, frozen=True, kw_only=True):
    route: ClassVar = Route("POST", COLLECTION + "/functions/attach")
    message: ClassVar = "attached functions are not implemented"
    name: str
    function_id: str
    output_collection: str
    params: JsonObject | None = None


class DetachFunction(_CollectionCall, frozen=True, kw_only=True):
    route: ClassVar = Route("POST", COLLECTION + "/attached_functions/{name}/detach")
    message: ClassVar = "attached functions are not implemented"
    name: str
    delete_output: bool = False


class GetFunction(_CollectionCall, frozen=True, kw_only=True):
    """There never is one."""

    route: ClassVar = Route("GET", COLLECTION + "/functions/{name}")
    name: str

    def refusal(self) -> ChromaError:
        return NotFoundError("Attached function not found")


class GetCollectionByResourceName(UnsupportedCall, frozen=True, kw_only=True):
    """Resource names belong to Chroma's cloud; here no tenant has one, so nothing is ever found by it."""

    route: ClassVar = Route("GET", API_V2 + "/collections/{crn}")
    crn: str

    def refusal(self) -> ChromaError:
        parts = self.crn.split(":")
        if len(parts) != 3 or not all(parts):
            return InvalidArgumentError(
                "Validation error: crn: CRN must be in the format "
                "<tenant_resource_name>:<database_name>:<collection_name> with non-empty parts"
            )
        return NotFoundError(f"Collection [{self.crn}] does not exist")


UNSUPPORTED: Final[tuple[type[UnsupportedCall], ...]] = (
    Search,
    ForkCollection,
    CountForks,
    AttachFunction,
    DetachFunction,
    GetFunction,
    GetCollectionByResourceName,
)
