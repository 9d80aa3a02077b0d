"""Rows of Arrow streams as lines: which columns are taken, how, and what is wrong with the others."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chroma_async.errors import InvalidArgumentError, PayloadTooLargeError, UnsupportedMediaTypeError
from chroma_async.protocol import arrow
from chroma_async.protocol.arrow import decode_arrow
from chroma_async.protocol.lines import Decoded
from chroma_async.server import cutters
from chroma_async.server.cutters import ArrowCutter, LineCutter

NDIM = 2


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decoded(dimension: int | None = None, **columns: Any) -> Decoded:
    count = len(next(iter(columns.values())))
    ids = pa.array([f"r{number}" for number in range(count)])
    return decode_arrow(stream(pa.table({"id": ids, **columns})), 100, dimension)


def fixed(rows: list[list[float] | None], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, pa.list_(kind or pa.float32(), NDIM))


ROWS: list[list[float] | None] = [[1, 2], None, [3, 4]]


@pytest.mark.parametrize(
    "column",
    [
        fixed(ROWS),
        fixed(ROWS, pa.float64()),
        fixed([[np.float16(number) for number in row] if row else None for row in ROWS], pa.float16()),
        pa.array(ROWS, pa.list_(pa.float32())),
        pa.array(ROWS, pa.large_list(pa.float64())),
        pa.array(ROWS, pa.list_(pa.int64())),
        fixed([[0, 0], *ROWS, [0, 0]]).slice(1, 3),
        pa.array([[0, 0], *ROWS, [0, 0]], pa.list_(pa.float32())).slice(1, 3),
        pa.array(["AACAPwAAAEA=", None, "AABAQAAAgEA="]),
        pa.array(["AACAPwAAAEA=", None, "AABAQAAAgEA="]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_vectors_come_in_many_types(column: pa.Array) -> None:
    found = decoded(embedding=column, op=["upsert", "update", "add"])
    assert found.errors == ()
    assert found.lines.vectors.tolist() == [[1, 2], [3, 4]]
    assert found.lines.vectors.dtype == np.float32
    assert found.lines.rows.tolist() == [0, 2]
    assert (found.first, found.beyond, list(found.lines.numbers)) == (100, 103, [100, 101, 102])


@pytest.mark.parametrize(
    ("column", "dimension", "wrong"),
    [
        (fixed([[1, 2], [1, np.nan], [np.inf, 1], [1, 2]]), None, {101: "NaN or infinity", 102: "NaN or infinity"}),
        (fixed([[1, 2], [1, None], [1, 2]]), None, {101: "null"}),  # type: ignore[list-item]
        (fixed([[1, 2], [1e39, 0]], pa.float64()), None, {101: "beyond float32"}),
        (fixed([[1, 2], [3, 4]]), 3, {100: "dimension of 3, got 2", 101: "dimension of 3, got 2"}),
        (pa.array([[1.0], [1.0, 2.0], [], [3.0]]), None, {101: "dimension of 1, got 2", 102: "at least 1 dimension"}),
        (pa.array([[], [1.0, 2.0]], pa.list_(pa.float32())), 2, {100: "at least 1 dimension"}),
        (fixed([[1, 2], None]), None, {101: "upsert needs an embedding"}),
        (pa.array(["?", "AACAPwAAAEA="]), None, {100: "Invalid"}),
        (pa.array([None, None]), None, {100: "upsert needs an embedding", 101: "upsert needs an embedding"}),
    ],
)
def test_bad_vectors_are_bad_lines(column: pa.Array, dimension: int | None, wrong: dict[int, str]) -> None:
    found = decoded(dimension, embedding=column)
    assert [error.line for error in found.errors] == list(wrong)
    for error, message in zip(found.errors, wrong.values(), strict=True):
        assert message in error.message
    assert len(found.lines) == len(found.lines.vectors) == len(column) - len(wrong)


def test_metadata_are_structs_or_json() -> None:
    rows = [{"n": 1, "tags": ["a"], "s": "x"}, {"n": None, "tags": None, "s": None}, None, {"n": 2, "tags": [], "s": "y"}]
    kind = pa.struct([("n", pa.int64()), ("tags", pa.list_(pa.string())), ("s", pa.dictionary(pa.int8(), pa.string()))])
    found = decoded(metadata=pa.array(rows, kind), op=["update"] * 4)
    assert found.lines.metadatas == [{"n": 1, "tags": ["a"], "s": "x"}, None, None, {"n": 2, "tags": [], "s": "y"}]
    text = ['{"n": null}', None, "[]", "{", "null", '{"a": 1}']
    found = decoded(metadata=pa.array(text), op=["update"] * 6)
    assert found.lines.metadatas == [{"n": None}, None, None, {"a": 1}]
    assert [error.line for error in found.errors] == [102, 103]


def test_a_line_without_id_or_with_an_unknown_op_is_bad() -> None:
    table = pa.table(
        {"id": ["a", None, "", "d", "e"], "op": ["delete", "delete", "delete", "merge", "delete"], "x": [1] * 5}
    )
    found = decode_arrow(stream(table), 0, None)
    assert found.lines.ids == ["a", "e"]
    assert [error.line for error in found.errors] == [1, 2, 3]
    assert "merge" in found.errors[-1].message


def test_a_deletion_leaves_its_vector_aside() -> None:
    found = decoded(embedding=fixed([[1, 2], [3, 4], [5, 6]]), op=["upsert", "delete", "upsert"])
    assert found.lines.rows.tolist() == [0, 2]
    assert found.lines.vectors.tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 2]}, "id is int64"),
        ({"id": ["a"], "document": [5]}, "document is int64"),
        ({"id": ["a"], "embedding": [5.0]}, "embedding is double"),
        ({"id": ["a"], "metadata": [5.0]}, "metadata is double"),
        ({"id": pa.array(["a"], pa.string_view())}, "id is string_view"),
        ({"id": pa.array([1]).dictionary_encode()}, "dictionaries of texts"),
        ({"name": ["a"]}, "needs a column of this name: id"),
    ],
)
def test_columns_of_other_types_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        decode_arrow(stream(pa.table(columns)), 0, None)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    with pytest.raises(InvalidArgumentError, match="one name"):
        decode_arrow(stream(table), 0, None)


def test_dictionaries_that_unfold_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "UNFOLDED_BYTES_MAX", 1_000_000)
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 1001, pa.int16()), pa.array(["x" * 1000]))
    with pytest.raises(InvalidArgumentError, match="unfold to too much"):
        decoded(document=bomb)


def test_without_pyarrow_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedMediaTypeError, match=r"chroma-async\[arrow\]"):
        decode_arrow(b"", 0, None)


# ---- cutting


def cut_all(cutter: ArrowCutter | LineCutter, content: bytes, step: int = 1000) -> list[tuple[bytes, int]]:
    for start in range(0, len(content), step):
        cutter.feed(content[start : start + step])
    cutter.end()
    found: list[tuple[bytes, int]] = []
    while (piece := cutter.cut()) is not None:
        found.append((piece.content, piece.lines))
    return found


def test_parts_of_lines_have_limits_in_bytes_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutters, "PART_BYTES_MAX", 100)
    monkeypatch.setattr(cutters, "PART_LINES_MAX", 4)
    content = b"\n".join([b"x" * 30] * 5 + [b"y"] * 9 + [b"z" * 500, b"end"])
    found = cut_all(LineCutter(1000), content, 7)
    assert b"".join(part for part, _ in found) == content
    assert sum(lines for _, lines in found) == 16
    assert max(lines for _, lines in found) == 4
    assert [len(part) for part, _ in found if len(part) > 100] == [501]


def test_batches_become_parts_with_the_dictionaries_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutters, "PART_LINES_MAX", 3)
    schema = pa.schema([("id", pa.dictionary(pa.int8(), pa.string()))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for number in range(5):
            names = pa.array([f"{number}-{item}" for item in range(2)]).dictionary_encode()
            kept = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), names.dictionary)
            writer.write_batch(pa.record_batch([kept], schema=schema))
    found = cut_all(ArrowCutter(100_000), bytes(sink.getvalue()), 64)
    assert [lines for _, lines in found] == [4, 4, 2]
    ids = [name for part, _ in found for name in pa.ipc.open_stream(part).read_all()["id"].to_pylist()]
    assert ids == [f"{number}-{item}" for number in range(5) for item in range(2)]


def test_dictionaries_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutters, "DICTIONARY_BYTES_MAX", 2_000)
    names = pa.array(["x" * 3_000]).dictionary_encode()
    with pytest.raises(PayloadTooLargeError, match="plain strings"):
        cut_all(ArrowCutter(100_000), stream(pa.table({"id": names})))


def test_a_message_that_says_that_it_is_too_long_is_refused_before_it_came() -> None:
    content = stream(pa.table({"id": ["a"]}))
    (schema_bytes,) = struct.unpack_from("<I", content, 4)
    cutter = ArrowCutter(1_000)
    cutter.feed(content[: 8 + schema_bytes])
    with pytest.raises(PayloadTooLargeError, match="fewer rows"):
        cutter.feed(struct.pack("<II", 0xFFFFFFFF, 5_000))


def test_a_long_line_is_refused_before_its_end() -> None:
    cutter = LineCutter(1_000)
    cutter.feed(b"short\n" + b"x" * 900)
    with pytest.raises(PayloadTooLargeError, match="line"):
        cutter.feed(b"x" * 200)
    with pytest.raises(PayloadTooLargeError, match="line"):
        LineCutter(1_000).feed(b"x" * 1_001 + b"\n")


def test_dictionaries_that_wait_count_among_what_waits() -> None:
    """Else a client could have any number of them kept while the log is slow."""
    schema = pa.schema([("id", pa.dictionary(pa.int8(), pa.string()))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for number in range(20):
            names = pa.array([f"{number}" * 10_000]).dictionary_encode()
            kept = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), names.dictionary)
            writer.write_batch(pa.record_batch([kept], schema=schema))
    content = bytes(sink.getvalue())
    cutter = ArrowCutter(2**20)
    cutter.feed(content)
    assert cutter.waiting_bytes > len(content) - 15_000  # but for the schema and the first dictionary
    while cutter.cut() is not None:
        continue
    assert cutter.waiting_bytes == 0


def test_dictionaries_are_kept_without_the_body_that_came_with_them() -> None:
    """Of a stream with a little dictionary in each batch all was kept."""
    schema = pa.schema([("id", pa.dictionary(pa.int32(), pa.string())), ("document", pa.string())])
    sink = pa.BufferOutputStream()
    names: list[str] = []
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for number in range(40):
            names.append(f"name {number}")
            ids = pa.DictionaryArray.from_arrays(pa.array([number], pa.int32()), pa.array(names))
            writer.write_batch(pa.record_batch([ids, pa.array(["x" * 2**17])], schema=schema))
    content = sink.getvalue()
    cutter = ArrowCutter(2**21)
    tracemalloc.start()
    try:
        for start in range(0, len(content), 2**16):
            cutter.feed(bytes(content[start : start + 2**16]))
            while cutter.cut() is not None:
                continue
        assert tracemalloc.get_traced_memory()[0] < 2**20 < len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("between", [0, 1_024])
def test_a_message_that_comes_in_crumbs_takes_little_more_than_its_length(between: int) -> None:
    """Also where a larger piece comes now and then."""
    content = stream(pa.table({"id": ["x" * 2**20]}))
    cutter = ArrowCutter(2**21)
    tracemalloc.start()
    try:
        start = number = 0
        while start < len(content):
            number += 1
            size = between if between and number % 1_024 == 0 else 2
            cutter.feed(content[start : start + size])
            start += size
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    cutter.end()
    piece = cutter.cut()
    assert piece is not None
    assert (piece.content, piece.lines) == (content, 1)


def test_a_line_that_comes_in_crumbs_takes_little_more_than_its_length() -> None:
    cutter = LineCutter(2**21)
    tracemalloc.start()
    try:
        for _ in range(2**19):
            cutter.feed(b"xy")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    cutter.feed(b"\n")
    piece = cutter.cut()
    assert piece is not None
    assert (len(piece.content), piece.lines) == (2**20 + 1, 1)
