"""Filters: every operator with every type, on every type."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest
from tests.compat.differential.exchange import NOTHING, Json, Pair, create, describe, post
from tests.compat.differential.values import (
    ANYTHING,
    DOCUMENT_OPERATORS,
    DOCUMENTS,
    FEW,
    FIELD_OPERATORS,
    GOOD_LISTS,
    NEEDLES,
    NO_OPERATORS,
    PATTERNS,
    SCALARS,
    deep,
    everything,
    ids,
    nearest,
    records,
)


@pytest.fixture
def zoo(pair: Pair) -> Pair:
    """A collection `zoo`: in each record the field `v` has another value, or none."""
    pair.fresh().agree(create("zoo"))
    values = [*SCALARS, *GOOD_LISTS, NOTHING, NOTHING]
    metadatas = [{"other": 1} if value is NOTHING else {"v": value} for value in values[:-1]] + [None]
    pair.agree(post("zoo", "add", records(len(values), metadatas=metadatas, documents=["x"] * len(values))))
    return pair


def conditions(operators: Iterable[str], operands: Iterable[Json]) -> Iterator[Json]:
    return ({"v": {operator: operand}} for operator, operand in itertools.product(operators, operands))


def test_every_operator_with_every_operand_on_every_value(zoo: Pair) -> None:
    shorthand = ({"v": operand} for operand in ANYTHING)
    filters = [*conditions(FIELD_OPERATORS, ANYTHING), *shorthand]
    zoo.agree_on_reads(post("zoo", "get", {"where": where, "include": ["metadatas"]}) for where in filters)


def test_queries_filter_as_gets_do(zoo: Pair) -> None:
    operands = ("x", 1, 1.0, True, ["x"], [1, 2], [1.5, 2], None)
    body = {"n_results": 99, "include": ["metadatas", "distances"]}
    filters = conditions(FIELD_OPERATORS, operands)
    zoo.agree_on_reads(nearest("zoo", [0], where=where, **body) for where in filters)


def test_deletions_filter_as_gets_do(pair: Pair) -> None:
    values = ("x", "", 1, 2, 1.0, True, False, ["x"], [1, 2])
    operands = ("x", 1, 1.0, True, ["x", "y"], [1, 2], [2.0, 3], None)
    pair.fresh().agree(create("docs"))
    body = records(len(values) + 1, metadatas=[*({"v": value} for value in values), None])
    for where in conditions(FIELD_OPERATORS, operands):
        pair.agree(post("docs", "upsert", body))
        pair.agree(post("docs", "delete", {"where": where}))
        pair.agree(post("docs", "get", {}))


def test_what_is_no_operator_is_refused_alike(zoo: Pair) -> None:
    filters = [*conditions(NO_OPERATORS, ("x", 1, ["x"], None, {})), *({name: ["x"]} for name in ("$foo", "$not", "$AND"))]
    zoo.agree_on_reads(post("zoo", "get", {"where": where}) for where in filters)


def test_combinations(zoo: Pair) -> None:
    one, two, none, bad = {"v": 1}, {"v": {"$ne": "x"}}, {"v": "nowhere"}, {"v": {"$gt": "x"}}
    lists = [[], [one], [two], [one, two], [one, none], [none, two], [one, two, none], [one, bad], [{}], [None], ["x"], [[]]]
    filters: list[Json] = [{name: children} for name in ("$and", "$or") for children in lists]
    filters += [{outer: [{inner: children}, two]} for outer, inner, children in nested(lists)]
    filters += [{name: value} for name in ("$and", "$or") for value in FEW]
    filters += [{"v": 1, "other": 1}, {"v": {"$gt": 0, "$lt": 2}}, {"$and": [one], "$or": [two]}, {"v": {}}, *FEW]
    filters += [deep(30), deep(30, "$or")]
    zoo.agree_on_reads(post("zoo", "get", {"where": where, "include": ["metadatas"]}) for where in filters)


def nested(lists: list[Json]) -> Iterator[tuple[str, str, Json]]:
    return itertools.product(("$and", "$or"), ("$and", "$or"), lists[:6])


def test_fields_with_odd_names(pair: Pair) -> None:
    names = [
        "plain",
        "with space",
        "日本",
        "a.b",
        "a'b",
        'a"b',
        "a\\b",
        "%",
        "_",
        "x" * 300,
        "\0",
        "v$",
        "v#",
        "é",
        "id",
        "where",
    ]
    pair.fresh().agree(create("odd"))
    pair.agree(post("odd", "add", records(len(names), metadatas=[{name: 1, "n": name} for name in names])))
    pair.agree(everything("odd"))
    pair.agree(describe("odd"))
    asked = [*names, "", "#", "#ghost", "#id", "#embedding", "chroma:uri", "ghost"]
    pair.agree_on_reads(post("odd", "get", {"where": {name: 1}}) for name in asked)
    pair.agree_on_reads(post("odd", "get", {"where": {name: {"$ne": 1}}}) for name in asked)
    pair.agree_on_reads(post("odd", "get", {"where": {"n": name}}) for name in asked)


@pytest.fixture
def texts(pair: Pair) -> Pair:
    """A collection `texts` with `DOCUMENTS`."""
    pair.fresh().agree(create("texts"))
    pair.agree(post("texts", "add", records(len(DOCUMENTS), documents=list(DOCUMENTS))))
    return pair


def document_tests() -> Iterator[Json]:
    yield from itertools.starmap(condition, itertools.product(("$contains", "$not_contains"), NEEDLES))
    yield from itertools.starmap(condition, itertools.product(("$regex", "$not_regex"), PATTERNS))


def condition(operator: str, operand: Json) -> Json:
    return {operator: operand}


def test_every_document_operator_on_every_document(texts: Pair) -> None:
    texts.agree_on_reads(post("texts", "get", {"where_document": test, "include": []}) for test in document_tests())


def test_the_key_of_documents_in_where(texts: Pair) -> None:
    tests = [*itertools.islice(document_tests(), 0, None, 5), *conditions(FIELD_OPERATORS, FEW), *FEW]
    tests = [test["v"] if isinstance(test, dict) and "v" in test else test for test in tests]
    texts.agree_on_reads(post("texts", "get", {"where": {"#document": test}, "include": []}) for test in tests)


def test_combinations_of_document_tests(texts: Pair) -> None:
    one, two, bad = {"$contains": "x"}, {"$not_contains": "red"}, {"$regex": "("}
    lists = [[], [one], [one, two], [two, two], [one, bad], [{}], [None], ["x"]]
    tests: list[Json] = [{name: children} for name in ("$and", "$or") for children in lists]
    tests += [{outer: [{inner: children}, two]} for outer, inner, children in nested(lists)]
    tests += [{operator: operand} for operator in (*DOCUMENT_OPERATORS, "$foo", "$eq", "") for operand in FEW]
    tests += [{"$contains": "x", "$not_contains": "y"}, *FEW]
    texts.agree_on_reads(post("texts", "get", {"where_document": test, "include": []}) for test in tests)


def test_both_filters_and_ids_together(texts: Pair) -> None:
    chosen = [None, [], ["r1", "r3", "r1", "unknown"], ids(len(DOCUMENTS))]
    wheres = [None, {"ghost": {"$ne": 1}}, {"ghost": 1}, {"#document": {"$contains": "x"}}]
    tests = [None, {"$contains": "x"}, {"$not_contains": "x"}]
    bodies = [
        {"ids": some, "where": where, "where_document": test}
        for some, where, test in itertools.product(chosen, wheres, tests)
    ]
    texts.agree_on_reads(post("texts", "get", body) for body in bodies)
    texts.agree_on_reads(nearest("texts", [0], n_results=99, **body) for body in bodies)
