"""What a collection offers of Chroma's that servers of ours refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from chroma_async.client.checks import checked_level
from chroma_async.client.transports.base import AsyncTransport
from chroma_async.client.types import ReadLevel
from chroma_async.model import Collection as Model
from chroma_async.model import JsonObject, address_of
from chroma_async.protocol.unsupported import AttachFunction, CountForks, DetachFunction, GetFunction, Search


class AsyncUnsupported:
    """These methods of a collection only send; Chroma's own servers may answer."""

    _transport: AsyncTransport
    _model: Model

    async def search(self, searches: Any, read_level: Any = ReadLevel.INDEX_AND_WAL) -> JsonObject:
        """Send Chroma's hybrid searches: dictionaries in the form of its API, or objects with `to_dict()`; one or a list.

        Raises:
            UnimplementedError: the server, such as ours, has no hybrid search; use `query`.
        """
        level = checked_level(read_level)
        call = Search(**address_of(self._model), searches=_search_json(searches), read_level=level)
        return cast("JsonObject", await self._transport.send(call))

    async def fork_count(self) -> int:
        """Return how many forks the collection has.

        Raises:
            UnimplementedError: the server, such as ours, does not fork.
        """
        return cast("int", await self._transport.send(CountForks(**address_of(self._model))))

    async def attach_function(
        self, function: Any, name: str, output_collection: str, params: Mapping[str, Any] | None = None
    ) -> JsonObject:
        """Let the server run one of its functions over every write; return its description of what was attached.

        Raises:
            UnimplementedError: the server, such as ours, has no functions.
        """
        call = AttachFunction(
            **address_of(self._model),
            name=name,
            function_id=str(getattr(function, "value", function)),
            output_collection=output_collection,
            params=None if params is None else dict(params),
        )
        return cast("JsonObject", await self._transport.send(call))

    async def get_attached_function(self, name: str) -> JsonObject:
        """Return the server's description of an attached function.

        Raises:
            NotFoundError: there is none, as always on our server.
        """
        return cast("JsonObject", await self._transport.send(GetFunction(**address_of(self._model), name=name)))

    async def detach_function(self, name: str, delete_output_collection: bool = False) -> bool:
        """Detach a function, with what it wrote if so wished.

        Raises:
            UnimplementedError: the server, such as ours, has no functions.
        """
        call = DetachFunction(**address_of(self._model), name=name, delete_output=delete_output_collection)
        await self._transport.send(call)
        return True


def _search_json(searches: Any) -> list[Any]:
    several = cast("Sequence[Any]", searches if isinstance(searches, list | tuple) else [searches])
    return [search.to_dict() if hasattr(search, "to_dict") else search for search in several]
