"""Filters as users give them, checked before anything is sent: each refusal is a ValueError that says what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from chroma_async.client.checks import checked_utf8, class_of, is_mapping, plain, unwrapped
from chroma_async.core.operators import COMBINATIONS, DOCUMENT_OPERATORS, FIELD_OPERATORS, WHERE_DOCUMENT_KEY
from chroma_async.core.where import DEPTH_MAX

COMPARISONS: Final = frozenset(row.name for row in FIELD_OPERATORS.values() if row.accepts == "number")
LISTS: Final = frozenset(row.name for row in FIELD_OPERATORS.values() if row.accepts == "list")


def checked_where(where: Any, name: str = "where") -> dict[str, Any] | None:
    """Return a metadata filter with plain operands: `{field: value}`, `{field: {operator: operand}}`, `$and`, `$or`.

    `name` is the place of the filter, for messages.

    Raises:
        ValueError: more or fewer than one key, an unknown operator, an operand of a wrong type.
    """
    return None if where is None else _checked_where(where, name, DEPTH_MAX)


def _checked_where(where: Any, name: str, depth: int) -> dict[str, Any]:
    """The same of a filter that may be nested so much deeper."""
    key, value = _only_entry(where, name)
    here = f"{name}.{key}"
    if key in COMBINATIONS:
        return {key: [_checked_where(item, place, depth - 1) for place, item in _alternatives(here, value, depth)]}
    if key in FIELD_OPERATORS:
        raise ValueError(f"{here}: operators stand below a field, such as {{'year': {{'{key}': ...}}}}")
    if key.startswith("$"):
        raise _unknown(key, here, (*COMBINATIONS, "or a field's name"))
    if isinstance(value, Mapping):
        operator, operand = _only_entry(value, here)
        return {key: {operator: _operand(operator, operand, f"{here}.{operator}", is_document=key == WHERE_DOCUMENT_KEY)}}
    return {key: plain(value, here)}


def _operand(operator: str, operand: Any, name: str, *, is_document: bool) -> Any:
    if operator not in (allowed := (*FIELD_OPERATORS, *DOCUMENT_OPERATORS) if is_document else FIELD_OPERATORS):
        if operator in DOCUMENT_OPERATORS:
            raise ValueError(f"{name}: {operator} works on documents only; use where_document, or '{WHERE_DOCUMENT_KEY}'")
        raise _unknown(operator, name, dict.fromkeys(allowed))
    if operator in LISTS:
        return _operand_list(operand, name)
    value = plain(operand, name)
    if operator in COMPARISONS and not isinstance(value, int | float):
        raise ValueError(f"{name}: {operator} compares with a number. got={operand!r}")
    return value


def _unknown(operator: str, name: str, allowed: Iterable[str]) -> ValueError:
    names = list(allowed)
    nearest = difflib.get_close_matches(operator.lower(), names, n=1)
    suggestion = f"; did you mean {nearest[0]}?" if nearest else ";"
    return ValueError(f"{name}: unknown operator {operator}{suggestion} allowed: {', '.join(names)}")


def _operand_list(operand: Any, name: str) -> list[Any]:
    operand = unwrapped(operand)
    if not isinstance(operand, list | tuple | set | np.ndarray):
        raise ValueError(f"{name} takes a list. got={class_of(operand)}")
    items = [plain(item, f"{name}[{position}]") for position, item in enumerate(cast("Iterable[Any]", operand))]
    if not items or len({type(item) for item in items}) != 1:
        raise ValueError(f"{name} takes a list with items, all of one type. got={operand!r:.200}")
    return items


def checked_where_document(where: Any, name: str = "where_document") -> dict[str, Any] | None:
    """Return a document filter: `{"$contains": text}`, `$not_contains`, `$regex`, `$not_regex`, `$and`, `$or`.

    `name` is the place of the filter, for messages.

    Raises:
        ValueError: more or fewer than one key, an unknown operator, an operand that is no text or an empty one.
    """
    return None if where is None else _checked_where_document(where, name, DEPTH_MAX)


def _checked_where_document(where: Any, name: str, depth: int) -> dict[str, Any]:
    """The same of a filter that may be nested so much deeper."""
    key, value = _only_entry(where, name)
    here = f"{name}.{key}"
    if key in COMBINATIONS:
        return {key: [_checked_where_document(item, place, depth - 1) for place, item in _alternatives(here, value, depth)]}
    if key not in DOCUMENT_OPERATORS:
        raise _unknown(key, here, (*DOCUMENT_OPERATORS, *COMBINATIONS))
    if not isinstance(value, str) or not value:
        raise ValueError(f"{here} takes a text with at least one character. got={value!r}")
    return {key: checked_utf8(value, here)}


def _only_entry(where: Any, name: str) -> tuple[str, Any]:
    if not is_mapping(where):
        raise ValueError(f"{name} must be a dict. got={class_of(where)}")
    entries = list(where.items())
    if not entries:
        raise ValueError(f"{name} must not be an empty dict; None matches everything")
    if len(entries) > 1:
        raise ValueError(f"{name} must have exactly one key; combine several with $and or $or. got={dict(entries)!r:.200}")
    key, value = entries[0]
    if not isinstance(key, str):
        raise ValueError(f"{name} must have a text as its key. got={key!r}")
    return checked_utf8(key, f"the key of {name}"), value


def _alternatives(name: str, value: Any, depth: int) -> list[tuple[str, Any]]:
    """Return the filters of a list, each with its place."""
    if depth < 1:
        raise ValueError(f"{name[:80]}...: nested deeper than {DEPTH_MAX} levels; flatten $and and $or")
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} takes a list of filters that is not empty. got={value!r:.200}")
    return [(f"{name}[{position}]", item) for position, item in enumerate(cast("Sequence[Any]", value))]
