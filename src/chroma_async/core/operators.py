"""The filter operators, one row each: what they accept, what they match, and the line that explains them.

A negative operator is its positive one turned around, so only positive tests are written, here row by row and in
`core.columns` as vectors. Types follow Chroma 1.5.9: a bool is never a number, ints and floats compare by exact value,
strings have no order, and a scalar operator never matches a list.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, TypeGuard, TypeVar, cast

from msgspec import Struct

from chroma_async.core.regex import compile_regex
from chroma_async.model import Mask, MetadataValue, Scalar
from chroma_async.settings import Missing

__all__ = [
    "COMBINATIONS",
    "DOCUMENT_OPERATORS",
    "FIELD_OPERATORS",
    "Accepts",
    "DocumentOperator",
    "DocumentOperatorRow",
    "FieldOperator",
    "FieldOperatorRow",
    "Kind",
    "Missing",
    "Operand",
    "WHERE_DOCUMENT_KEY",
    "family_of",
    "is_list",
    "is_number",
    "kind_of",
    "turned_around",
]

FieldOperator = Literal["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains"]
DocumentOperator = Literal["$contains", "$not_contains", "$regex", "$not_regex"]

Kind = Literal["str", "int", "float", "bool"]
Family = Literal["str", "number", "bool"]
Accepts = Literal["scalar", "number", "list"]
"""What an operator takes: any scalar, a number that is no bool, or a list of scalars of one type that is not empty."""

Operand: TypeAlias = Scalar | tuple[Scalar, ...]

Hits = TypeVar("Hits", bool, Mask)

COMBINATIONS: Final = ("$and", "$or")
WHERE_DOCUMENT_KEY: Final = "#document"
"""Stands for the document in a metadata filter."""

_FAMILIES: Final[Mapping[Kind, Family]] = {"str": "str", "int": "number", "float": "number", "bool": "bool"}


def kind_of(value: object) -> Kind | None:
    """Name the type of a scalar; None when it is none. Asks for bool first, because Python's bool is an int."""
    if isinstance(value, str):
        return "str"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else None


def family_of(value: object) -> Family | None:
    """Name the family within which a scalar compares: ints and floats share one."""
    kind = kind_of(value)
    return None if kind is None else _FAMILIES[kind]


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _equals(value: MetadataValue, operand: Operand) -> bool:
    family = family_of(value)
    return family is not None and family == family_of(operand) and value == operand


def _is_one_of(value: MetadataValue, operand: Operand) -> bool:
    return any(_equals(value, item) for item in cast("tuple[Scalar, ...]", operand))


def _holds(value: MetadataValue, operand: Operand) -> bool:
    return is_list(value) and any(kind_of(item) == kind_of(operand) and item == operand for item in value)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[MetadataValue, Operand], bool]:
    def test(value: MetadataValue, operand: Operand) -> bool:
        return is_number(value) and is_number(operand) and compare(value, operand)

    return test


def turned_around(hits: Hits, present: Callable[[], Hits], missing: Missing) -> Hits:
    """Return what a negative operator matches, given what the one that it negates does: of one row, or of many as a mask.

    This is the one place where `missing` counts. `present` says which rows have the field, or the document.
    """
    others = hits ^ True
    return others if missing == "include" else others & present()


class FieldOperatorRow(Struct, frozen=True):
    """An operator on a metadata field. `test` is that of the operator it negates, if it negates one."""

    name: FieldOperator
    accepts: Accepts
    test: Callable[[MetadataValue, Operand], bool]
    help: str
    negates: FieldOperator | None = None

    @property
    def positive(self) -> FieldOperator:
        return self.negates or self.name


class DocumentOperatorRow(Struct, frozen=True):
    """An operator on the document; its operand is a string. `test` is that of the operator it negates, if any."""

    name: DocumentOperator
    test: Callable[[str, str], bool]
    help: str
    negates: DocumentOperator | None = None


def _contains(document: str, operand: str) -> bool:
    return operand in document


def _found(document: str, operand: str) -> bool:
    return compile_regex(operand).search(document) is not None


FIELD_OPERATORS: Final[Mapping[str, FieldOperatorRow]] = {
    row.name: row
    for row in (
        FieldOperatorRow("$eq", "scalar", _equals, "field is a scalar equal to the operand; numbers compare by value"),
        FieldOperatorRow("$ne", "scalar", _equals, "not `$eq`: another value or another type", negates="$eq"),
        FieldOperatorRow("$gt", "number", _ordered(operator.gt), "field is a number greater than the operand"),
        FieldOperatorRow("$gte", "number", _ordered(operator.ge), "field is a number greater than or equal to it"),
        FieldOperatorRow("$lt", "number", _ordered(operator.lt), "field is a number less than the operand"),
        FieldOperatorRow("$lte", "number", _ordered(operator.le), "field is a number less than or equal to it"),
        FieldOperatorRow("$in", "list", _is_one_of, "field is a scalar equal to one of the list"),
        FieldOperatorRow("$nin", "list", _is_one_of, "not `$in`", negates="$in"),
        FieldOperatorRow("$contains", "scalar", _holds, "field is a list with an element of that type and value"),
        FieldOperatorRow("$not_contains", "scalar", _holds, "not `$contains`", negates="$contains"),
    )
}

DOCUMENT_OPERATORS: Final[Mapping[str, DocumentOperatorRow]] = {
    row.name: row
    for row in (
        DocumentOperatorRow("$contains", _contains, "document has the operand as a literal, case-sensitive substring"),
        DocumentOperatorRow("$not_contains", _contains, "not `$contains`", negates="$contains"),
        DocumentOperatorRow("$regex", _found, "the regular expression is found somewhere in the document"),
        DocumentOperatorRow("$not_regex", _found, "not `$regex`", negates="$regex"),
    )
}
