"""What is wrong with a request body, in the words of Chroma's server (Rust's serde), which clients and tests look for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
import msgspec.inspect as shape

from chroma_async.errors import MalformedRequestError

T = TypeVar("T")

PREFIX: Final = "Failed to deserialize the JSON body into the target type: "

_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
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
_WANTED_OF_AN_INDEX: Final[Mapping[str, str]] = {**_WANTED, "int": "usize", "float": "f64"}


def converted(value: Any, kind: type[T], place: str) -> T:
    """Return a part of a body as a value of this type; `place` is where it stands in the whole body.

    Raises:
        MalformedRequestError: it is none; which field is wrong, and what is expected there.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise malformed(error, value, kind, place) from error


def malformed(
    error: msgspec.ValidationError, fields: Mapping[str, Any], kind: Any, within: str = ""
) -> MalformedRequestError:
    """Return the error that says which field is wrong, what it holds, and what is expected there.

    `kind` is the type that the fields were converted to, `within` the place of `fields` in the whole body.
    """
    place, fault = _fault(error, fields, kind)
    where = ".".join(part for part in (within, place) if part)
    return MalformedRequestError(PREFIX + (f"{where}: " if where else "") + fault)


def reason(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """Return place and fault of a value that was converted to `kind`, without the words around them."""
    place, fault = _fault(error, value, kind)
    return f"{place}: {fault}" if place else fault


def sentence(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """Return the fault alone, for a value whose place the caller names."""
    return _fault(error, value, kind)[1]


def _fault(error: msgspec.ValidationError, fields: Any, kind: Any) -> tuple[str, str]:
    """Return the place and what is wrong there."""
    what, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    if found := _MISSING.fullmatch(what):
        return path, f"missing field `{found[1]}`"
    if found := _UNKNOWN.fullmatch(what):
        place = f"{path}.{found[1]}" if path else found[1]
        return place, f"unknown field `{found[1]}`, {_one_of(_field_names(kind, path)) or 'there are no fields'}"
    if found := _EXPECTED.fullmatch(what):
        names = _WANTED_OF_AN_INDEX if ".hnsw." in f".{path}" else _WANTED
        wanted = next((names[name] for name in found[1].split(" | ") if name in names), found[1])
        return path, f"invalid type: {describe(_value_at(path, fields), found[2])}, expected {wanted}"
    if _NEGATIVE.fullmatch(what):
        return path, f"invalid value: {describe(_value_at(path, fields))}, expected usize"
    if found := _VARIANT.fullmatch(what):
        variants = _one_of(_variants(kind, path))
        return path, f"unknown variant `{found[1]}`" + (f", {variants}" if variants else "")
    return path, what[:1].lower() + what[1:]


def _one_of(names: Iterable[str]) -> str:
    """Say what is expected as serde does; nothing when there is nothing."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) <= 2:
        return f"expected {' or '.join(quoted)}" if quoted else ""
    return f"expected one of {', '.join(quoted)}"


def _field_names(kind: Any, path: str) -> tuple[str, ...]:
    return tuple(
        field.encode_name for part in _types_at(kind, path) if isinstance(part, shape.StructType) for field in part.fields
    )


def _variants(kind: Any, path: str) -> tuple[str, ...]:
    return tuple(
        str(value) for part in _types_at(kind, path) if isinstance(part, shape.LiteralType) for value in part.values
    )


def _types_at(kind: Any, path: str) -> list[shape.Type]:
    """Return what the type allows at a path: several where it is a union, nothing where it says nothing."""
    found = _alternatives(_shape(kind))
    for name, position, unnamed in _steps(path):
        found = [below for part in found for below in _below(part, name, bool(position or unnamed))]
    return found


@cache
def _shape(kind: Any) -> shape.Type:
    return shape.type_info(kind)


def _alternatives(kind: shape.Type) -> list[shape.Type]:
    if isinstance(kind, shape.Metadata):
        return _alternatives(kind.type)
    return list(kind.types) if isinstance(kind, shape.UnionType) else [kind]


def _below(kind: shape.Type, name: str, is_item: bool) -> list[shape.Type]:
    match kind:
        case shape.StructType():
            return [part for field in kind.fields if field.encode_name == name for part in _alternatives(field.type)]
        case shape.DictType():
            return _alternatives(kind.value_type)
        case shape.ListType() | shape.VarTupleType() if is_item:
            return _alternatives(kind.item_type)
        case _:
            return []


def _steps(path: str) -> list[tuple[str, str, str]]:
    return _STEP.findall(f".{path}" if path and not path.startswith("[") else path)


def _value_at(path: str, fields: Mapping[str, Any]) -> Any:
    value: Any = fields
    for name, position, unnamed in _steps(path):
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
