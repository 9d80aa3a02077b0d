"""Parts of a stream say the same in both of their forms: what a server reads is what was to be sent."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from chroma_async.client.lines import BLANK, Lines, joined, with_vectors, without_vectors
from chroma_async.client.parts import encode
from chroma_async.protocol.arrow import decode_arrow
from chroma_async.protocol.ingest import ARROW, NDJSON
from chroma_async.protocol.lines import Decoded, decode_ndjson


def decoded(lines: Lines, content_type: str, first: int = 0, dimension: int | None = None) -> Decoded:
    decode = decode_arrow if content_type == ARROW else decode_ndjson
    return decode(encode(lines, content_type), first, dimension)


def told(part: Decoded) -> tuple[Any, ...]:
    lines = part.lines
    vectors = dict(zip(lines.rows.tolist(), lines.vectors.tolist(), strict=True))
    rows = [
        (number, operation, id_, document, metadata or None, uri, vectors.get(place))
        for place, (number, operation, id_, document, metadata, uri) in enumerate(
            zip(lines.numbers, lines.operations, lines.ids, lines.documents, lines.metadatas, lines.uris, strict=True)
        )
    ]
    return part.first, part.beyond, rows, [error.line for error in part.errors]


def vectors(*rows: list[float] | None) -> list[Any]:
    return [None if row is None else np.asarray(row, dtype=np.float32) for row in rows]


CASES: dict[str, Lines] = {
    "all alike": Lines(
        ["a", "b"], vectors=np.asarray([[1, 2], [3, 4]], dtype=np.float32), documents=["one", "zwei ü \U0001f642"]
    ),
    "mixed": Lines(
        ["a", "b", "c", "d"],
        ["add", "update", "delete", "upsert"],
        vectors([1, 2], None, None, [3, 4]),
        ["one", None, None, "four"],
        [b'{"x": 1, "y": [1, 2]}', b'{"x": null}', None, None],
        ["u:a", None, None, None],
    ),
    "deletions": Lines(["a", "b"], "delete"),
    "updates without vectors": Lines(["a", "b"], "update", metadatas=[b'{"x": "\\n\\u00fc"}', b'{"y": 1.5, "z": true}']),
    "faults": Lines(
        ["a", "", "c"],
        vectors=vectors([1, 2], None, [3, 4]),
        faults={1: "there is no id"},
    ),
    "other dimensions": Lines(["a", "b", "c"], vectors=vectors([1, 2], [1, 2, 3], [5, 6])),
    "no vectors": Lines(["a", "b"], documents=["one", "two"]),
    "not finite": Lines(["a", "b"], vectors=np.asarray([[1, np.nan], [3, 4]], dtype=np.float32)),
    "bad metadata": Lines(["a"], vectors=np.ones((1, 2), np.float32), metadatas=[b'{"x": 1}']),
}


@pytest.mark.parametrize("name", CASES)
def test_both_forms_of_a_part_are_read_alike(name: str) -> None:
    lines = CASES[name]
    arrow, ndjson = told(decoded(lines, ARROW, 70)), told(decoded(lines, NDJSON, 70))
    assert arrow == ndjson
    assert arrow[:2] == (70, 70 + len(lines))


def test_what_is_read_is_what_was_sent() -> None:
    lines = CASES["mixed"]
    first, beyond, rows, errors = told(decoded(lines, ARROW))
    assert (first, beyond, errors) == (0, 4, [])
    assert rows == [
        (0, "add", "a", "one", {"x": 1, "y": [1, 2]}, "u:a", [1, 2]),
        (1, "update", "b", None, {"x": None}, None, None),
        (2, "delete", "c", None, None, None, None),
        (3, "upsert", "d", "four", None, None, [3, 4]),
    ]


def test_faults_count_and_are_nothing_else() -> None:
    _, beyond, rows, errors = told(decoded(CASES["faults"], ARROW))
    assert (beyond, [row[2] for row in rows], errors) == (3, ["a", "c"], [1])


def test_an_empty_line_counts_and_says_nothing() -> None:
    lines = Lines(["a", "", "c"], "delete", faults={1: BLANK})
    assert lines.has_blanks
    _, beyond, rows, errors = told(decoded(lines, NDJSON))
    assert (beyond, [row[0] for row in rows], errors) == (3, [0, 2], [])


def test_runs_are_joined_and_cut_without_losing_anything() -> None:
    names = ("mixed", "deletions", "faults", "all alike", "other dimensions")
    whole = joined([CASES[name] for name in names])
    assert len(whole) == sum(len(CASES[name]) for name in names)
    assert sorted(whole.faults) == [7]
    pieces = [piece for piece, _ in whole.pieces(3, 2**20)]
    assert [len(piece) for piece in pieces] == [3, 3, 3, 3, 2]
    again = joined(pieces)
    assert told(decoded(again, NDJSON)) == told(decoded(whole, NDJSON)) == told(decoded(whole, ARROW))


def test_pieces_are_bounded_by_their_size() -> None:
    lines = Lines([f"i{n}" for n in range(100)], vectors=np.ones((100, 256), dtype=np.float32))
    assert [len(piece) for piece, _ in lines.pieces(1_000, 10_500)] == [9] * 11 + [1]
    assert [len(piece) for piece, _ in lines.pieces(1_000, 1)] == [1] * 100


def test_only_lines_that_need_a_vector_get_one() -> None:
    lines = CASES["mixed"]
    assert without_vectors(lines) == []
    bare = Lines(["a", "b", "c", "d"], ["add", "update", "delete", "update"], documents=["one", "two", "three", None])
    assert without_vectors(bare) == [0, 1]
    filled = with_vectors(bare, [0, 1], np.asarray([[1, 2], [3, 4]], dtype=np.float32))
    assert [None if found is None else found.tolist() for found in map(filled.vector, range(4))] == [
        [1, 2],
        [3, 4],
        None,
        None,
    ]


def test_a_part_of_arrow_is_as_small_as_its_vectors_allow() -> None:
    lines = Lines([f"i{n}" for n in range(1_000)], vectors=np.ones((1_000, 64), dtype=np.float32))
    assert len(encode(lines, ARROW)) < 1_000 * (64 * 4 + 16)
    assert len(msgspec.json.decode(encode(lines, NDJSON).splitlines()[0])["embedding"]) == 344
