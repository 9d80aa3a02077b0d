"""Streams of writes: what they leave behind equals what was sent, whatever the source."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from chroma_async import AsyncClientAPI, AsyncCollection, Line, errors
from chroma_async.client.colours import async_sleep

pytestmark = pytest.mark.anyio


def rows(count: int, first: int = 0) -> Iterator[dict[str, Any]]:
    for number in range(first, first + count):
        yield {"id": f"r{number}", "embedding": [number, 1.0], "document": f"text {number}", "number": number}


def length_and_one(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


async def everything(collection: AsyncCollection) -> dict[str, tuple[Any, ...]]:
    found = await collection.get(include=["embeddings", "documents", "metadatas", "uris"])
    columns = (found["documents"], found["metadatas"], found["uris"])
    assert found["embeddings"] is not None
    return {
        id_: (found["embeddings"][place].tolist(), *(column[place] for column in columns if column is not None))
        for place, id_ in enumerate(found["ids"])
    }


@pytest.fixture
async def plain(client: AsyncClientAPI) -> AsyncCollection:
    return await client.create_collection(f"plain-{uuid4()}", embedding_function=None)


async def test_an_array_may_be_used_again_as_soon_as_it_was_taken(plain: AsyncCollection) -> None:
    """A program with one buffer for all: each line keeps what was in it at the time."""
    buffer = np.zeros(2, dtype=np.float32)
    async with plain.ingest() as stream:
        for number in range(4):
            buffer[:] = number
            await stream.upsert(f"i{number}", buffer)
    found = await everything(plain)
    assert {id_: record[0] for id_, record in found.items()} == {f"i{number}": [number, number] for number in range(4)}


async def test_operations_have_their_effect_in_order(plain: AsyncCollection) -> None:
    async with plain.ingest() as stream:
        await stream.add(["a", "b"], [[1, 2], [3, 4]], [{"x": 1}, {"x": 2}], ["one", None], uris=["u:a", "u:b"])
        await stream.upsert("c", [5, 6], documents="three")
        await stream.add("a", [9, 9])
        await stream.update("b", metadatas={"x": None, "y": [1, 2]}, documents=None, embeddings=[7, 8])
        await stream.delete(["c", "unknown"])
        assert await stream.flush() == 7
        assert await everything(plain) == {
            "a": ([1, 2], "one", {"x": 1}, "u:a"),
            "b": ([7, 8], None, {"y": [1, 2]}, "u:b"),
        }
        await stream.upsert("d", [0, 1])
    assert await plain.count() == 3
    assert stream.position == 8
    assert stream.lsn is not None
    assert stream.errors == []


async def test_reads_of_the_client_see_what_its_stream_wrote(client: AsyncClientAPI, plain: AsyncCollection) -> None:
    async with plain.ingest(stream_id="seen") as stream:
        await stream.add("a", [1, 2])
        await stream.flush()
        assert stream.lsn is not None
        assert client.lsn >= stream.lsn
        assert await plain.count(min_lsn=stream.lsn) == 1


async def test_what_is_added_arrives_without_a_flush_after_a_short_time(plain: AsyncCollection) -> None:
    async with plain.ingest(linger_seconds=0.02) as stream:
        await stream.upsert("a", [1, 2])
        for _ in range(200):
            if stream.position:
                break
            await async_sleep(0.02)
        assert stream.position == 1
        assert await plain.count() == 1


async def test_a_wrong_argument_is_refused_and_the_stream_goes_on(plain: AsyncCollection) -> None:
    async with plain.ingest() as stream:
        with pytest.raises(ValueError, match="one item per id"):
            await stream.add(["a", "b"], [[1, 2]])
        with pytest.raises(ValueError, match="pass embeddings="):
            await stream.add("a")
        with pytest.raises(ValueError, match="finite"):
            await stream.add("a", [1, 2], {"x": float("nan")})
        with pytest.raises(ValueError, match="not a valid text"):
            await stream.add("\ud800", [1, 2])
        await stream.add("a", [1, 2])
    assert await plain.count() == 1
    assert stream.position == 1


async def test_a_stream_is_used_once(plain: AsyncCollection) -> None:
    stream = plain.ingest()
    async with stream:
        await stream.add("a", [1, 2])
    with pytest.raises(RuntimeError, match="same stream_id"):
        await stream.__aenter__()


async def test_a_stream_outside_of_its_context_takes_nothing(plain: AsyncCollection) -> None:
    stream = plain.ingest()
    with pytest.raises(RuntimeError, match="as a context"):
        await stream.add("a", [1, 2])
    async with stream:
        await stream.add("a", [1, 2])
    with pytest.raises(RuntimeError, match="has ended"):
        await stream.add("b", [1, 2])
    with pytest.raises(RuntimeError, match="has ended"):
        await stream.flush()


async def test_images_and_uris_are_embedded_too(client: AsyncClientAPI) -> None:
    def embed(images: list[Any]) -> list[list[float]]:
        return [[float(np.sum(image)), 1.0] for image in images]

    def load(uris: list[str]) -> list[Any]:
        return [np.full((2, 2), len(uri)) for uri in uris]

    collection = await client.create_collection(f"images-{uuid4()}", embedding_function=embed, data_loader=load)
    async with collection.ingest() as stream:
        await stream.add("a", images=np.ones((2, 2)))
        await stream.upsert(["b", "c"], uris=["u:1", "u:22"])
    found = await everything(collection)
    assert [found[id_][0][0] for id_ in "abc"] == [4, 12, 16]
    assert found["c"][3] == "u:22"


async def test_a_large_batch_is_cut_into_parts(plain: AsyncCollection) -> None:
    vectors = np.random.default_rng(1).standard_normal((7_000, 16)).astype(np.float32)
    async with plain.ingest() as stream:
        await stream.add([f"i{number}" for number in range(7_000)], vectors)
    assert stream.position == 7_000
    found = await everything(plain)
    assert [found[f"i{number}"][0] for number in (0, 1_999, 2_000, 6_999)] == vectors[[0, 1_999, 2_000, 6_999]].tolist()
    assert len(found) == 7_000


async def test_an_exception_in_the_context_sends_nothing_more(plain: AsyncCollection) -> None:
    stream = plain.ingest(linger_seconds=60)

    async def failing() -> None:
        async with stream:
            await stream.add("a", [1, 2])
            await stream.flush()
            await stream.add("b", [1, 2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert stream.position == 1
    assert await plain.count() == 1


# ---- bad lines


BAD: list[Any] = [
    {"id": "good", "embedding": [1, 2]},
    {"embedding": [1, 2]},
    {"id": "dimension", "embedding": [1, 2, 3]},
    {"id": "none"},
    {"id": "words", "embedding": ["x", "y"]},
    "no dictionary",
    {"id": "op", "op": "erase", "embedding": [1, 2]},
    {"id": "nested", "embedding": [1, 2], "metadata": {"a": {"b": 1}}},
    {"id": "infinite", "embedding": [1, float("inf")]},
    {"id": "document", "embedding": [1, 2], "document": 5},
    {"id": "fine", "embedding": [3, 4]},
]


async def test_bad_lines_are_passed_over_and_told_by_number(plain: AsyncCollection) -> None:
    told: list[int] = []
    report = await plain.ingest_from(BAD, on_line_error=lambda error: told.append(error.line))
    assert sorted(told) == list(range(1, 10))
    assert report.bad_lines == 9
    assert report.position == report.lines == 11
    reasons = {error.line: error.message for error in report.errors}
    for line, reason in {
        1: "no id",
        2: "dimension of 2, got 3",
        3: "no embedding",
        4: "list of numbers",
        5: "got=str",
        6: "add, update, upsert, delete",
        7: "metadata",
        8: "finite|NaN|Infinity",
        9: "document must be a text",
    }.items():
        assert any(part in reasons[line] for part in reason.split("|")), reasons[line]
    assert set(await everything(plain)) == {"good", "fine"}


async def test_numbers_of_bad_lines_go_on_from_part_to_part(plain: AsyncCollection) -> None:
    bad = {1_234, 2_000, 4_999, 5_500}
    lines = [{"id": f"i{n}", "embedding": [1, 2, 3] if n in bad else [1, 2]} for n in range(6_000)]
    report = await plain.ingest_from(lines)
    assert {error.line for error in report.errors} == bad
    assert await plain.count() == 5_996


@pytest.mark.parametrize("bad", [{"id": "x", "embedding": [1, 2, 3]}, {"id": "x", "embedding": "?"}, {"embedding": [1, 2]}])
async def test_a_stream_that_stops_at_a_bad_line_has_all_before_it_and_nothing_after(
    plain: AsyncCollection, bad: dict[str, Any]
) -> None:
    lines = [*rows(3_000), bad, *rows(3_000, first=3_000)]
    with pytest.raises(errors.InvalidArgumentError, match=r"stopped at a bad line: .* line=3000$"):
        await plain.ingest_from(lines, on_error="stop", stream_id="stopping")
    assert await plain.count() == 3_000
    report = await plain.ingest_from(rows(6_000), stream_id="stopping")
    assert (report.began, report.lines) == (3_000, 3_000)
    assert await plain.count() == 6_000


async def test_an_error_ends_the_stream_and_is_told_by_every_method(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(f"gone-{uuid4()}", embedding_function=None)
    stream = collection.ingest()

    async def failing() -> None:
        async with stream:
            await stream.add("a", [1, 2])
            await stream.flush()
            await client.delete_collection(collection.name)
            await stream.add("b", [1, 2])
            with pytest.raises(errors.NotFoundError):
                await stream.flush()
            with pytest.raises(errors.NotFoundError):
                await stream.add("c", [1, 2])

    with pytest.raises(errors.NotFoundError):
        await failing()
    assert stream.position == 1


# ---- going on


async def test_a_named_stream_goes_on_where_it_ended(plain: AsyncCollection) -> None:
    async with plain.ingest(stream_id="log") as stream:
        await stream.add(["a", "b"], [[1, 2], [3, 4]])
    async with plain.ingest(stream_id="log") as stream:
        assert stream.position == 2
        await stream.add("c", [5, 6])
    assert stream.position == 3
    assert sorted(await everything(plain)) == ["a", "b", "c"]


async def test_a_source_goes_on_after_what_the_server_has(plain: AsyncCollection) -> None:
    class Failing(Exception):
        pass

    async def failing() -> AsyncIterator[dict[str, Any]]:
        for row in rows(4_500):
            yield row
        while not await plain.count():
            await async_sleep(0.01)
        raise Failing

    with pytest.raises(Failing):
        await plain.ingest_from(failing(), stream_id="s")
    there = await plain.count()  # a part may be on its way still
    report = await plain.ingest_from(rows(5_000), stream_id="s")
    assert 0 < there <= report.began <= 4_500
    assert (report.lines, report.position) == (5_000 - report.began, 5_000)
    again = await plain.ingest_from(rows(5_000), stream_id="s")
    assert (again.began, again.lines) == (5_000, 0)
    assert {id_: row[0][0] for id_, row in (await everything(plain)).items()} == {f"r{n}": n for n in range(5_000)}


async def test_the_older_of_two_sessions_ends_and_the_newer_goes_on(plain: AsyncCollection) -> None:
    older, newer = plain.ingest(stream_id="two"), plain.ingest(stream_id="two")

    async def both() -> None:
        async with older:
            await older.add("a", [1, 2])
            await older.flush()
            async with newer:
                assert newer.position == 1
                await newer.add("b", [3, 4])
                await newer.flush()
                await older.add("c", [5, 6])
                with pytest.raises(errors.StreamTakenError):
                    await older.flush()
                await newer.add("d", [7, 8])

    with pytest.raises(errors.StreamTakenError):
        await both()
    assert newer.position == 3
    assert sorted(await everything(plain)) == ["a", "b", "d"]


# ---- sources


async def test_iterators_of_both_kinds_and_of_lines_give_the_same(client: AsyncClientAPI) -> None:
    async def asynchronous() -> AsyncIterator[dict[str, Any]]:
        for number in range(1_000):
            yield next(rows(1, first=number))

    def lines() -> Iterator[Line]:
        for row in rows(1_000):
            yield Line(
                id=row["id"],
                embedding=row["embedding"],
                document=row["document"],
                metadata={"number": row["number"]},
            )

    found: list[Any] = []
    for number, source in enumerate((rows(1_000), asynchronous(), lines(), list(rows(1_000)))):
        collection = await client.create_collection(f"kind-{number}-{uuid4()}", embedding_function=None)
        report = await collection.ingest_from(source)
        assert (report.lines, report.bad_lines) == (1_000, 0)
        found.append(await everything(collection))
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0]["r7"] == ([7, 1], "text 7", {"number": 7}, None)


async def test_an_iterator_that_pauses_holds_nothing_back(plain: AsyncCollection) -> None:
    arrived = threading.Event()

    def pausing() -> Iterator[dict[str, Any]]:
        yield from rows(3)
        assert arrived.wait(20), "what was yielded before has not arrived"
        yield from rows(2, first=3)

    def told(error: Any) -> None:
        arrived.set()

    lines = pausing()
    first = next(lines)

    def with_a_bad_one() -> Iterator[dict[str, Any]]:
        yield first
        yield {"id": ""}
        yield from lines

    report = await plain.ingest_from(with_a_bad_one(), linger_seconds=0.02, on_line_error=told)
    assert report.position == 6
    assert await plain.count() == 5


async def test_what_is_no_source_is_refused(plain: AsyncCollection) -> None:
    for wrong in (5, None, {"id": "a"}):
        with pytest.raises(ValueError, match="a source is"):
            await plain.ingest_from(wrong)
    with pytest.raises(FileNotFoundError):
        await plain.ingest_from("nowhere.csv")
    with pytest.raises(ValueError, match="op must be"):
        await plain.ingest_from([], op="erase")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stream_id"):
        await plain.ingest_from([], stream_id="with space")


async def test_an_empty_source_is_none_to_wait_for(plain: AsyncCollection) -> None:
    report = await plain.ingest_from([])
    assert (report.position, report.lines, report.lsn) == (0, 0, None)


# ---- embedding on the way


async def test_documents_are_embedded_on_the_way_in_order(client: AsyncClientAPI) -> None:
    calls: list[int] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        calls.append(len(texts))
        await async_sleep(0.05 if len(calls) % 2 else 0)
        return length_and_one(texts)

    collection = await client.create_collection(f"embedded-{uuid4()}", embedding_function=embed)
    lines: list[dict[str, Any]] = [{"id": f"i{n % 700}", "document": "x" * (n + 1)} for n in range(1_400)]
    lines[5] = {"id": "given", "embedding": [0.5, 0.5], "document": "not embedded"}
    lines[6] = {"id": "nothing"}
    report = await collection.ingest_from(lines)
    assert [error.line for error in report.errors] == [6]
    assert "nothing to embed" in report.errors[0].message
    assert sum(calls) == 1_398
    assert max(calls) <= 300
    found = await everything(collection)
    assert found["i699"][0] == [1_400, 1]
    assert found["given"][0] == [0.5, 0.5]
    assert all(row[0][0] == len(row[1]) for id_, row in found.items() if id_ != "given")


async def test_an_ordinary_embedding_function_is_called_once_at_a_time_and_many_times_when_asked(
    client: AsyncClientAPI,
) -> None:
    lock = threading.Lock()
    at_once = most = 0

    def embed(texts: list[str]) -> list[list[float]]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.02)
        with lock:
            at_once -= 1
        return length_and_one(texts)

    collection = await client.create_collection(f"once-{uuid4()}", embedding_function=embed)
    lines = [{"id": f"i{n}", "document": f"text {n}"} for n in range(2_000)]
    await collection.ingest_from(lines)
    assert most == 1
    await collection.ingest_from(lines, embedding_concurrency=3)
    assert 2 <= most <= 3
    assert await collection.count() == 2_000


async def test_an_embedding_function_that_fails_ends_the_stream_after_what_came_before(client: AsyncClientAPI) -> None:
    broken = True

    def embed(texts: list[str]) -> list[list[float]]:
        if broken and "text 1000" in texts:
            raise OSError("no credit")
        return length_and_one(texts)

    collection = await client.create_collection(f"failing-{uuid4()}", embedding_function=embed)
    lines = [{"id": f"i{n}", "document": f"text {n}"} for n in range(2_000)]
    with pytest.raises(OSError, match="no credit"):
        await collection.ingest_from(lines, stream_id="embedding")
    there = await collection.count()
    assert 700 < there <= 1_000
    broken = False
    report = await collection.ingest_from(lines, stream_id="embedding")
    assert (report.began, report.position) == (there, 2_000)
    assert await collection.count() == 2_000


async def test_updates_of_documents_are_embedded_and_others_are_not(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(f"updates-{uuid4()}", embedding_function=length_and_one)
    async with collection.ingest() as stream:
        await stream.add(["a", "b"], documents=["four", "seven.."])
        await stream.update("a", documents="sixsix")
        await stream.update("b", metadatas={"x": 1})
    found = await everything(collection)
    assert found["a"][:2] == ([6, 1], "sixsix")
    assert found["b"] == ([7, 1], "seven..", {"x": 1}, None)


async def test_a_stream_of_a_closed_client_fails_at_once(make_client: AsyncClientAPI) -> None:
    async with make_client as client:
        collection = await client.create_collection(f"closed-{uuid4()}", embedding_function=None)
    with pytest.raises(RuntimeError, match="closed"):
        await collection.ingest().__aenter__()
