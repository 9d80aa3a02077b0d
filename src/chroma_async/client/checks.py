"""What Chroma's client checks before it sends anything: each refusal is a ValueError that says what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeGuard, cast, get_args

import numpy as np

from chroma_async.errors import DuplicateIDError
from chroma_async.settings import Missing

PLAIN: Final = frozenset({str, bool, int, float})
EXAMPLES_MAX: Final = 5

COMPARISONS: Final = ("$gt", "$gte", "$lt", "$lte")
LISTS: Final = ("$in", "$nin")
ARRAYS: Final = ("$contains", "$not_contains")
FIELD_OPERATORS: Final = ("$eq", "$ne", *COMPARISONS, *LISTS, *ARRAYS)
LOGIC: Final = ("$and", "$or")
DOCUMENT_OPERATORS: Final = ("$contains", "$not_contains", "$regex", "$not_regex")
DOCUMENT_KEY: Final = "chroma:document"

GET_INCLUDE: Final = ("documents", "embeddings", "metadatas", "uris", "data")
QUERY_INCLUDE: Final = (*GET_INCLUDE, "distances")


def listed(value: Any, name: str) -> list[Any] | None:
    """Return one or many as a list; None stays None.

    Raises:
        ValueError: an empty list, or something that is no list.
    """
    if value is None:
        return None
    if isinstance(value, str | dict):
        return [cast("Any", value)]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list. got={type(value).__name__}")
    items = list(cast("Sequence[Any]", value))
    if not items:
        raise ValueError(f"{name} must not be an empty list")
    return items


def checked_ids(value: Any) -> list[str]:
    """Return ids as a list of distinct texts.

    Raises:
        ValueError: none, an empty list, or one that is not a text.
        DuplicateIDError: the same id twice.
    """
    ids = listed(value, "ids")
    if ids is None:
        raise ValueError("ids must be given")
    for id_ in ids:
        if not isinstance(id_, str):
            raise ValueError(f"ids must be texts; str(...) makes one. got={id_!r}")
        if not id_:
            raise ValueError("an id must have at least one character")
    if len(set(ids)) != len(ids):
        raise DuplicateIDError(f"ids must be unique in one call. repeated: {_some(_repeated(ids))}")
    return ids


def _repeated(ids: Sequence[str]) -> list[str]:
    return [id_ for id_, times in Counter(ids).items() if times > 1]


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:EXAMPLES_MAX])
    return shown if len(items) <= EXAMPLES_MAX else f"{shown}, ... ({len(items)})"


def checked_texts(value: Any, name: str, *, nones_allowed: bool) -> list[str | None] | None:
    """Return documents or URIs as a list of texts, of None where that is allowed."""
    texts = listed(value, name)
    for text in texts or ():
        if not isinstance(text, str) and not (text is None and nones_allowed):
            raise ValueError(f"{name} must be texts{' or None' if nones_allowed else ''}. got={_kind(text)}")
    return texts


def checked_metadatas(value: Any) -> list[dict[str, Any] | None] | None:
    """Return the metadata of a batch with plain values; numpy's scalars and subclasses of str, int, float are converted."""
    metadatas = listed(value, "metadatas")
    return None if metadatas is None else [checked_metadata(item, "metadatas") for item in metadatas]


def checked_metadata(value: Any, name: str = "metadata") -> dict[str, Any] | None:
    """Return one metadata dictionary with plain values."""
    if value is None:
        return None
    if not _is_mapping(value):
        raise ValueError(f"{name} must be a dict or None. got={_kind(value)}")
    if not value:
        raise ValueError(f"{name} must not be an empty dict; None means no metadata")
    return {_field_name(key): _field_value(key, item) for key, item in value.items()}


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _kind(value: object) -> str:
    return type(value).__name__


def _field_name(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a metadata field's name must be a text. got={key!r}")
    if key == DOCUMENT_KEY:
        raise ValueError(f"the metadata field {DOCUMENT_KEY} is reserved; pass documents=...")
    return key


def _field_value(key: str, value: Any) -> Any:
    if value is None or type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple | np.ndarray):
        items = cast("list[Any]", value.tolist() if isinstance(value, np.ndarray) else list(cast("Iterable[Any]", value)))
        plain_items = [plain(item, f"metadata field {key!r}") for item in items]
        if not plain_items or len({type(item) for item in plain_items}) != 1:
            raise ValueError(f"a list in metadata must have items, all of one type. field={key!r}")
        return plain_items
    return plain(value, f"metadata field {key!r}")


def plain(value: Any, name: str) -> str | bool | int | float:
    """Return a scalar as exactly a str, bool, int or float."""
    if type(value) in PLAIN:
        return cast("str | bool | int | float", value)
    item: Any = cast("Any", value).item() if isinstance(value, np.generic) else value
    for kind, convert in _CONVERSIONS.items():
        if isinstance(item, kind):
            return convert(item)
    raise ValueError(f"{name} must be a str, int, float, bool or a list of one of these. got={_kind(item)}")


