"""What a read sees: the LSN that its answer names, the LSN that it asks for, and the level of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from chroma_async import AsyncClientAPI, AsyncCollection
from chroma_async.client.types import ReadLevel
from chroma_async.errors import NotYetVisibleError

pytestmark = [pytest.mark.anyio, pytest.mark.reference_differs]

Read = Callable[..., Awaitable[Any]]

FAR = 2**40


@pytest.fixture(params=["get", "query", "count"])
def read(request: pytest.FixtureRequest, docs: AsyncCollection) -> Read:
    async def query(**options: Any) -> Any:
        return await docs.query([[1.0, 0.0]], **options)

    return query if request.param == "query" else getattr(docs, request.param)


async def test_a_client_knows_the_lsn_of_what_it_wrote(client: AsyncClientAPI, docs: AsyncCollection) -> None:
    result = await docs.upsert(["west"], [[-1.0, 0.0]])
    assert client.lsn == result.lsn


async def test_a_client_knows_the_lsn_of_what_it_changed_in_the_catalog(client: AsyncClientAPI) -> None:
    name, seen = f"catalog-{uuid4()}", [client.lsn]

    async def grown() -> bool:
        seen.append(client.lsn)
        return seen[-1] > seen[-2]

    made = await client.create_collection(name, embedding_function=None)
    assert await grown()
    await made.modify(metadata={"k": 1})
    assert await grown()
    await client.delete_collection(name)
    assert await grown()


async def test_every_read_names_what_it_saw(client: AsyncClientAPI, docs: AsyncCollection, read: Read) -> None:
    written = client.lsn
    client.transport.session.forget()
    await read()
    assert client.lsn >= written


async def test_a_read_that_asks_for_what_is_there_is_answered(client: AsyncClientAPI, read: Read) -> None:
    await read(min_lsn=client.lsn)
    await read(min_lsn=0, wait_seconds=0)


async def test_a_read_that_asks_for_what_never_comes_says_so_in_time(client: AsyncClientAPI, read: Read) -> None:
    with pytest.raises(NotYetVisibleError, match=f"min_lsn={FAR}"):
        await read(min_lsn=FAR, wait_seconds=0.1)
    await read()


async def test_a_client_that_saw_another_log_is_told_once(client: AsyncClientAPI, read: Read) -> None:
    """As after a restore from a backup: what it saw is gone, and it must know, but not for ever."""
    client.read_after(FAR)
    with pytest.raises(NotYetVisibleError, match="another log"):
        await read(wait_seconds=0)
    await read()


@pytest.mark.parametrize("lsn", [-1, 2**63, "7", 1.5, True])
async def test_what_is_no_lsn_is_refused(read: Read, lsn: Any) -> None:
    with pytest.raises(ValueError, match="min_lsn"):
        await read(min_lsn=lsn)


async def test_a_read_of_the_applied_waits_until_what_it_asks_for_is(docs: AsyncCollection) -> None:
    result = await docs.upsert(["west"], [[-1.0, 0.0]], documents=["desert"])
    assert result.lsn is not None
    level = ReadLevel.INDEX_ONLY
    assert await docs.count(level, min_lsn=result.lsn, wait_seconds=20) == 4
    got = await docs.get(["west"], read_level=level, min_lsn=result.lsn)
    assert got["documents"] == ["desert"]
    found = await docs.query([[-1.0, 0.0]], n_results=1, read_level=level, min_lsn=result.lsn)
    assert found["ids"] == [["west"]]


@pytest.mark.parametrize("level", list(ReadLevel))
async def test_an_empty_collection_is_read_at_every_level(client: AsyncClientAPI, level: ReadLevel) -> None:
    name = f"empty-{level.value}"
    made = await client.get_or_create_collection(name, embedding_function=None)
    assert await made.count(level) == 0
    assert (await made.get(read_level=level))["ids"] == []
    assert (await made.query([[1.0]], read_level=level))["ids"] == [[]]
    await client.delete_collection(name)
