"""One value of a source at a time: from what files, tables and dictionaries hold to what a line holds."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any, Final, cast, get_args

import numpy as np
import orjson
import pybase64

from chroma_async.client.checks import checked_metadata, checked_utf8
from chroma_async.client.lines import Vector
from chroma_async.model import Operation

OPERATIONS: Final[frozenset[str]] = frozenset(get_args(Operation))
CELL_TYPES: Final = ("str", "int", "float", "bool", "json")
_SHOWN: Final = 60
_WORDS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


class BadLine(ValueError):
    """What is wrong with a line, and what is expected."""


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN, or what pandas has for it."""
    if value is None or value is True or value is False or isinstance(value, str | int | list | dict):
        return value is None
    if isinstance(value, float):
        return value != value
    if isinstance(value, np.ndarray):
        return False
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, np.floating) and bool(value != value))


def to_id(value: Any) -> str:
    """Return an id; a whole number stands for its digits."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(cast("Any", value)))
    if is_missing(value):
        raise BadLine("there is no id")
    text = to_text(value, "id")
    if not text:
        raise BadLine("an id must have at least one character")
    return text


def to_text(value: Any, name: str) -> str:
    """Return a document, a URI or an id."""
    if not isinstance(value, str):
        raise BadLine(f"{name} must be a text. got={_shown(value)}")
    try:
        return str(checked_utf8(value, name))
    except ValueError as error:
        raise BadLine(str(error)) from error


def to_operation(value: Any) -> Operation:
    """Return what a line does."""
    if isinstance(value, str) and value in OPERATIONS:
        return cast("Operation", value)
    raise BadLine(f"op must be one of {', '.join(get_args(Operation))}. got={_shown(value)}")


def to_vector(value: Any) -> Vector:
    """Return a vector, shape (ndim,), float32, of numbers, of JSON, or of base64 of little-endian float32."""
    if isinstance(value, str):
        return _vector_of_text(value)
    if isinstance(value, bytes):
        return _vector_of_bytes(value)
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value)
            if array.ndim == 1 and array.dtype.kind in "fiu" and array.size:
                return array.astype(np.float32, copy=False)
            if array.dtype.kind == "O" and array.ndim == 1 and array.size and not any(item is None for item in array):
                return array.astype(np.float32)
    except (TypeError, ValueError):
        pass
    raise BadLine(f"embedding must be a list of numbers, or base64 of little-endian float32. got={_shown(value)}")


def _vector_of_text(text: str) -> Vector:
    if text.lstrip().startswith("["):
        try:
            return to_vector(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise BadLine(f"embedding is no JSON list of numbers: {error}. got={_shown(text)}") from error
    try:
        return _vector_of_bytes(pybase64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        if isinstance(error, BadLine):
            raise
        raise BadLine(f"embedding is neither a JSON list of numbers nor base64: {error}. got={_shown(text)}") from error


def _vector_of_bytes(content: bytes) -> Vector:
    if not content or len(content) % 4:
        raise BadLine(f"embedding must be 4 bytes for each number. got={len(content)} bytes")
    return np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False)


def to_metadata(value: Any) -> bytes | None:
    """Return metadata as JSON; None for an object without fields."""
    value = to_object(value)
    if value is None or value == {}:
        return None
    try:
        return to_json(cast("dict[str, Any]", checked_metadata(value)))
    except ValueError as error:
        raise error if isinstance(error, BadLine) else BadLine(str(error)) from error


def to_object(value: Any) -> Any:
    """Return metadata that may be JSON as what it says."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadLine(f"metadata is no JSON object: {error}. got={_shown(value)}") from error


def to_json(fields: Mapping[str, Any]) -> bytes:
    """Return checked metadata as JSON."""
    try:
        return orjson.dumps(fields)
    except TypeError as error:
        raise BadLine(f"metadata can't be sent as JSON: {error}") from error


def to_plain(value: Any) -> Any:
    """Return a cell as metadata takes it: dates as ISO 8601, arrays as lists."""
    if isinstance(value, date | time):
        return value.isoformat()
    return cast("Any", value).tolist() if isinstance(value, np.ndarray | np.generic) else value


def parser(kind: str) -> Callable[[str, Any], Any]:
    """Return what makes a value of that type of a cell; it takes the cell's column, for messages, and the cell."""
    return _PARSERS[kind]


def _parse(column: str, value: Any, kind: str, make: Callable[[Any], Any]) -> Any:
    try:
        return make(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadLine(f"column {column!r} is no {kind}. got={_shown(value)}") from error


def _to_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else _WORDS[str(value).strip().lower()]


def _to_int(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"it has a fraction: {value}")
    return int(value)


_PARSERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "str": lambda column, value: _parse(column, value, "text", str),
    "int": lambda column, value: _parse(column, value, "whole number", _to_int),
    "float": lambda column, value: _parse(column, value, "number", float),
    "bool": lambda column, value: _parse(column, value, "true or false", _to_bool),
    "json": lambda column, value: _parse(column, value, "JSON", orjson.loads),
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
