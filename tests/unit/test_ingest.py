"""Parts of ingest streams: what becomes of their lines, and that each is applied once."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from tests.support.engines import (
    PATH,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)

from chroma_async.core.events import RecordsHead
from chroma_async.engine import Engine, streams
from chroma_async.engine.parts import Part
from chroma_async.errors import InvalidArgumentError, NotFoundError, StreamGapError, StreamTakenError
from chroma_async.model import CollectionId
from chroma_async.protocol import GetIngestPosition, Ingest, WireRequest, WireResponse
from chroma_async.protocol.ingest import Acknowledgement, IngestResult, LineError, OnError, encode_acknowledgement
from chroma_async.protocol.lines import decode_ndjson
from chroma_async.server.app import create_app
from chroma_async.settings import ServerSettings
from chroma_async.wal.sqlite import truncation

pytestmark = pytest.mark.anyio


def line(record_id: str, *vector: float, **fields: Any) -> dict[str, Any]:
    return {"id": record_id, **({"embedding": list(vector)} if vector else {}), **fields}


def ndjson(*lines: dict[str, Any] | bytes) -> bytes:
    return b"".join((item if isinstance(item, bytes) else orjson.dumps(item)) + b"\n" for item in lines)


async def send(engine: Engine, place: str, content: bytes, position: int = 0, **fields: Any) -> IngestResult:
    names = {"stream_id": "s", "session": "first", **fields}
    return await engine.dispatch(Ingest(**PATH, collection_id=place, position=position, content=content, **names))


async def position(engine: Engine, place: str, stream_id: str = "s") -> int:
    return (await engine.dispatch(GetIngestPosition(**PATH, collection_id=place, stream_id=stream_id))).position


async def test_lines_of_all_operations_have_their_effect_in_their_order(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        result = await send(
            engine,
            place,
            ndjson(
                line("a", 1, 2, document="one", metadata={"n": 1}, uri="u"),
                line("b", 3, 4, op="add"),
                line("b", 5, 6, op="add"),
                {"op": "update", "id": "a", "metadata": {"n": None, "m": 2}, "document": "two"},
                line("c", 7, 8),
                {"op": "delete", "id": "c"},
                {"op": "update", "id": "c", "document": "nobody"},
                {"id": "d", "embedding": base64.b64encode(np.array([9, 10], dtype="<f4").tobytes()).decode()},
            ),
        )
        assert (result.position, result.errors) == (8, [])
        assert result.lsn == engine.follower.position
        assert contents(await Records(engine, place).get()) == {
            "a": [(1, 2), "two", {"m": 2}, "u"],
            "b": [(3, 4), None, None, None],
            "d": [(9, 10), None, None, None],
        }


BAD = [
    (b"{", "not a line"),
    (b"[1]", "not a line"),
    (b'{"id": "x"} {"id": "y"}', "not a line"),
    (b'{"id": "\xff", "embedding": [1, 2]}', "not a line"),
    (b'{"id": "\\ud800", "embedding": [1, 2]}', "not a line"),
    (b'{"id": "x", "embedding": [1, NaN]}', "not a line"),
    (b"[" * 100_000, "not a line"),
    (ndjson({"op": "merge", "id": "x"})[:-1], "not a line"),
    (ndjson({"embedding": [1, 2]})[:-1], "not a line"),
    (ndjson({"id": 5, "embedding": [1, 2]})[:-1], "not a line"),
    (ndjson(line("x", 1, 2, document=5))[:-1], "not a line"),
    (ndjson(line("", 1, 2))[:-1], "Empty ID"),
    (ndjson(line("x"))[:-1], "upsert needs an embedding"),
    (ndjson(line("x", op="add"))[:-1], "add needs an embedding"),
    (ndjson(line("x", 1, 2, 3))[:-1], "dimension of 2, got 3"),
    (ndjson({"id": "x", "embedding": []})[:-1], "at least 1 dimension"),
    (ndjson({"id": "x", "embedding": ""})[:-1], "at least 1 dimension"),
    (ndjson({"id": "x", "embedding": "AAAA"})[:-1], "Invalid byte length"),
    (ndjson({"id": "x", "embedding": "?"})[:-1], "Invalid"),
    (ndjson({"id": "x", "embedding": base64.b64encode(np.array([1, np.inf], dtype="<f4")).decode()})[:-1], "Non-finite"),
    (b'{"id": "x", "embedding": [1, 1e39]}', "NaN or Infinity"),
    (ndjson(line("x", 1, 2, metadata={"n": {"a": 1}}))[:-1], "metadatas[0].n"),
    (ndjson(line("x", 1, 2, op="add", metadata={"n": None}))[:-1], "metadatas[0].n"),
    (ndjson(line("x", 1, 2, metadata={"#n": 1}))[:-1], "'#n'"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[str(number) for number in range(len(BAD))])
@pytest.mark.parametrize("fixed", [False, True])
async def test_a_bad_line_is_named_and_passed_over(tmp_path: Path, bad: bytes, message: str, fixed: bool) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        if fixed:
            await Records(engine, place).add(["z"], [[0, 0]])
        content = ndjson(line("a", 1, 2), bad, line("b", 3, 4), bad, line("c", 5, 6))
        result = await send(engine, place, content, stream_id="t")
        assert result.position == 5
        assert [error.line for error in result.errors] == [1, 3]
        assert {error.error for error in result.errors} == {"InvalidArgumentError"}
        assert all(message in error.message for error in result.errors), result.errors
        assert sorted(contents(await Records(engine, place).get())) == ["a", "b", "c", *(["z"] if fixed else [])]
        assert await position(engine, place, "t") == 5

        stopped = await send(engine, place, content, stream_id="stops", on_error="stop")
        assert (stopped.position, [error.line for error in stopped.errors]) == (1, [1])
        assert stopped.stopped_by == stopped.errors[0]
        assert await position(engine, place, "stops") == 1
        again = await send(engine, place, content, stream_id="stops", on_error="stop")
        assert again.stopped_by == stopped.errors[0]


async def test_empty_lines_count_and_the_last_line_needs_no_end(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        result = await send(engine, place, b'\n  \r\n{"id":"a","embedding":[1]}\r\n\n{"id":"b","embedding":[2]}\nx\n')
        assert (result.position, [error.line for error in result.errors]) == (6, [5])
        assert (await send(engine, place, b'{"id":"c","embedding":[3]}', 6)).position == 7
        assert sorted(contents(await Records(engine, place).get())) == ["a", "b", "c"]


async def test_lines_that_are_sent_again_are_applied_once(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, engine_at(tmp_path) as other:
        place = (await create_collection(engine)).id
        first = await send(engine, place, ndjson(line("a", 1), line("b", 2)))
        await Records(engine, place).upsert(["a"], [[10]])
        assert await send(other, place, ndjson(line("a", 1), line("b", 2))) == first
        more = await send(other, place, ndjson(line("a", 1), line("b", 2), line("c", 3)))
        assert more.position == 3
        assert (await send(other, place, ndjson(line("b", 2)), 1)).position == 3
        found = contents(await Records(engine, place).get())
        assert {name: values[0] for name, values in found.items()} == {"a": (10,), "b": (2,), "c": (3,)}


async def test_a_part_of_bad_lines_alone_has_a_durable_position_too(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        result = await send(engine, place, b"x\ny\n")
        assert (result.position, result.lsn) == (2, engine.follower.position)
        assert await position(engine, place) == 2
        assert await position(engine, place, "unknown") == 0


async def test_a_part_beyond_what_is_known_is_refused_and_says_where_to_go_on(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        with pytest.raises(StreamGapError, match="go on at line 0"):
            await send(engine, place, ndjson(line("a", 1)), 7)
        await send(engine, place, ndjson(line("a", 1)))
        with pytest.raises(StreamGapError, match="go on at line 1"):
            await send(engine, place, ndjson(line("a", 1)), 2)


async def test_parts_that_are_sent_side_by_side_are_appended_in_their_order(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        await send(engine, place, b"")
        sizes = [500, 1, 200, 1, 1, 300]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        parts = [
            ndjson(*(line(str(number), number, document="x" * 100) for number in range(start, start + size)))
            for start, size in zip(starts, sizes, strict=True)
        ]
        sent = [send(engine, place, content, start) for content, start in zip(parts, starts, strict=True)]
        results = await asyncio.gather(*sent)
        assert [result.position for result in results] == [*starts[1:], sum(sizes)]
        assert await Records(engine, place).count() == sum(sizes)


async def test_the_session_that_came_last_has_the_stream(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, engine_at(tmp_path) as other:
        place = (await create_collection(engine)).id
        await send(engine, place, ndjson(line("a", 1)), session="old")
        taken = await send(other, place, ndjson(line("a", 1), line("b", 2)), session="new")
        assert taken.position == 2
        with pytest.raises(StreamTakenError, match="another session"):
            await send(engine, place, ndjson(line("b", 20)), 1, session="old")
        with pytest.raises(StreamTakenError):
            await send(engine, place, ndjson(line("c", 3)), 2, session="old")
        assert (await send(other, place, ndjson(line("c", 3)), 2, session="new")).position == 3
        # One that has nothing new to say takes it over as well.
        assert (await send(engine, place, ndjson(line("a", 1)), session="newest")).position == 3
        with pytest.raises(StreamTakenError):
            await send(other, place, ndjson(line("d", 4)), 3, session="new")
        assert (await send(other, place, ndjson(line("d", 4)), 3, session="newest")).position == 4
        found = contents(await Records(engine, place).get())
        assert {name: values[0] for name, values in found.items()} == {"a": (1,), "b": (2,), "c": (3,), "d": (4,)}


async def test_a_stream_ends_with_its_collection(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        await send(engine, place, ndjson(line("a", 1)))
        await delete_collection(engine)
        with pytest.raises(NotFoundError):
            await send(engine, place, ndjson(line("b", 2)), 1)
        with pytest.raises(NotFoundError):
            await position(engine, place)


async def test_a_dimension_that_was_fixed_meanwhile_is_checked_again_line_by_line(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        content = ndjson(*(line(str(number), 1, 2, 3) for number in range(2000)), {"op": "delete", "id": "z"})
        sending = asyncio.create_task(send(engine, place, content))
        await asyncio.sleep(0)  # it knows no dimension, and decodes in a thread
        await Records(engine, place).add(["z"], [[1, 2]])
        result = await sending
        assert result.position == 2001
        assert len(result.errors) == 2000
        assert "dimension of 2, got 3" in result.errors[0].message
        assert await Records(engine, place).count() == 0


@pytest.mark.parametrize(
    "fields", [{"stream_id": ""}, {"session": "a b"}, {"stream_id": "x" * 256}, {"position": -1}, {"position": 2**63}]
)
async def test_names_and_positions_that_are_none_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        with pytest.raises(InvalidArgumentError):
            await send(engine, place, b"", **{"position": 0, **fields})


@pytest.mark.parametrize("query", [{"position": "x"}, {"position": "-1"}, {"position": "1" * 20}, {"on_error": "perhaps"}])
def test_a_query_that_means_nothing_is_refused(query: dict[str, str]) -> None:
    path = {**PATH, "collection_id": "c"}
    with pytest.raises(InvalidArgumentError):
        Ingest.decode(WireRequest(path, {"stream_id": "s", "session": "t", **query}))


def test_a_part_survives_the_wire() -> None:
    part = Ingest(**PATH, collection_id="c", stream_id="s", session="t", position=2**40, on_error="stop", content=b"x")
    assert Ingest.decode(part.encode()) == part


def test_acknowledgements_are_added_up() -> None:
    errors = [LineError(line=number, message="bad") for number in range(2)]
    lines = [
        Acknowledgement(position=1, lsn=5, errors=errors[:1]),
        Acknowledgement(position=1),
        Acknowledgement(position=3, lsn=6, errors=errors[1:], done=True),
    ]
    body = b"".join(encode_acknowledgement(item) for item in lines)
    assert Ingest.decode_result(WireResponse(200, body)) == IngestResult(position=3, lsn=6, errors=errors)


async def test_parts_and_positions_travel_over_http(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        app = create_app(engine.dispatch, ServerSettings())
        transport = httpx.ASGITransport(app)
        url = GetIngestPosition.route.path.format(**PATH, collection_id=place)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            sent = await client.post(url, params={"stream_id": "s", "session": "t"}, content=ndjson(line("a", 1), b"x"))
            assert sent.status_code == 200
            assert Ingest.decode_result(WireResponse(200, sent.content)).position == 2
            asked = await client.get(url, params={"stream_id": "s"})
            assert asked.json() == {"position": 2, "lsn": engine.follower.position}
            assert GetIngestPosition.decode_result(WireResponse(200, asked.content)).position == 2
            unnamed = await client.post(url, content=ndjson(line("b", 1)))
            assert Ingest.decode_result(WireResponse(200, unnamed.content)).position == 1
            refused = await client.post(url, content=b"x", headers={"content-type": "text/plain"})
            assert (refused.status_code, refused.json()["error"]) == (415, "ChromaError")
            missing = await client.post(url.replace(place, "6f1b4c60-5b1a-4b4e-9f5c-3b8d1f3d0001"), content=b"x")
            assert missing.status_code == 404


async def test_only_an_answer_that_is_given_again_needs_an_fsync_of_its_own(tmp_path: Path) -> None:
    """Parts have a known beginning of their operation ids, always: that alone says nothing about who wrote them."""
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        synced = 0
        sync = engine.log.sync

        async def counted() -> None:
            nonlocal synced
            synced += 1
            await sync()

        engine.log.sync = counted  # type: ignore[method-assign]
        for number in range(5):
            await send(engine, place, ndjson(line("a", 1)), number)
        with pytest.raises(StreamGapError):
            await send(engine, place, ndjson(line("a", 1)), 9)
        assert synced == 0
        await send(engine, place, ndjson(line("a", 1)), 4)
        assert synced == 1


async def test_a_stream_that_goes_on_is_remembered_beyond_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of a stream is written anew before the log forgets it: also by parts without lines."""
    monkeypatch.setattr(streams, "RENEW_AFTER", 10)
    monkeypatch.setattr(truncation, "OPERATION_WINDOW", 20)
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        place = (await create_collection(engine)).id

        async def pass_by(entries: int) -> None:
            for _ in range(entries):
                await Records(engine, place).upsert(["x"], [[0]])
            await settle(compactor)

        await send(engine, place, ndjson(line("a", 1)), session="old")
        await send(engine, place, ndjson(line("b", 1)), 1)
        for _ in range(4):
            await pass_by(12)
            assert (await send(engine, place, b"", 2)).position == 2
        with pytest.raises(StreamGapError, match="line 0"):
            await send(engine, place, b"", 2, stream_id="other")
        assert (await send(engine, place, ndjson(line("c", 1)), 2)).position == 3
        await pass_by(30)
        assert await position(engine, place) == 0


