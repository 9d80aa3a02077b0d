"""Columns agree with the definition of truth, for metadata and filters that nobody thought of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.pieces import encode

from chroma_async.core.columns import ColumnPiece, build, decode, merge
from chroma_async.core.where import And, DocumentTest, FieldTest, Missing, Or, Where, evaluate, matches, parse_where
from chroma_async.errors import FormatError, InvalidArgumentError, StorageCorrupt

FIELDS = st.sampled_from(["a", "b", "ü", "rare"])
INTS = (
    st.integers(-2, 2)
    | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
    | st.sampled_from([sign * (2**bits + beyond) for bits in (7, 15, 31) for sign in (1, -1) for beyond in (-1, 0, 1)])
    | st.integers(-(2**63), 2**63 - 1)
)
FLOATS = (
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**53, 2.0**63, -(2.0**63), 1e300])
    | INTS.map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.sampled_from(["", "a", "b", "ab", "é", "日", "😀"]) | st.text(max_size=4)
SCALARS = INTS | FLOATS | TEXTS | st.booleans()
LISTS = st.one_of([st.lists(kind, max_size=3) for kind in (INTS, FLOATS, TEXTS, st.booleans())])
METADATA = st.none() | st.dictionaries(FIELDS, SCALARS | LISTS | st.none(), max_size=4)

FIELD_TESTS = st.one_of(
    st.builds(FieldTest, FIELDS, st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]), SCALARS),
    st.builds(FieldTest, FIELDS, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), INTS | FLOATS),
    st.builds(
        FieldTest,
        FIELDS,
        st.sampled_from(["$in", "$nin"]),
        st.one_of(
            [st.lists(kind, min_size=1, max_size=12).map(tuple) for kind in (INTS, FLOATS | INTS, TEXTS, st.booleans())]
        ),
    ),
)
DOCUMENT_TESTS = st.builds(
    DocumentTest,
    st.sampled_from(["$contains", "$not_contains", "$regex", "$not_regex"]),
    st.sampled_from(["", "a", "é"]),
)


def combined(children: st.SearchStrategy[Where]) -> st.SearchStrategy[Where]:
    several = st.lists(children, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several)


WHERES: st.SearchStrategy[Where] = st.recursive(FIELD_TESTS | DOCUMENT_TESTS, combined, max_leaves=6)
MISSING = st.sampled_from(["include", "exclude"])


@st.composite
def histories(draw: st.DrawFn) -> list[dict[int, Any]]:
    """Batches of changes, oldest first: slot to metadata, or to `DEAD`."""
    slots = st.integers(0, 15)
    return draw(st.lists(st.dictionaries(slots, METADATA | st.just(DEAD), max_size=10), min_size=1, max_size=4))


DEAD = "dead"


def pieces_of(history: list[dict[int, Any]]) -> list[ColumnPiece]:
    pieces: list[ColumnPiece] = []
    for batch in history:
        slots = sorted(slot for slot, change in batch.items() if change != DEAD)
        dead = sorted(slot for slot, change in batch.items() if change == DEAD)
        pieces.append(build(slots, [batch[slot] for slot in slots], dead))
    return pieces


@given(histories(), WHERES, MISSING, st.lists(st.none() | st.sampled_from(["", "a", "xé"]), min_size=16, max_size=16))
def test_columns_match_exactly_the_rows_that_match(
    history: list[dict[int, Any]], where: Where, missing: Missing, documents: list[str | None]
) -> None:
    piece = merge([decode(encode(piece)) for piece in pieces_of(history)], forget_dead=False)
    state = {slot: change for batch in history for slot, change in batch.items()}
    living = sorted(slot for slot, change in state.items() if change != DEAD)
    assert piece.slots.tolist() == living
    assert piece.dead.tolist() == sorted(slot for slot, change in state.items() if change == DEAD)

    def leaf(test: FieldTest | DocumentTest) -> Any:
        if isinstance(test, FieldTest):
            return piece.test(test, missing)
        return np.array([matches(test, None, documents[slot], missing) for slot in living], np.bool_)

    expected = [matches(where, state[slot], documents[slot], missing) for slot in living]
    assert evaluate(where, leaf, len(piece)).tolist() == expected


@given(histories())
def test_merging_then_encoding_is_stable(history: list[dict[int, Any]]) -> None:
    merged = merge(pieces_of(history), forget_dead=False)
    data = encode(merged)
    assert encode(decode(data)) == data
    assert encode(merge([merged], forget_dead=False)) == data


@given(histories(), FIELD_TESTS, MISSING, st.data())
def test_unverified_damage_never_crashes_a_read(
    history: list[dict[int, Any]], test: FieldTest, missing: Missing, data: st.DataObject
) -> None:
    damaged = bytearray(encode(merge(pieces_of(history), forget_dead=False)))
    begin = len(damaged) // 2
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(begin, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        piece = decode(bytes(damaged))
        assert piece.test(test, missing).shape == (len(piece),)
        merge([piece, piece], forget_dead=False)
    except (StorageCorrupt, FormatError):
        pass


KEYS = ["$and", "$or", "$eq", "$in", "$gt", "$contains", "$regex", "#document", "a", ""]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["(", "a{,2}", "[a&&b]"])
JSON = st.recursive(
    LEAVES | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), children, max_size=2)
    ),
    max_leaves=8,
)


@given(JSON)
@example({"$and": [{"a": {"$in": [1.5, 2]}}, {"#document": {"$regex": "x"}}]})
def test_any_json_is_parsed_or_refused_with_the_one_error(raw: object) -> None:
    try:
        where = parse_where(raw)
    except InvalidArgumentError as error:
        refusal = error.message
    else:
        assert where is None or matches(where, {"a": 1}, "x", "include") in (True, False)
        return
    assert refusal.startswith(("Invalid where clause: ", "Cannot filter using metadata key '#document'"))


@pytest.mark.parametrize("missing", ["include", "exclude"])
def test_a_thousand_rare_fields_agree_too(missing: Missing) -> None:
    rows = [{f"f{(row * 7 + offset) % 1000}": row % 3 for offset in range(3)} for row in range(2000)]
    piece = decode(encode(build(range(2000), rows)))
    for name in ("f0", "f17", "f999", "nowhere"):
        test = FieldTest(name, "$ne", 1)
        assert piece.test(test, missing).tolist() == [matches(test, row, None, missing) for row in rows]
