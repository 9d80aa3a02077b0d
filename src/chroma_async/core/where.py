"""Filters: parsed once into a small tree, evaluated row by row (the truth) or as numpy masks (fast); both agree.

Grammar and type rules are those of Chroma 1.5.9. Which rows a negative operator matches when the field is missing is one
explicit choice, `Missing`, made by the caller. The operators themselves are rows in `core.operators`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NoReturn, TypeAlias, assert_never, cast

import numpy as np
from msgspec import Struct

from chroma_async.core.operators import (
    COMBINATIONS,
    DOCUMENT_OPERATORS,
    FIELD_OPERATORS,
    WHERE_DOCUMENT_KEY,
    DocumentOperator,
    FieldOperator,
    FieldOperatorRow,
    Missing,
    is_list,
    is_number,
    kind_of,
    turned_around,
)
from chroma_async.core.regex import PatternError, compile_regex
from chroma_async.errors import InvalidArgumentError
from chroma_async.model import INT64_MAX, INT64_MIN, Mask, Metadata, Scalar

__all__ = [
    "DEPTH_MAX",
    "And",
    "DocumentOperator",
    "DocumentTest",
    "FieldOperator",
    "FieldTest",
    "Missing",
    "Or",
    "Where",
    "conjoin",
    "evaluate",
    "matches",
    "parse_where",
    "parse_where_document",
]

DEPTH_MAX: Final = 64
"""Levels of `$and` and `$or` within one another."""


class FieldTest(Struct, frozen=True):
    """One operator on one metadata field. `$in` and `$nin` take a tuple, the others a scalar."""

    field: str
    operator: FieldOperator
    operand: Scalar | tuple[Scalar, ...]


class DocumentTest(Struct, frozen=True):
    """One operator on the document: a literal substring, or a regular expression (Rust's syntax, unanchored)."""

    operator: DocumentOperator
    operand: str


class And(Struct, frozen=True):
    children: tuple[Where, ...]


class Or(Struct, frozen=True):
    children: tuple[Where, ...]


Where: TypeAlias = FieldTest | DocumentTest | And | Or


# --- evaluation -------------------------------------------------------------------------------------------------------


def matches(where: Where, metadata: Metadata | None, document: str | None, missing: Missing) -> bool:
    """Tell whether a row matches: the definition of truth, which every faster way must agree with.

    `metadata` is as it is stored (`normalise_metadata`); a `None` or empty list in it counts as a missing field.
    """
    match where:
        case And(children):
            return all(matches(child, metadata, document, missing) for child in children)
        case Or(children):
            return any(matches(child, metadata, document, missing) for child in children)
        case FieldTest():
            return _matches_field(where, metadata, missing)
        case DocumentTest():
            return _matches_document(where, document, missing)
        case _:
            assert_never(where)


def _matches_field(test: FieldTest, metadata: Metadata | None, missing: Missing) -> bool:
    row = FIELD_OPERATORS[test.operator]
    value = metadata.get(test.field) if metadata else None
    present = value is not None and value not in ([], ())
    hit = row.test(value, test.operand) if value is not None and present else False
    return hit if row.negates is None else turned_around(hit, lambda: present, missing)


def _matches_document(test: DocumentTest, document: str | None, missing: Missing) -> bool:
    row = DOCUMENT_OPERATORS[test.operator]
    hit = document is not None and row.test(document, test.operand)
    return hit if row.negates is None else turned_around(hit, lambda: document is not None, missing)


def evaluate(where: Where, leaf: Callable[[FieldTest | DocumentTest], Mask], size: int) -> Mask:
    """Return the mask of `size` rows that match, given the masks of single tests. `leaf` is asked no more than needed.

    The result may be the very array that `leaf` returned; neither is changed here.
    """
    match where:
        case And(children):
            return _intersect((evaluate(child, leaf, size) for child in children), size)
        case Or(children):
            return _unite((evaluate(child, leaf, size) for child in children), size)
        case FieldTest() | DocumentTest():
            return leaf(where)
        case _:
            assert_never(where)


def _intersect(masks: Iterator[Mask], size: int) -> Mask:
    result = next(masks, None)
    if result is None:
        return np.ones(size, np.bool_)
    while result.any():
        following = next(masks, None)
        if following is None:
            break
        result = result & following
    return result


def _unite(masks: Iterator[Mask], size: int) -> Mask:
    result = next(masks, None)
    if result is None:
        return np.zeros(size, np.bool_)
    while not result.all():
        following = next(masks, None)
        if following is None:
            break
        result = result | following
    return result


# --- trees ------------------------------------------------------------------------------------------------------------


def conjoin(first: Where | None, second: Where | None) -> Where | None:
    """Return what matches both; None is no filter."""
    if first is None or second is None:
        return second if first is None else first
    return And((*_conjuncts(first), *_conjuncts(second)))


def _conjuncts(where: Where) -> tuple[Where, ...]:
    return where.children if isinstance(where, And) else (where,)


# --- parsing ----------------------------------------------------------------------------------------------------------


def parse_where(raw: object) -> Where | None:
    """Parse `where` as JSON gives it; None is no filter.

    Raises:
        InvalidArgumentError: it is not of the grammar; the message names the place and what is allowed there.
    """
    return None if raw is None else _Parser("Invalid where clause", _field_leaf).parse(raw, "", 0)


def parse_where_document(raw: object) -> Where | None:
    """Parse `where_document` as JSON gives it; None is no filter.

    Raises:
        InvalidArgumentError: it is not of the grammar; the message names the place and what is allowed there.
    """
    return None if raw is None else _Parser("Invalid where document clause", _document_leaf).parse(raw, "", 0)


class _Parser(Struct, frozen=True):
    """What the two grammars share: `$and`, `$or`, and how a refusal reads. They differ in their leaves."""

    title: str
    leaf: Callable[[_Parser, str, object, str], Where]

    def parse(self, raw: object, path: str, depth: int) -> Where:
        if depth > DEPTH_MAX:
            self.refuse("", f"nested deeper than {DEPTH_MAX} levels; flatten `$and` and `$or`")
        key, value = self.only_entry(raw, path)
        here = f"{path}.{key}" if path else key
        if key not in COMBINATIONS:
            return self.leaf(self, key, value, here)
        if not is_list(value):
            self.refuse(here, f"takes a list of clauses, got {_describe(value)}")
        children = tuple(self.parse(item, f"{here}[{position}]", depth + 1) for position, item in enumerate(value))
        return And(children) if key == "$and" else Or(children)

    def only_entry(self, raw: object, path: str) -> tuple[str, object]:
        if not isinstance(raw, Mapping):
            self.refuse(path, f"expected an object, got {_describe(raw)}")
        entries = list(cast("Mapping[object, object]", raw).items())
        if len(entries) != 1:
            self.refuse(path, f"expected exactly one key, got {len(entries)}{_advice(key for key, _ in entries)}")
        key, value = entries[0]
        if not isinstance(key, str):
            self.refuse(path, f"keys must be strings, got {_describe(key)}")
        return self.text(key, path), value

    def text(self, value: str, path: str) -> str:
        """Return the string if it can be stored at all: half a surrogate pair has no UTF-8."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.refuse(path, "expected valid unicode, got a string with a lone surrogate")
        return value

    def pattern(self, value: str, path: str) -> str:
        try:
            compile_regex(value)
        except PatternError as error:
            self.refuse(path, f"invalid regular expression: {error}. pattern={value!r:.200}")
        return value

    def unknown(self, name: str, path: str, allowed: Iterable[str]) -> NoReturn:
        names = list(allowed)
        near = difflib.get_close_matches(name.lower(), names, n=1)
        suggestion = f"; did you mean '{near[0]}'?" if near else ";"
        self.refuse(path, f"unknown operator '{name}'{suggestion} allowed: {', '.join(names)}")

    def refuse(self, path: str, reason: str) -> NoReturn:
        place = f"{path}: " if path else ""
        raise InvalidArgumentError(f"{self.title}: {place}{reason}".encode(errors="replace").decode())


def _advice(keys: Iterable[object]) -> str:
    names = ", ".join(repr(key) for key in keys)
    return f" ({names}); combine several with '$and'" if names else "; leave it out for no filter"


def _describe(value: object) -> str:
    """Name a JSON value in a message, cut to a length that fits into a log line."""
    if value is None:
        return "null"
    if is_list(value):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"{type(value).__name__} {value!r:.80}"


def _field_leaf(parser: _Parser, key: str, value: object, path: str) -> Where:
    if key in FIELD_OPERATORS:
        parser.refuse(path, f"expected a field around the operator, such as {{'year': {{'{key}': ...}}}}")
    if key.startswith("$"):
        parser.unknown(key, path, (*COMBINATIONS, "or a field name"))
    if key == WHERE_DOCUMENT_KEY:
        return _document_key_leaf(parser, value, path)
    if not isinstance(value, Mapping):
        return FieldTest(key, "$eq", _scalar(parser, value, path))
    name, operand = parser.only_entry(cast("object", value), path)
    row = FIELD_OPERATORS.get(name)
    if row is not None:
        return FieldTest(key, row.name, _operand(parser, row, operand, f"{path}.{name}"))
    if name in DOCUMENT_OPERATORS:
        parser.refuse(path, f"'{name}' works on documents only; write it under '{WHERE_DOCUMENT_KEY}' or in where_document")
    return parser.unknown(name, path, FIELD_OPERATORS)


def _operand(parser: _Parser, row: FieldOperatorRow, value: object, path: str) -> Scalar | tuple[Scalar, ...]:
    match row.accepts:
        case "scalar":
            return _scalar(parser, value, path)
        case "number":
            if not is_number(value):
                parser.refuse(path, f"takes an int or a float, got {_describe(value)}")
            return _scalar(parser, value, path)
        case "list":
            return _list(parser, value, path)
        case _:
            assert_never(row.accepts)


def _scalar(parser: _Parser, value: object, path: str) -> Scalar:
    if isinstance(value, str):
        return parser.text(value, path)
    if not isinstance(value, bool | int | float):
        parser.refuse(path, f"takes a str, bool, int or float, got {_describe(value)}")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        parser.refuse(path, "integers must fit into 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        parser.refuse(path, f"numbers must be finite, got {value}")
    return value


def _list(parser: _Parser, value: object, path: str) -> tuple[Scalar, ...]:
    """Accept a list typed by its first element; only a float lets ints follow, as in Chroma."""
    if not is_list(value) or not value:
        parser.refuse(path, f"takes a list of at least one value, got {'[]' if value == [] else _describe(value)}")
    items = tuple(_scalar(parser, item, f"{path}[{position}]") for position, item in enumerate(value))
    first = kind_of(items[0])
    allowed = ("float", "int") if first == "float" else (first,)
    for position, item in enumerate(items):
        if kind_of(item) not in allowed:
            parser.refuse(f"{path}[{position}]", f"expected {first}, the type of the first element, got {_describe(item)}")
    return items


def _document_key_leaf(parser: _Parser, value: object, path: str) -> Where:
    if not isinstance(value, Mapping):
        return _without_texts(FieldTest(WHERE_DOCUMENT_KEY, "$eq", _scalar(parser, value, path)))
    name, operand = parser.only_entry(cast("object", value), path)
    if name in DOCUMENT_OPERATORS:
        return _document_leaf(parser, name, operand, f"{path}.{name}")
    row = FIELD_OPERATORS.get(name)
    if row is None:
        parser.unknown(name, path, DOCUMENT_OPERATORS)
    return _without_texts(FieldTest(WHERE_DOCUMENT_KEY, row.name, _operand(parser, row, operand, f"{path}.{name}")))


def _without_texts(test: FieldTest) -> FieldTest:
    """Refuse to compare documents with texts, for which Chroma has no index; of other types no record has such a field."""
    operand = test.operand[0] if isinstance(test.operand, tuple) else test.operand
    if isinstance(operand, str):
        raise InvalidArgumentError(
            f"Cannot filter using metadata key '{WHERE_DOCUMENT_KEY}' with type 'Str' because indexing is disabled"
        )
    return test


def _document_leaf(parser: _Parser, key: str, value: object, path: str) -> Where:
    row = DOCUMENT_OPERATORS.get(key)
    if row is None:
        parser.unknown(key, path, (*DOCUMENT_OPERATORS, *COMBINATIONS))
    if not isinstance(value, str):
        parser.refuse(path, f"takes a string, got {_describe(value)}")
    operand = parser.text(value, path)
    if row.name in ("$regex", "$not_regex"):
        parser.pattern(operand, path)
    return DocumentTest(row.name, operand)
