"""What is wrong with a request body, in the words of Chroma's server (Rust's serde), which clients and tests look for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from chroma_async.errors import MalformedRequestError

PREFIX: Final = "Failed to deserialize the JSON body into the target type: "

_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(\w+)`")
_EXPECTED: Final = re.compile(r"Expected `([^`]+)`(?: >= 0)?, got `([^`]+)`")
_NEGATIVE: Final = re.compile(r"Expected `int` >= 0")
_VARIANT: Final = re.compile(r"Invalid enum value '?(.*?)'?$")

_WANTED: Final[Mapping[str, str]] = {
    "str": "a string",
    "int": "u32",
    "float": "f32",
    "bool": "a boolean",
    "array": "a sequence",
    "object": "a map",
}


def malformed(error: msgspec.ValidationError, fields: Mapping[str, Any], within: str = "") -> MalformedRequestError:
    """Return the error that says which field is wrong, what it holds, and what is expected there.

    `within` is the place of `fields` in the whole body.
    """
    what, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    place = ".".join(part for part in (within, path) if part)
    return MalformedRequestError(PREFIX + (f"{place}: " if place else "") + _sentence(what, path, fields))


def _sentence(what: str, path: str, fields: Mapping[str, Any]) -> str:
    if found := _MISSING.fullmatch(what):
        return f"missing field `{found[1]}`"
    if found := _UNKNOWN.fullmatch(what):
        return f"unknown field `{found[1]}`"
    if found := _EXPECTED.fullmatch(what):
        wanted = next((_WANTED[name] for name in found[1].split(" | ") if name in _WANTED), found[1])
        return f"invalid type: {describe(_value_at(path, fields), found[2])}, expected {wanted}"
    if _NEGATIVE.fullmatch(what):
        return f"invalid value: {describe(_value_at(path, fields))}, expected usize"
    if found := _VARIANT.fullmatch(what):
        return f"unknown variant `{found[1]}`"
    return what[:1].lower() + what[1:]


def _value_at(path: str, fields: Mapping[str, Any]) -> Any:
    value: Any = fields
    for name, position, unnamed in _STEP.findall(f".{path}" if path and not path.startswith("[") else path):
        if unnamed:
            return ...
        try:
            value = value[name] if name else value[int(position)]
        except (KeyError, IndexError, TypeError):
            return ...
    return value


def describe(value: Any, kind: str = "value") -> str:
    """Name a JSON value as serde does; `kind` is for what has no name."""
    match value:
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case None:
            return "null"
        case list():
            return "sequence"
        case dict():
            return "map"
        case _:
            return kind
