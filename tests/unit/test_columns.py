"""Column pieces: what they answer, how they override one another, and how they survive as bytes."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.support.pieces import encode

from chroma_async.checksums import crc32
from chroma_async.core.columns import ColumnPiece, build, decode, encoded_parts, merge
from chroma_async.core.columns.column import lay_out
from chroma_async.core.columns.kernels import KERNELS
from chroma_async.core.operators import FIELD_OPERATORS, FieldOperator
from chroma_async.core.where import FieldTest, Missing, matches
from chroma_async.errors import FormatError, StorageCorrupt

Rows = Sequence[Mapping[str, Any] | None]


def found(piece: ColumnPiece, field: str, operator: FieldOperator, operand: Any, missing: Missing = "include") -> Any:
    return np.flatnonzero(piece.test(FieldTest(field, operator, operand), missing)).tolist()


def piece_of(*metadatas: Mapping[str, Any] | None) -> ColumnPiece:
    return build(range(len(metadatas)), metadatas)


def test_every_positive_operator_has_a_kernel_and_nothing_else_has() -> None:
    assert {row.positive for row in FIELD_OPERATORS.values()} == set(KERNELS)
    assert set(FIELD_OPERATORS) == set(get_args(FieldOperator))


def test_strings_are_found_in_any_script() -> None:
    texts = ["", "a", "ab", "é", "日本", "😀", "\uffff", "a\x00b", "z" * 1000]
    piece = piece_of(*({"s": text} for text in texts))
    for row, text in enumerate(texts):
        assert found(piece, "s", "$eq", text) == [row]
    assert found(piece, "s", "$eq", "b") == []
    assert found(piece, "s", "$in", ("é", "nowhere", "")) == [0, 3]
    assert found(piece, "s", "$in", tuple(texts)) == list(range(len(texts)))


EDGES = [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, 2**63 - 512, -(2**63), -(2**63) + 1]
FLOAT_EDGES = [0.0, -0.0, 1.5, -1.5, 1e300, -1e300, 5e-324, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 2.0**63 - 1024]


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_numbers_compare_exactly_at_the_edges(operator: FieldOperator) -> None:
    rows = [{"x": value} for value in (*EDGES, *FLOAT_EDGES, *map(float, EDGES))]
    piece = piece_of(*rows)
    for operand in (*EDGES, *FLOAT_EDGES, *map(float, EDGES)):
        test = FieldTest("x", operator, operand)
        expected = [matches(test, row, None, "include") for row in rows]
        assert piece.test(test, "include").tolist() == expected, operand


WIDTHS = {"int8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**63}


@pytest.mark.parametrize(("dtype", "beyond"), WIDTHS.items())
def test_whole_numbers_take_as_many_bytes_as_the_largest_of_them_needs(dtype: str, beyond: int) -> None:
    for numbers in ([beyond - 1, 0], [-beyond, 0], [None, beyond - 1, 3], [-beyond, *[None] * 20]):
        piece = piece_of(*({} if number is None else {"x": number} for number in numbers))
        assert piece.columns["x"][0].values.dtype == dtype
        assert decode(encode(piece)).columns["x"][0].values.dtype == dtype
        lists = piece_of(*({} if number is None else {"x": [number, 1]} for number in numbers))
        assert lists.columns["x"][0].values.dtype == dtype


@pytest.mark.parametrize(("dtype", "beyond"), WIDTHS.items())
@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_numbers_of_any_width_compare_with_those_beyond_it(operator: FieldOperator, dtype: str, beyond: int) -> None:
    rows = [{"x": number} for number in (-beyond, -1, 0, 1, beyond - 1)]
    piece = piece_of(*rows)
    assert piece.columns["x"][0].values.dtype == dtype
    for number in (0, beyond - 1, beyond, beyond + 1, -beyond, -beyond - 1, 2**63 - 1, -(2**63)):
        for operand in (number, float(number)):
            test = FieldTest("x", operator, operand)
            expected = [matches(test, row, None, "include") for row in rows]
            assert piece.test(test, "include").tolist() == expected, operand


def test_long_lists_may_have_operands_beyond_the_width_of_a_column() -> None:
    piece = piece_of(*({"x": number} for number in range(100)))
    assert found(piece, "x", "$in", (5, *range(1_000, 1_020), -7, 99)) == [5, 99]
    assert found(piece, "x", "$in", tuple(range(1_000, 1_020))) == []
    assert found(piece, "x", "$nin", (5, *range(1_000, 1_020))) == [*range(5), *range(6, 100)]


def test_codes_of_strings_take_as_many_bytes_as_there_are_strings() -> None:
    for count, dtype in ((2, "int8"), (128, "int8"), (129, "int16"), (40_000, "int32")):
        piece = piece_of(*({"s": f"{number:05}"} for number in range(count)))
        assert piece.columns["s"][0].values.dtype == dtype
        assert found(piece, "s", "$eq", f"{count - 1:05}") == [count - 1]


def test_a_merged_column_is_as_wide_as_what_is_left_needs() -> None:
    small, large, again = piece_of({"x": 1}, {"x": 2}), build([1], [{"x": 70_000}]), build([1], [{"x": 300}])
    wide = merge([small, large], forget_dead=False)
    assert wide.columns["x"][0].values.dtype == "int32"
    assert found(wide, "x", "$gte", 2) == [1]
    narrow = merge([wide, again], forget_dead=False)
    assert narrow.columns["x"][0].values.dtype == "int16"
    assert found(narrow, "x", "$eq", 300) == [1]


def test_a_width_that_no_column_has_is_refused() -> None:
    with pytest.raises(StorageCorrupt, match=r"unknown size\. field='x' bytes=3"):
        decode(with_header(encode(piece_of({"x": 1})), b'"width":1', b'"width":3'))


def test_columns_of_the_first_version_are_read() -> None:
    """There a whole number always has 8 bytes, and the header does not say so."""
    data = bytearray(with_header(encode(piece_of({"x": 2**40}, {"x": 7})), b',"width":8', b""))
    data[8] = 1
    assert found(decode(bytes(data)), "x", "$lte", 7) == [1]


def with_header(data: bytes, old: bytes, new: bytes) -> bytes:
    """The bytes of a piece with something else in its header."""
    length = int.from_bytes(data[12:16], "little")
    header, begin = data[20 : 20 + length], -(-(20 + length) // 64) * 64
    assert old in header
    changed = header.replace(old, new)
    prefix = data[:12] + len(changed).to_bytes(4, "little") + crc32(changed).to_bytes(4, "little") + changed
    return prefix + bytes(-len(prefix) % 64) + data[begin:]


def test_long_lists_of_operands_are_as_exact_as_short_ones() -> None:
    rows = [{"x": value} for value in (*EDGES, *FLOAT_EDGES)]
    piece = piece_of(*rows)
    test = FieldTest("x", "$in", (*map(float, range(20)), *FLOAT_EDGES, 2**53 + 1, 2**63 - 1))
    assert piece.test(test, "include").tolist() == [matches(test, row, None, "include") for row in rows]


def test_types_of_one_field_live_side_by_side() -> None:
    piece = piece_of({"x": 1}, {"x": True}, {"x": "1"}, {"x": 1.0}, {"x": [1]}, {"x": [1.0]}, None, {"y": 1})
    assert found(piece, "x", "$eq", 1) == [0, 3]
    assert found(piece, "x", "$eq", True) == [1]
    assert found(piece, "x", "$contains", 1) == [4]
    assert found(piece, "x", "$contains", 1.0) == [5]
    assert found(piece, "x", "$ne", 1) == [1, 2, 4, 5, 6, 7]
    assert found(piece, "x", "$ne", 1, "exclude") == [1, 2, 4, 5]
    assert found(piece, "x", "$gt", True) == []
    assert piece.field_types() == {"x": ("int", "bool", "str", "float"), "y": ("int",)}


def test_none_and_empty_lists_are_missing_fields() -> None:
    piece = piece_of({"x": None, "y": []}, {"x": 1, "y": [2]}, {})
    assert found(piece, "x", "$ne", 5, "exclude") == [1]
    assert found(piece, "y", "$not_contains", 5, "exclude") == [1]
    assert piece_of({"x": None, "y": []}).field_types() == {}


def test_a_rare_field_is_sparse_and_a_common_one_dense() -> None:
    rows: list[dict[str, Any]] = [{"common": "a", "often": 1, "mark": True} for _ in range(100)]
    for row in rows[::3]:
        del row["often"], row["mark"]
    rows[7]["rare"] = 5
    piece = piece_of(*rows)
    assert piece.columns["common"][0].rows is None
    assert piece.columns["often"][0].present is not None
    assert piece.columns["mark"][0].present is None
    assert piece.columns["rare"][0].rows is not None
    assert found(piece, "rare", "$ne", 6, "exclude") == [7]
    assert found(piece, "often", "$eq", 0) == []
    assert found(piece, "mark", "$ne", False, "exclude") == [row for row in range(100) if row % 3]


def test_a_value_that_is_no_metadata_is_refused() -> None:
    with pytest.raises(TypeError, match="got=dict"):
        piece_of({"x": {}})
    with pytest.raises(TypeError, match="lists must hold scalars"):
        piece_of({"x": [[1]]})


@pytest.mark.parametrize(("slots", "dead"), [([1, 1], []), ([2, 1], []), ([1, 2], [3, 3]), ([1, 2], [2])])
def test_slots_that_do_not_ascend_or_overlap_are_our_own_mistake(slots: list[int], dead: list[int]) -> None:
    with pytest.raises(RuntimeError, match="of a piece"):
        build(slots, [None] * len(slots), dead)


def test_newest_piece_wins_slot_by_slot() -> None:
    old = build([1, 2, 3, 4], [{"a": "old"}, {"a": "old", "b": 1}, {"a": "old"}, {"c": [1, 2]}])
    middle = build([2, 5], [{"a": "new"}, {"a": "old"}], dead=[3])
    new = build([6], [None], dead=[5, 9])
    merged = merge([old, middle, new], forget_dead=False)
    assert merged.slots.tolist() == [1, 2, 4, 6]
    assert merged.dead.tolist() == [3, 5, 9]
    assert found(merged, "a", "$eq", "old") == [0]
    assert found(merged, "a", "$eq", "new") == [1]
    assert found(merged, "b", "$ne", 0, "exclude") == []
    assert found(merged, "c", "$contains", 2) == [2]
    assert merged.field_types() == {"a": ("str",), "c": ("int",)}
    assert merge([old, middle, new], forget_dead=True).dead.tolist() == []


def test_a_slot_that_lives_again_is_no_longer_dead() -> None:
    merged = merge([build([], [], dead=[1, 2]), build([1], [{"a": 1}])], forget_dead=False)
    assert merged.slots.tolist() == [1]
    assert merged.dead.tolist() == [2]


def test_merging_is_the_same_in_one_step_and_in_several() -> None:
    pieces = [
        build(range(start, start + 6), [{"s": f"{start}-{row}", "n": [row, start]} for row in range(6)], [start + 7])
        for start in (4, 0, 2)
    ]
    pairwise = merge([merge(pieces[:2], forget_dead=False), pieces[2]], forget_dead=False)
    assert encode(pairwise) == encode(merge(pieces, forget_dead=False))


def test_merged_piece_equals_one_built_at_once() -> None:
    rows: Rows = [{"s": f"text {row % 5}", "n": row, "list": ["x"] * (row % 3 + 1), "b": row % 2 == 0} for row in range(30)]
    halves = [build(range(15), rows[:15]), build(range(15, 30), rows[15:])]
    assert encode(merge(halves, forget_dead=True)) == encode(build(range(30), rows))


def test_strings_of_overridden_rows_leave_the_file() -> None:
    merged = merge([build([1, 2], [{"a": "secret"}, {"a": "kept"}]), build([], [], dead=[1])], forget_dead=True)
    assert b"kept" in encode(merged)
    assert b"secret" not in encode(merged)


def test_merging_nothing_gives_an_empty_piece() -> None:
    for merged in (merge([], forget_dead=False), merge([build([], [])], forget_dead=False)):
        assert len(merged) == 0
        assert found(merged, "a", "$ne", 1) == []
        assert encode(decode(encode(merged))) == encode(merged)


def example() -> ColumnPiece:
    rows: Rows = [{"s": f"text {row}", "f": row / 2, "t": ["a", "b"]} if row % 4 else {"n": row} for row in range(40)]
    return build(range(10, 50), rows, [1, 2, 3])


def test_a_decoded_piece_equals_the_encoded_one() -> None:
    data = encode(example())
    decoded = decode(data)
    assert encode(decoded) == data
    values = [column.values for columns in decoded.columns.values() for column in columns if len(column.values)]
    arrays = [np.frombuffer(part, np.uint8) for part in encoded_parts(decoded) if len(part)]
    assert all(any(np.shares_memory(array, each) for each in arrays) for array in values)  # none is copied to be written
    assert decoded.slots.tolist() == list(range(10, 50))
    assert decoded.dead.tolist() == [1, 2, 3]
    assert found(decoded, "s", "$eq", "text 7") == [7]
    assert found(decoded, "t", "$contains", "b") == [row for row in range(40) if row % 4]


def test_a_decoded_piece_is_made_of_aligned_views_of_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "columns"
    path.write_bytes(encode(example()))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    piece = decode(memoryview(mapped))
    values = piece.columns["f"][0].values
    assert values.base is not None
    assert not values.flags.owndata
    assert not values.flags.writeable
    assert values.ctypes.data % 64 == 0
    assert found(piece, "f", "$gt", 18.5) == [38, 39]


def test_an_unknown_version_is_refused_by_name() -> None:
    data = bytearray(encode(example()))
    data[8] = 9
    with pytest.raises(FormatError, match="found=9 known=1 to 2"):
        decode(bytes(data))


def test_another_file_is_refused() -> None:
    with pytest.raises(FormatError, match="not a file of metadata columns"):
        decode(b"SQLite format 3\x00" + bytes(100))


def test_a_file_that_is_cut_off_is_refused_at_once() -> None:
    data = encode(example())
    for length in range(len(data)):
        with pytest.raises(StorageCorrupt):
            decode(data[:length])
    with pytest.raises(StorageCorrupt, match="wrong length"):
        decode(data + b"x")


def test_a_column_that_points_outside_is_reported_and_does_not_crash() -> None:
    rows, values = np.array([5, 1000], np.int32), np.array([1, 1], np.int64)
    piece = ColumnPiece(np.arange(100), np.arange(0), {"x": (lay_out("x", "int", False, rows, values, 100, None),)})
    with pytest.raises(StorageCorrupt, match="points outside its piece"):
        piece.test(FieldTest("x", "$eq", 1), "include")
    with pytest.raises(StorageCorrupt, match="points outside its piece"):
        merge([piece, piece], forget_dead=True)
