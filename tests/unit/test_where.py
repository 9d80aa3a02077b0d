"""Filters as a user writes them: what is accepted, how a refusal reads, which rows match."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chroma_async.core.operators import DOCUMENT_OPERATORS, FIELD_OPERATORS
from chroma_async.core.where import (
    DEPTH_MAX,
    And,
    DocumentTest,
    FieldTest,
    Or,
    Where,
    conjoin,
    evaluate,
    matches,
    parse_where,
    parse_where_document,
)
from chroma_async.errors import InvalidArgumentError

ACCEPTED: list[tuple[object, Where | None]] = [
    (None, None),
    ({"a": "x"}, FieldTest("a", "$eq", "x")),
    ({"a": True}, FieldTest("a", "$eq", True)),
    ({"a": {"$gte": 1.5}}, FieldTest("a", "$gte", 1.5)),
    ({"a": {"$eq": -(2**63)}}, FieldTest("a", "$eq", -(2**63))),
    ({"a": {"$in": [1.5, 2]}}, FieldTest("a", "$in", (1.5, 2))),
    ({"a": {"$nin": ["x", "y"]}}, FieldTest("a", "$nin", ("x", "y"))),
    ({"a": {"$contains": 2}}, FieldTest("a", "$contains", 2)),
    ({"": 1}, FieldTest("", "$eq", 1)),
    ({"#other": 1}, FieldTest("#other", "$eq", 1)),
    ({"$and": []}, And(())),
    ({"$or": []}, Or(())),
    ({"$or": [{"a": 1}]}, Or((FieldTest("a", "$eq", 1),))),
    ({"$and": [{"a": 1}, {"$or": []}]}, And((FieldTest("a", "$eq", 1), Or(())))),
    ({"#document": {"$contains": "x"}}, DocumentTest("$contains", "x")),
    ({"#document": {"$not_regex": "^x"}}, DocumentTest("$not_regex", "^x")),
]

REFUSED: list[tuple[object, str]] = [
    ({}, ": expected exactly one key, got 0; leave it out for no filter"),
    ([], ": expected an object, got a list"),
    ("a", ": expected an object, got str 'a'"),
    ({"a": 1, "b": 2}, ": expected exactly one key, got 2 ('a', 'b'); combine several with '$and'"),
    ({"a": {"$gt": 1, "$lt": 2}}, ": a: expected exactly one key, got 2 ('$gt', '$lt'); combine several with '$and'"),
    ({"a": {}}, ": a: expected exactly one key, got 0"),
    ({"a": None}, ": a: takes a str, bool, int or float, got null"),
    ({"a": [1]}, ": a: takes a str, bool, int or float, got a list"),
    ({"a": {"$eq": None}}, ": a.$eq: takes a str, bool, int or float, got null"),
    ({"a": {"$eq": [1]}}, ": a.$eq: takes a str, bool, int or float, got a list"),
    ({"a": {"$eq": {"b": 1}}}, ": a.$eq: takes a str, bool, int or float, got an object"),
    ({"a": {"$gt": "x"}}, ": a.$gt: takes an int or a float, got str 'x'"),
    ({"a": {"$lte": True}}, ": a.$lte: takes an int or a float, got bool True"),
    ({"a": {"$gtr": 1}}, ": a: unknown operator '$gtr'; did you mean '$gt'? allowed: $eq, $ne,"),
    ({"a": {"eq": 1}}, ": a: unknown operator 'eq'; did you mean '$eq'?"),
    ({"a": {"$zzzzzz": 1}}, ": a: unknown operator '$zzzzzz'; allowed: $eq"),
    ({"$nor": []}, ": $nor: unknown operator '$nor'; did you mean '$or'?"),
    ({"$eq": 1}, ": $eq: expected a field around the operator, such as {'year': {'$eq': ...}}"),
    ({"$and": {"a": 1}}, ": $and: takes a list of clauses, got an object"),
    ({"$and": [{"a": 1}, {"year": {"$gt": "x"}}]}, ": $and[1].year.$gt: takes an int or a float, got str 'x'"),
    ({"$or": [{"$and": [None]}]}, ": $or[0].$and[0]: expected an object, got null"),
    ({"a": {"$in": []}}, ": a.$in: takes a list of at least one value, got []"),
    ({"a": {"$in": "x"}}, ": a.$in: takes a list of at least one value, got str 'x'"),
    ({"a": {"$in": [None]}}, ": a.$in[0]: takes a str, bool, int or float, got null"),
    ({"a": {"$in": [1, "a"]}}, ": a.$in[1]: expected int, the type of the first element, got str 'a'"),
    ({"a": {"$in": [1, 2.5]}}, ": a.$in[1]: expected int, the type of the first element, got float 2.5"),
    ({"a": {"$nin": [1, True]}}, ": a.$nin[1]: expected int, the type of the first element, got bool True"),
    ({"a": {"$nin": [1.5, True]}}, ": a.$nin[1]: expected float, the type of the first element, got bool True"),
    ({"a": 2**63}, ": a: integers must fit into 64 bits"),
    ({"a": {"$in": [1.5, 2**63]}}, ": a.$in[1]: integers must fit into 64 bits"),
    ({"a": {"$gt": float("nan")}}, ": a.$gt: numbers must be finite, got nan"),
    ({"a": float("inf")}, ": a: numbers must be finite, got inf"),
    ({"a": {"$regex": "x"}}, ": a: '$regex' works on documents only; write it under '#document'"),
    ({"#document": {"$contains": 1}}, ": #document.$contains: takes a string, got int 1"),
    ({"#document": {"$regex": "("}}, ": #document.$regex: invalid regular expression: missing )"),
    ({"#document": {"$like": "x"}}, ": #document: unknown operator '$like'"),
    ({"a": "\ud800"}, ": a: expected valid unicode, got a string with a lone surrogate"),
    ({1: "a"}, ": keys must be strings, got int 1"),
]

REFUSED_DOCUMENTS: list[tuple[object, str]] = [
    ({}, ": expected exactly one key, got 0"),
    ("x", ": expected an object, got str 'x'"),
    ({"$contains": None}, ": $contains: takes a string, got null"),
    ({"$contains": ["x"]}, ": $contains: takes a string, got a list"),
    ({"$eq": "x"}, ": $eq: unknown operator '$eq'; "),
    ({"$contain": "x"}, ": $contain: unknown operator '$contain'; did you mean '$contains'?"),
    ({"a": "x"}, ": a: unknown operator 'a'"),
    ({"$or": [{"$regex": "a(?=p)"}]}, ": $or[0].$regex: invalid regular expression: invalid perl operator: (?="),
    ({"$regex": r"(a)\1"}, ": $regex: invalid regular expression: back-references and octal escapes"),
    ({"$regex": "a" * 10_001}, ": $regex: invalid regular expression: pattern is longer than 10000 characters"),
]


@pytest.mark.parametrize(("raw", "expected"), ACCEPTED, ids=repr)
def test_where_of_the_grammar_is_parsed(raw: object, expected: Where | None) -> None:
    assert parse_where(raw) == expected


@pytest.mark.parametrize(("raw", "reason"), REFUSED, ids=lambda value: ascii(value)[:60])
def test_refused_where_says_where_and_why(raw: object, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_where(raw)
    assert caught.value.message.startswith(f"Invalid where clause{reason}")


@pytest.mark.parametrize(("raw", "reason"), REFUSED_DOCUMENTS, ids=lambda value: ascii(value)[:60])
def test_refused_where_document_says_where_and_why(raw: object, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_where_document(raw)
    assert caught.value.message.startswith(f"Invalid where document clause{reason}")


@pytest.mark.parametrize("raw", ["x", {"$eq": "x"}, {"$ne": ""}, {"$in": ["a"]}])
def test_equality_of_documents_and_texts_is_refused_as_chroma_does(raw: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_where({"#document": raw})
    assert caught.value.message == (
        "Cannot filter using metadata key '#document' with type 'Str' because indexing is disabled"
    )


@pytest.mark.parametrize(
    ("raw", "operator", "operand"), [(1, "$eq", 1), ({"$ne": True}, "$ne", True), ({"$in": [1.5]}, "$in", (1.5,))]
)
def test_documents_compared_with_other_types_are_a_field_that_no_record_has(raw: Any, operator: Any, operand: Any) -> None:
    assert parse_where({"#document": raw}) == FieldTest("#document", operator, operand)


def test_where_document_combines_tests() -> None:
    raw = {"$or": [{"$contains": "a"}, {"$and": [{"$not_contains": ""}, {"$regex": "b+"}]}]}
    assert parse_where_document(raw) == Or(
        (DocumentTest("$contains", "a"), And((DocumentTest("$not_contains", ""), DocumentTest("$regex", "b+"))))
    )
    assert parse_where_document(None) is None


def nested(levels: int) -> dict[str, Any]:
    clause: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        clause = {"$and": [clause]}
    return clause


def test_nesting_is_accepted_up_to_the_limit() -> None:
    where = parse_where(nested(DEPTH_MAX))
    assert where is not None
    assert matches(where, {"a": 1}, None, "include")


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 5000])
def test_deeper_nesting_is_refused(levels: int) -> None:
    with pytest.raises(InvalidArgumentError, match="Invalid where clause: nested deeper than 64 levels"):
        parse_where(nested(levels))


def test_messages_can_always_be_sent() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_where({"a": {"\ud800": 1}})
    assert caught.value.message.encode()


ROW: dict[str, Any] = {
    "i": 1, "zero": 0, "f": 1.0, "half": 1.5, "big": 2**53 + 1, "s": "abc", "empty": "", "t": True, "n": False,
    "ints": [1, 2], "floats": [2.0, 0.5], "strings": ["abc", "x"], "bools": [True], "none": None, "nothing": [],
}  # fmt: skip

MATCHES: list[tuple[dict[str, Any], bool]] = [
    ({"i": 1}, True),
    ({"i": 1.0}, True),
    ({"f": 1}, True),
    ({"i": 1.5}, False),
    ({"i": {"$lt": 1.5}}, True),
    ({"i": {"$in": [1.5, 2]}}, False),
    ({"i": {"$in": [1.0, 7]}}, True),
    ({"half": {"$gt": 1}}, True),
    ({"half": {"$lte": 1}}, False),
    ({"big": 2.0**53}, False),
    ({"big": {"$gt": 2.0**53}}, True),
    ({"big": {"$lt": 2.0**53 + 2}}, True),
    ({"i": True}, False),
    ({"zero": False}, False),
    ({"t": 1}, False),
    ({"t": True}, True),
    ({"n": {"$ne": 0}}, True),
    ({"n": {"$nin": [0, 1]}}, True),
    ({"t": {"$gte": 0}}, False),
    ({"s": "abc"}, True),
    ({"s": "ABC"}, False),
    ({"empty": ""}, True),
    ({"s": {"$gt": 0}}, False),
    ({"s": {"$contains": "a"}}, False),
    ({"s": {"$contains": "abc"}}, False),
    ({"s": {"$not_contains": "abc"}}, True),
    ({"ints": 1}, False),
    ({"ints": {"$ne": 1}}, True),
    ({"ints": {"$in": [1]}}, False),
    ({"ints": {"$gt": 0}}, False),
    ({"ints": {"$contains": 2}}, True),
    ({"ints": {"$contains": 2.0}}, False),
    ({"ints": {"$contains": True}}, False),
    ({"ints": {"$not_contains": 3}}, True),
    ({"floats": {"$contains": 2.0}}, True),
    ({"floats": {"$contains": 2}}, False),
    ({"strings": {"$contains": "abc"}}, True),
    ({"strings": {"$contains": "ab"}}, False),
    ({"bools": {"$contains": True}}, True),
    ({"bools": {"$contains": 1}}, False),
    ({"$and": []}, True),
    ({"$or": []}, False),
    ({"$and": [{"i": 1}, {"s": "abc"}]}, True),
    ({"$and": [{"i": 1}, {"s": "x"}]}, False),
    ({"$or": [{"i": 2}, {"s": "abc"}]}, True),
    ({"missing": 1}, False),
    ({"missing": {"$lt": 1}}, False),
    ({"missing": {"$in": [1]}}, False),
    ({"missing": {"$contains": 1}}, False),
    ({"none": {"$contains": 1}}, False),
]


@pytest.mark.parametrize(("raw", "expected"), MATCHES, ids=repr)
def test_row_matches(raw: dict[str, Any], expected: bool) -> None:
    where = parse_where(raw)
    assert where is not None
    assert matches(where, ROW, None, "include") is expected
    assert matches(where, ROW, None, "exclude") is expected


@pytest.mark.parametrize("operator", [{"$ne": 1}, {"$nin": [1]}, {"$not_contains": 1}], ids=repr)
@pytest.mark.parametrize("field", ["missing", "none", "nothing"])
def test_negative_operators_match_missing_fields_only_if_told_to(field: str, operator: object) -> None:
    where = parse_where({field: operator})
    assert where is not None
    for metadata in (ROW, None):
        assert matches(where, metadata, None, "include")
        assert not matches(where, metadata, None, "exclude")


DOCUMENT_MATCHES: list[tuple[dict[str, str], str | None, bool, bool]] = [
    ({"$contains": "b%"}, "ab%c", True, True),
    ({"$contains": "b%"}, "abxc", False, False),
    ({"$contains": "A"}, "a", False, False),
    ({"$contains": ""}, "", True, True),
    ({"$contains": ""}, None, False, False),
    ({"$contains": "ü\n日"}, "xü\n日y", True, True),
    ({"$not_contains": "a"}, "a", False, False),
    ({"$not_contains": "a"}, "b", True, True),
    ({"$not_contains": "a"}, None, True, False),
    ({"$regex": "^a.c$"}, "abc", True, True),
    ({"$regex": "c$"}, "abc\n", False, False),
    ({"$regex": ""}, "", True, True),
    ({"$regex": ""}, None, False, False),
    ({"$not_regex": "a"}, None, True, False),
    ({"$not_regex": "a"}, "a", False, False),
    ({"$not_regex": "a"}, "b", True, True),
]


@pytest.mark.parametrize(("raw", "document", "included", "excluded"), DOCUMENT_MATCHES)
def test_document_matches(raw: dict[str, str], document: str | None, included: bool, excluded: bool) -> None:
    where = parse_where_document(raw)
    assert where is not None
    assert matches(where, None, document, "include") is included
    assert matches(where, None, document, "exclude") is excluded


def test_evaluation_stops_when_nothing_can_change_the_result() -> None:
    asked: list[str] = []
    masks = {"none": np.zeros(3, np.bool_), "all": np.ones(3, np.bool_), "some": np.array([True, False, True])}

    def leaf(test: FieldTest | DocumentTest) -> Any:
        assert isinstance(test, FieldTest)
        asked.append(test.field)
        return masks[test.field]

    none, everything, some = (FieldTest(name, "$eq", 1) for name in ("none", "all", "some"))
    assert evaluate(And((some, none, everything)), leaf, 3).tolist() == [False, False, False]
    assert asked == ["some", "none"]
    asked.clear()
    assert evaluate(Or((some, everything, none)), leaf, 3).tolist() == [True, True, True]
    assert asked == ["some", "all"]
    assert masks["some"].tolist() == [True, False, True]


def test_empty_combinations_have_the_size_asked_for() -> None:
    def leaf(test: FieldTest | DocumentTest) -> Any:
        raise AssertionError(test)

    assert evaluate(And(()), leaf, 2).tolist() == [True, True]
    assert evaluate(Or(()), leaf, 2).tolist() == [False, False]


def test_conjoining_flattens_and_none_is_neutral() -> None:
    one, two, text = FieldTest("a", "$eq", 1), FieldTest("b", "$eq", 2), DocumentTest("$contains", "x")
    assert conjoin(None, None) is None
    assert conjoin(one, None) == one
    assert conjoin(None, text) == text
    assert conjoin(And((one, two)), text) == And((one, two, text))
    assert conjoin(Or((one, two)), text) == And((Or((one, two)), text))


def test_every_operator_is_explained_and_a_negative_one_shares_its_positives_test() -> None:
    for rows in (FIELD_OPERATORS, DOCUMENT_OPERATORS):
        for row in rows.values():
            assert row.help
            assert row.negates is None or rows[row.negates].test is row.test