async def test_who_has_written_is_known_for_as_long_as_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RENEW_AFTER", 10)
    monkeypatch.setattr(truncation, "OPERATION_WINDOW", 20)
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        place = (await create_collection(engine)).id
        for number in range(40):
            await send(engine, place, ndjson(line("a", number)), number, session="old")
        await settle(compactor)
        await send(engine, place, ndjson(line("a", 1)), 40, session="new")
        with pytest.raises(StreamTakenError):
            await send(engine, place, ndjson(line("a", 1)), 41, session="old")


@pytest.mark.parametrize("on_error", ["continue", "stop"])
@pytest.mark.parametrize("no_json", [1, 3])
@pytest.mark.parametrize("worse", [{"a": {"b": 1}}, {"a": ["x", 1.5]}, {"a": [None, 1.5]}, {"$a": 1}], ids=str)
def test_bad_metadata_is_named_wherever_the_log_has_the_stream(on_error: OnError, no_json: int, worse: Any) -> None:
    metadatas: list[Any] = [{"a": 1}, worse, {"a": 2}, worse, {"a": 3}]
    lines = [orjson.dumps({"id": f"r{n}", "embedding": [1, 2], "metadata": found}) for n, found in enumerate(metadatas)]
    lines[no_json] = b"{"
    content = b"\n".join(lines)
    for position in range(5):
        part = Part(CollectionId("c"), decode_ndjson(content, 0, 2), on_error)
        cut = part.cut(position, 2)
        bad = [line for line in (1, 3) if line >= position]
        named = [error.line for error in cut.errors if error.line >= position]
        beyond = min([*bad, 5]) if on_error == "stop" else 5
        assert named == (bad[:1] if on_error == "stop" else bad)
        assert cut.beyond == beyond
        good = [line for line in range(position, beyond) if line not in (1, 3)]
        assert sum(append.head.count for append in cut.appends if isinstance(append.head, RecordsHead)) == len(good)
