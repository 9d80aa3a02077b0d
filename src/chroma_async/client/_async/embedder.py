"""How a collection makes vectors of what its users pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chroma_async.client.checks import checked_texts
from chroma_async.client.colours import AsyncCaller
from chroma_async.client.embedding import HOW_TO_PASS, EmbeddingArgument, EmbeddingCallable, query_target, resolve
from chroma_async.client.records import WHAT_TO_PASS, Inputs, Records, listed_images
from chroma_async.client.vectors import to_matrix
from chroma_async.model import JsonObject, Vectors

DataLoader = Callable[[list[Any]], Any]

QUERY_INPUTS = "pass query_embeddings=..., or exactly one of query_texts, query_images and query_uris"


class AsyncEmbedder:
    """Its embedding function, and its data loader, which makes what can be embedded of URIs.

    `stored` is the server's description of the function, by which one is found where none is `given`.
    """

    def __init__(
        self, caller: AsyncCaller, given: EmbeddingArgument, stored: JsonObject | None, data_loader: DataLoader | None
    ) -> None:
        self._caller = caller
        self.given = given
        self.stored = stored
        self.data_loader = data_loader

    def function(self) -> EmbeddingCallable | None:
        """Return the function, made once; None where there is none.

        Raises:
            ValueError: it is not registered in this process.
        """
        function = resolve(self.given, self.stored)
        if function is not None:
            self.given = function
        return function

    async def records(self, records: Records) -> Vectors:
        """Return the vectors of records that came without."""
        return await self._embed(records.inputs, WHAT_TO_PASS, is_query=False)

    async def texts(self, texts: list[Any]) -> Vectors:
        return await self._embed(Inputs(texts), WHAT_TO_PASS, is_query=False)

    async def queries(self, texts: Any, images: Any, uris: Any) -> Vectors:
        """Return the vectors of queries that came without."""
        inputs = Inputs(
            checked_texts(texts, "query_texts", nones_allowed=False),
            listed_images(images, "query_images"),
            checked_texts(uris, "query_uris", nones_allowed=False),
        )
        return await self._embed(inputs, QUERY_INPUTS, is_query=True)

    async def load(self, uris: Sequence[Any] | None) -> Any:
        """Return what the data loader makes of URIs."""
        if self.data_loader is None:
            raise ValueError("URIs can't be loaded without a data loader; pass data_loader=... to the client's method")
        return await self._caller.call(self.data_loader, list(uris or ()))

    async def _embed(self, inputs: Inputs, hint: str, *, is_query: bool) -> Vectors:
        chosen = inputs.chosen(hint)
        function = self.function()
        if function is None:
            raise ValueError(f"no embedding function; {HOW_TO_PASS}")
        items = await self.load(inputs.uris) if chosen is None else chosen
        answer = await self._caller.call(query_target(function) if is_query else function, items)
        vectors = to_matrix(answer, "the embedding function's answer")
        if len(vectors) != len(items):
            raise ValueError(
                f"the embedding function must give one vector per input. inputs={len(items)} vectors={len(vectors)}"
            )
        return vectors
