"""Parts of ingest streams: however lines are cut, sent again and interleaved with bad ones, the outcome is that of the lines
one by one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from tests.support.oracle import OracleCollection, Write

from chroma_async.core.events import RecordsDeleted, RecordsWritten, decode
from chroma_async.engine.parts import Part, group_lines
from chroma_async.model import CollectionId, Operation
from chroma_async.protocol.arrow import decode_arrow
from chroma_async.protocol.ingest import OnError
from chroma_async.protocol.lines import Decoded, decode_ndjson
from chroma_async.server.cutters import ArrowCutter, Cutter, LineCutter

COLLECTION = CollectionId("c")
NDIM = 2

names = st.integers(0, 5).map(lambda number: f"r{number}")
operations: st.SearchStrategy[Operation] = st.sampled_from(["add", "update", "upsert", "delete"])
vectors = st.lists(st.integers(-3, 3).map(float), min_size=NDIM, max_size=NDIM)
texts = st.sampled_from(["", "pie", "漢字"])
metadatas = st.dictionaries(st.sampled_from("fg"), st.integers(0, 2) | st.sampled_from(["x", True, 0.5]), max_size=2)


@st.composite
def lines(draw: st.DrawFn) -> dict[str, Any]:
    operation = draw(operations)
    line: dict[str, Any] = {"id": draw(names), "op": operation}
    if operation == "delete":
        return line
    if operation != "update" or draw(st.booleans()):
        line["embedding"] = draw(vectors)
    for name, items in (("document", texts), ("uri", texts), ("metadata", metadatas)):
        if draw(st.booleans()):
            line[name] = draw(items)
    return line


streams = st.lists(lines(), max_size=25)


def one_by_one(found: OracleCollection, given_lines: Sequence[dict[str, Any]]) -> None:
    for line in given_lines:
        if line["op"] == "delete":
            found.delete([line["id"]], None, None, None)
            continue
        vector = np.array(line["embedding"], dtype=np.float32) if "embedding" in line else None
        columns = ([line.get(name)] for name in ("document", "metadata", "uri"))
        found.write(Write(line["op"], [line["id"]], [vector], *columns))


def by_entries(found: OracleCollection, part: Part, position: int) -> int:
    """Carry out a part where the lines before `position` are known; return the position after it."""
    cut = part.cut(position, NDIM)
    for append in cut.appends:
        event = decode(append.payload)
        if isinstance(event, RecordsDeleted):
            assert len(set(event.ids)) == len(event.ids)
            found.delete(event.ids, None, None, None)
            continue
        assert isinstance(event, RecordsWritten)
        count = len(event.ids)
        assert len(set(event.ids)) == count == event.head.count
        rows = range(len(event.vectors)) if event.rows is None else event.rows.tolist()
        of_row = dict(zip(rows, event.vectors, strict=True))
        columns = (values or [None] * count for values in (event.documents, event.metadatas, event.uris))
        found.write(Write(event.head.operation, event.ids, [of_row.get(row) for row in range(count)], *columns))
    return max(cut.beyond, position)


def contents(found: OracleCollection) -> dict[str, Any]:
    return {
        name: (record.vector.tolist(), record.document, record.metadata, record.uri)
        for name, record in found.records.items()
    }


def as_ndjson(given_lines: Sequence[dict[str, Any]]) -> bytes:
    def spelled(line: dict[str, Any], number: int) -> dict[str, Any]:
        if number % 2 and "embedding" in line:
            return {**line, "embedding": base64.b64encode(np.array(line["embedding"], dtype="<f4").tobytes()).decode()}
        return line

    return b"".join(orjson.dumps(spelled(line, number)) + b"\n" for number, line in enumerate(given_lines))


def as_arrow(given_lines: Sequence[dict[str, Any]], rows_max: int) -> bytes:
    schema = pa.schema(
        [
            ("id", pa.large_string()),
            ("op", pa.dictionary(pa.int8(), pa.string())),
            ("embedding", pa.list_(pa.float64(), NDIM)),
            ("document", pa.string()),
            ("metadata", pa.string()),
            ("uri", pa.string()),
        ]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(given_lines), rows_max):
            rows = [
                {**line, "metadata": orjson.dumps(line["metadata"]).decode() if "metadata" in line else None}
                for line in given_lines[start : start + rows_max]
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return bytes(sink.getvalue())


def part_of(decoded: Decoded, on_error: OnError = "continue") -> Part:
    return Part(COLLECTION, decoded, on_error)


@given(streams)
def test_groups_have_the_effect_of_the_lines_one_by_one(stream: list[dict[str, Any]]) -> None:
    expected, found = OracleCollection("l2"), OracleCollection("l2")
    one_by_one(expected, stream)
    part = part_of(decode_ndjson(as_ndjson(stream), 0, None))
    assert by_entries(found, part, 0) == len(stream)
    assert contents(found) == contents(expected)


@given(st.lists(st.tuples(operations, names), max_size=30))
def test_groups_hold_every_line_once_and_no_id_twice(stream: list[tuple[Operation, str]]) -> None:
    groups = group_lines([operation for operation, _ in stream], [name for _, name in stream])
    assert sorted(item for _, chosen in groups for item in chosen) == list(range(len(stream)))
    for operation, chosen in groups:
        assert {stream[item][0] for item in chosen} == {operation}
        assert len({stream[item][1] for item in chosen}) == len(chosen)
        assert list(chosen) == sorted(chosen)


def test_operations_on_different_ids_become_one_entry_each() -> None:
    groups = group_lines(["upsert", "delete", "upsert", "delete", "upsert"], ["a", "b", "c", "d", "a"])
    assert groups == [("upsert", [0, 2]), ("delete", [1, 3]), ("upsert", [4])]


@given(streams, st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=8), st.booleans())
def test_parts_that_overlap_and_come_again_are_carried_out_once(
    stream: list[dict[str, Any]], sent: list[tuple[int, int]], is_arrow: bool
) -> None:
    """Parts come in any order: the log takes what it lacks and has no gap before it."""
    expected, found = OracleCollection("l2"), OracleCollection("l2")
    position = 0
    for start, count in sent:
        chosen = stream[start : start + count]
        if start > position:
            continue  # a gap: refused
        content = as_arrow(chosen, 3) if is_arrow else as_ndjson(chosen)
        decoded = (decode_arrow if is_arrow else decode_ndjson)(content, start, NDIM)
        assert not decoded.errors
        position = by_entries(found, part_of(decoded), position)
    one_by_one(expected, stream[:position])
    assert contents(found) == contents(expected)


bad = st.sampled_from(
    [b"{", b"", b" ", b'{"id":"r1"}', b'{"id":"r1","embedding":[1]}', b'{"id":"","embedding":[1,2]}', b"[]"]
)


@given(st.lists(st.one_of(lines(), bad), max_size=20), st.sampled_from(["continue", "stop"]))
def test_bad_lines_are_named_and_the_others_carried_out(stream: list[dict[str, Any] | bytes], on_error: OnError) -> None:
    content = b"".join((item if isinstance(item, bytes) else orjson.dumps(item)) + b"\n" for item in stream)
    part = part_of(decode_ndjson(content, 100, NDIM), on_error)
    wrong = [100 + number for number, item in enumerate(stream) if isinstance(item, bytes) and item.strip()]
    expected, found = OracleCollection("l2"), OracleCollection("l2")
    beyond = by_entries(found, part, 100)
    if on_error == "stop":
        wrong = wrong[:1]
        assert beyond == (wrong[0] if wrong else 100 + len(stream))
    else:
        assert beyond == 100 + len(stream)
    assert [error.line for error in part.cut(100, NDIM).errors] == wrong
    one_by_one(expected, [item for item in stream[: beyond - 100] if isinstance(item, dict)])
    assert contents(found) == contents(expected)


@given(streams, st.integers(1, 200), st.sampled_from([LineCutter, ArrowCutter]), st.data())
def test_a_body_that_is_cut_as_it_comes_is_the_same_stream(
    stream: list[dict[str, Any]], piece_bytes: int, kind: type[LineCutter] | type[ArrowCutter], data: st.DataObject
) -> None:
    is_arrow = kind is ArrowCutter
    content = as_arrow(stream, data.draw(st.integers(1, 5))) if is_arrow else as_ndjson(stream)
    cutter: Cutter = kind(2**20)
    expected, found = OracleCollection("l2"), OracleCollection("l2")
    position = 0

    def cut() -> None:
        nonlocal position
        while (piece := cutter.cut()) is not None:
            decode_part = decode_arrow if is_arrow else decode_ndjson
            decoded = decode_part(piece.content, position, NDIM)
            assert decoded.beyond == position + piece.lines
            position = by_entries(found, part_of(decoded), position)

    for start in range(0, len(content), piece_bytes):
        cutter.feed(content[start : start + piece_bytes])
        if data.draw(st.booleans()):
            cut()
    cutter.end()
    cut()
    assert cutter.waiting_bytes == 0
    assert position == len(stream)
    one_by_one(expected, stream)
    assert contents(found) == contents(expected)