_CONVERSIONS: Final[Mapping[type, Callable[[Any], str | bool | int | float]]] = {
    bool: bool,
    int: int,
    float: float,
    str: str.__str__,
}


def checked_where(where: Any, name: str = "where") -> dict[str, Any] | None:
    """Return a metadata filter with plain operands: `{field: value}`, `{field: {operator: operand}}`, `$and`, `$or`.

    Raises:
        ValueError: more or fewer than one key, an unknown operator, an operand of a wrong type.
    """
    if where is None:
        return None
    key, value = _only_entry(where, name)
    if key in LOGIC:
        return {key: [checked_where(item, key) for item in _alternatives(key, value)]}
    if key.startswith("$"):
        raise ValueError(f"{name} starts with a field's name, $and or $or; operators stand below a field. got={key!r}")
    if isinstance(value, Mapping):
        operator, operand = _only_entry(value, f"{name}.{key}")
        return {key: {operator: _operand(operator, operand)}}
    return {key: plain(value, f"{name}.{key}")}


def _operand(operator: str, operand: Any) -> Any:
    if operator not in (*FIELD_OPERATORS, *DOCUMENT_OPERATORS):
        raise ValueError(f"unknown operator {operator}; use one of {', '.join(FIELD_OPERATORS)}")
    if operator in LISTS:
        return _operand_list(operator, operand)
    value = plain(operand, operator)
    if operator in COMPARISONS and not isinstance(value, int | float):
        raise ValueError(f"{operator} compares with a number. got={operand!r}")
    return value


def _operand_list(operator: str, operand: Any) -> list[Any]:
    if not isinstance(operand, list | tuple | set | np.ndarray):
        raise ValueError(f"{operator} takes a list. got={_kind(operand)}")
    items = [plain(item, operator) for item in cast("Iterable[Any]", operand)]
    if not items or len({type(item) for item in items}) != 1:
        raise ValueError(f"{operator} takes a list with items, all of one type. got={operand!r}")
    return items


def checked_where_document(where: Any, name: str = "where_document") -> dict[str, Any] | None:
    """Return a document filter: `{"$contains": text}`, `$not_contains`, `$regex`, `$not_regex`, `$and`, `$or`.

    Raises:
        ValueError: more or fewer than one key, an unknown operator, an operand that is no text or an empty one.
    """
    if where is None:
        return None
    key, value = _only_entry(where, name)
    if key in LOGIC:
        return {key: [checked_where_document(item, key) for item in _alternatives(key, value)]}
    if key not in DOCUMENT_OPERATORS:
        raise ValueError(f"{name} takes one of {', '.join((*DOCUMENT_OPERATORS, *LOGIC))}. got={key!r}")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} takes a text with at least one character. got={value!r}")
    return {key: value}


def _only_entry(where: Any, name: str) -> tuple[str, Any]:
    if not _is_mapping(where):
        raise ValueError(f"{name} must be a dict. got={_kind(where)}")
    entries = list(where.items())
    if not entries:
        raise ValueError(f"{name} must not be an empty dict; None matches everything")
    if len(entries) > 1:
        raise ValueError(f"{name} must have exactly one key; combine several with $and or $or. got={dict(entries)!r}")
    key, value = entries[0]
    if not isinstance(key, str):
        raise ValueError(f"{name} must have a text as its key. got={key!r}")
    return key, value


def _alternatives(operator: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{operator} takes a list of filters that is not empty. got={value!r}")
    return list(cast("Sequence[Any]", value))


def checked_include(include: Any, allowed: Sequence[str]) -> list[str]:
    """Return what to include.

    Raises:
        ValueError: no list, or a part that can't be included here.
    """
    if not isinstance(include, list | tuple):
        raise ValueError(f"include must be a list. got={type(include).__name__}")
    items = [getattr(item, "value", item) for item in cast("Sequence[Any]", include)]
    for item in items:
        if item not in allowed:
            raise ValueError(f"include takes {', '.join(allowed)}. got={item!r}")
    return items


def checked_count(value: Any, name: str, minimum: int) -> int:
    """Return a whole number that is at least `minimum`."""
    count: Any = cast("Any", value).item() if isinstance(value, np.integer) else value
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{name} must be a whole number. got={count!r}")
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}. got={count}")
    return count


def checked_optional_count(value: Any, name: str) -> int | None:
    """Return a whole number that is at least 0, or None."""
    return None if value is None else checked_count(value, name, 0)


def checked_missing(value: Any) -> Missing | None:
    """Return the choice about records that lack a field, or None."""
    if value is None or value in get_args(Missing):
        return cast("Missing | None", value)
    raise ValueError(f"missing must be 'include' or 'exclude', or None for the default. got={value!r}")
