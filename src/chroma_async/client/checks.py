"""What Chroma's client checks before it sends anything: each refusal is a ValueError that says what to change.

Filters are checked in `client/filters.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeGuard, cast, get_args

import numpy as np

from chroma_async.errors import DuplicateIDError
from chroma_async.model import INT64_MAX, INT64_MIN, STAGES, Lsn, Stage
from chroma_async.protocol.records import ReadLevel
from chroma_async.protocol.validation import LSN_MAX, U32_MAX, WAIT_SECONDS_MAX
from chroma_async.settings import Missing

PLAIN: Final = frozenset({str, bool, int, float})
EXAMPLES_MAX: Final = 5

DOCUMENT_KEY: Final = "chroma:document"
"""Reserved in metadata."""

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
    """Return the ids of a write as a list of distinct texts.

    Raises:
        ValueError: none, an empty list, or one that is not a text.
        DuplicateIDError: the same id twice.
    """
    ids = listed(value, "ids")
    if ids is None:
        raise ValueError("ids must be given")
    ids = _texts(ids, "ids")
    if "" in ids:
        raise ValueError(f"an id must have at least one character. place=ids[{ids.index('')}]")
    if len(set(ids)) != len(ids):
        raise DuplicateIDError(f"ids must be unique in one call. repeated: {_some(_repeated(ids))}")
    return ids


def checked_read_ids(value: Any) -> list[str] | None:
    """Return the ids that narrow a read as a list of texts, None when there are none to narrow it.

    Raises:
        ValueError: no list, or one that is not a text.
    """
    if value is None or (isinstance(value, list | tuple) and not value):
        return None if value is None else []
    return _texts(cast("list[Any]", listed(value, "ids")), "ids")


def _texts(values: Sequence[Any], name: str) -> list[str]:
    """Return texts as exactly str; numpy's are a class of their own."""
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{position}] must be a text; str(...) makes one. got={value!r}")
        if not value.isascii():
            checked_utf8(value, f"{name}[{position}]")
    return [str.__str__(value) for value in values]


def checked_utf8(text: str, name: str) -> str:
    """Return a text that UTF-8 can say: others have half of a surrogate pair, mostly from bytes that were decoded wrongly.

    Raises:
        ValueError: where the first such half is.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} is not a valid text: {error.reason} at character {error.start}") from error
    return text


def checked_name(value: Any, name: str = "name") -> str:
    """Return what names a collection, database or tenant.

    Raises:
        ValueError: it is no text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text. got={value!r}")
    return checked_utf8(value, name)


def _repeated(ids: Sequence[str]) -> list[str]:
    return [id_ for id_, times in Counter(ids).items() if times > 1]


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:EXAMPLES_MAX])
    return shown if len(items) <= EXAMPLES_MAX else f"{shown}, ... ({len(items)})"


def checked_texts(value: Any, name: str, *, nones_allowed: bool) -> list[str | None] | None:
    """Return documents or URIs as a list of texts, of None where that is allowed."""
    texts = listed(value, name)
    for position, text in enumerate(texts or ()):
        if not isinstance(text, str) and not (text is None and nones_allowed):
            allowed = "a text or None" if nones_allowed else "a text"
            raise ValueError(f"{name}[{position}] must be {allowed}. got={class_of(text)}")
        if text is not None and not text.isascii():
            checked_utf8(text, f"{name}[{position}]")
    return texts


def checked_metadatas(value: Any, *, nones_allowed: bool = True) -> list[dict[str, Any] | None] | None:
    """Return the metadata of a batch with plain values; numpy's scalars and subclasses of str, int, float are converted."""
    metadatas = listed(value, "metadatas")
    if metadatas is None:
        return None
    names = (f"metadatas[{position}]" for position in range(len(metadatas)))
    return [checked_metadata(item, name, nones_allowed=nones_allowed) for item, name in zip(metadatas, names, strict=True)]


def checked_metadata(value: Any, name: str = "metadata", *, nones_allowed: bool = True) -> dict[str, Any] | None:
    """Return one metadata dictionary with plain values, of which None deletes a field where that is allowed."""
    if value is None:
        return None
    if not is_mapping(value):
        raise ValueError(f"{name} must be a dict or None. got={class_of(value)}")
    if not value:
        raise ValueError(f"{name} must not be an empty dict; None means no metadata")
    fields = {_field_name(key, name): _field_value(item, name, key) for key, item in value.items()}
    if not nones_allowed and None in fields.values():
        key = next(key for key, item in fields.items() if item is None)
        raise ValueError(f"{name}[{key!r}] must not be None here: leave the field out")
    return fields


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def class_of(value: object) -> str:
    return type(value).__name__


def _field_name(key: Any, name: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the fields of {name} must be texts. got={key!r}")
    if key == DOCUMENT_KEY:
        raise ValueError(f"{name}: the field {DOCUMENT_KEY} is reserved; pass documents=...")
    return key if key.isascii() else checked_utf8(key, f"a field's name in {name}")


def _field_value(value: Any, metadata: str, key: str) -> Any:
    if value is None or type(value) is bool or (type(value) is int and INT64_MIN <= value <= INT64_MAX):
        return value
    name, value = f"{metadata}[{key!r}]", unwrapped(value)
    if isinstance(value, list | tuple | np.ndarray):
        items = cast("list[Any]", value.tolist() if isinstance(value, np.ndarray) else list(cast("Iterable[Any]", value)))
        plain_items = [_plain_in_metadata(item, f"{name}[{position}]") for position, item in enumerate(items)]
        if not plain_items or len({type(item) for item in plain_items}) != 1:
            raise ValueError(f"{name}: a list in metadata must have items, all of one type. got={items!r:.200}")
        return plain_items
    return _plain_in_metadata(value, name)


def _plain_in_metadata(value: Any, name: str) -> str | bool | int | float:
    return plain(value, name, f"{name}: Expected metadata value to be")  # LangChain looks for these words


def plain(value: Any, name: str, expected: str | None = None) -> str | bool | int | float:
    """Return a scalar as exactly a str, bool, int or float. `expected`: how the message about another type begins.

    Raises:
        ValueError: it is none, or one that JSON can't say: for a number that is not finite, null would be sent.
    """
    if type(value) in PLAIN:
        return _sayable(cast("str | bool | int | float", value), name)
    item = unwrapped(value)
    for kind, convert in _CONVERSIONS.items():
        if isinstance(item, kind):
            return _sayable(convert(item), name)
    beginning = expected or f"{name} must be"
    raise ValueError(f"{beginning} a str, int, float, bool or a list of one of these. got={class_of(item)}")


def unwrapped(value: Any) -> Any:
    """The number or text that numpy has made a scalar of, or an array of no dimension; else the value as it is."""
    is_one = isinstance(value, np.ndarray | np.generic) and not value.ndim
    return cast("Any", value).item() if is_one else cast("Any", value)


def _sayable(value: str | bool | float, name: str) -> str | bool | int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; what is not known is left out. got={value}")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise ValueError(f"{name}: whole numbers must fit into 64 bits; larger ones can be floats or texts. got={value}")
    return checked_utf8(value, name) if isinstance(value, str) else value


_CONVERSIONS: Final[Mapping[type, Callable[[Any], str | bool | int | float]]] = {
    bool: bool,
    int: int,
    float: float,
    str: str.__str__,
}


def checked_include(include: Any, allowed: Sequence[str]) -> list[str]:
    """Return what to include.

    Raises:
        ValueError: no list, or a part that can't be included here.
    """
    if not isinstance(include, list | tuple):
        raise ValueError(f"include must be a list. got={type(include).__name__}")
    items = [getattr(item, "value", item) for item in cast("Sequence[Any]", include)]
    for position, item in enumerate(items):
        if item not in allowed:
            raise ValueError(f"include[{position}] must be one of {', '.join(allowed)}. got={item!r}")
    return items


def checked_count(value: Any, name: str, minimum: int) -> int:
    """Return a whole number that is at least `minimum`, and no more than 32 bits hold."""
    count: Any = cast("Any", value).item() if isinstance(value, np.integer) else value
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{name} must be a whole number. got={count!r}")
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}. got={count}")
    if count > U32_MAX:
        raise ValueError(f"{name} must be at most {U32_MAX}. got={count}")
    return count


def checked_optional_count(value: Any, name: str) -> int | None:
    """Return a whole number that is at least 0, or None."""
    return None if value is None else checked_count(value, name, 0)


def checked_missing(value: Any) -> Missing | None:
    """Return the choice about records that lack a field, or None."""
    if value is None or value in get_args(Missing):
        return cast("Missing | None", value)
    raise ValueError(f"missing must be 'include' or 'exclude', or None for the default. got={value!r}")


def checked_stage(wait: Any) -> Stage | None:
    """Return how far a write is to be waited for.

    Raises:
        ValueError: there is no such stage.
    """
    for stage in (None, *STAGES):
        if wait == stage:
            return stage
    raise ValueError(f"wait must be one of {', '.join(STAGES)}. got={wait!r}")


def checked_level(read_level: Any) -> ReadLevel:
    """Return how fresh what a read sees must be.

    Raises:
        ValueError: there is no such level.
    """
    level = getattr(read_level, "value", read_level)
    for known in get_args(ReadLevel):
        if level == known:
            return cast("ReadLevel", known)
    raise ValueError(f"read_level: unknown level {str(level)!r}, expected one of {', '.join(get_args(ReadLevel))}")


def checked_lsn(lsn: Any) -> Lsn | None:
    """Return an LSN that a read must see.

    Raises:
        ValueError: it is none.
    """
    if lsn is None:
        return None
    if isinstance(lsn, bool) or not isinstance(lsn, int) or not 0 <= lsn <= LSN_MAX:
        raise ValueError(f"min_lsn must be an LSN, a number from 0 to 2^63 - 1. got={lsn!r}")
    return Lsn(lsn)


def checked_wait_seconds(seconds: Any) -> float | None:
    """Return how long to wait at most.

    Raises:
        ValueError: it is no time, or longer than servers wait.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise ValueError(f"wait_seconds must be a number from 0 to {WAIT_SECONDS_MAX:g}. got={seconds!r}")
    return float(seconds)
