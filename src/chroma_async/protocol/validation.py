"""Checks that need no state, with Chroma's messages."""

from __future__ import annotations

import ipaddress
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from operator import itemgetter
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from chroma_async.errors import ChromaError, InvalidArgumentError, MalformedRequestError, UnimplementedError
from chroma_async.model import INT64_MAX, INT64_MIN, CollectionId, Json
from chroma_async.protocol.explain import PREFIX

NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
WAIT_SECONDS_MAX: Final = 3600.0

LSN_MAX: Final = 2**63 - 1
U32_MAX: Final = 2**32 - 1
RESERVED: Final = "chroma:"
"""What the names of Chroma's own metadata fields begin with."""

TENANT_NAME_LENGTH_MIN: Final = 3
DATABASE_NAME_LENGTH_MIN: Final = 3

FieldTypes = dict[str, tuple[str, ...]]

_VISIBLE: Final = re.compile("[!-~]+")


def is_visible_ascii(text: str) -> bool:
    """Whether a text has characters, and only such as headers and URLs take as they are."""
    return _VISIBLE.fullmatch(text) is not None


def check_name(name: str, prefix: str = "") -> None:
    """Refuse a collection or database name outside Chroma's rule (contract: 3-512 of [a-zA-Z0-9._-])."""
    for part in _topology_parts(name, prefix):
        if NAME.fullmatch(part) is None:
            raise InvalidArgumentError(
                f"{prefix}Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and ending with a "
                f"character in [a-zA-Z0-9]. Got: {part}"
            )
        if ".." in part:
            raise InvalidArgumentError(
                f"{prefix}Expected a name that does not contains two consecutive periods (..). Got {part}"
            )
        if _is_ipv4(part):
            raise InvalidArgumentError(f"{prefix}Expected a name that is not a valid ip address. Got {part}")


def _topology_parts(name: str, prefix: str) -> list[str]:
    parts = name.split("+")
    if len(parts) > 2:
        raise InvalidArgumentError(f"{prefix}Expected a name to contain at most one topology:  Got two `+` characters.")
    return parts


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def check_tenant_name(name: str) -> None:
    if len(name) < TENANT_NAME_LENGTH_MIN:
        raise InvalidArgumentError(
            "Validation error: name: Validation error: length "
            f'[{{"min": Number({TENANT_NAME_LENGTH_MIN}), "value": String("{name}")}}]'
        )


def check_database_in_path(name: str) -> None:
    if len(name) < DATABASE_NAME_LENGTH_MIN:
        raise InvalidArgumentError(f"database name must be at least {DATABASE_NAME_LENGTH_MIN} characters")


@lru_cache(maxsize=4096)
def parse_collection_id(text: str) -> CollectionId:
    """Return the id in its one canonical form; upper case, bare hex, braces and `urn:uuid:` are accepted.

    Raises:
        InvalidArgumentError: it is not a UUID.
    """
    try:
        return CollectionId(str(uuid.UUID(text)))
    except ValueError as error:
        raise InvalidArgumentError("Collection ID is not a valid UUIDv4") from error


def check_collection_metadata(metadata: object, name: str) -> None:
    """Collection metadata: scalars or lists of scalars, not empty."""
    if metadata is None:
        return
    fields = cast("Mapping[str, object]", metadata)
    if not fields:
        raise InvalidArgumentError(f"Validation error: {name}: Metadata cannot be empty")
    for key, value in fields.items():
        if not key:
            raise InvalidArgumentError(f"Validation error: {name}: Metadata key cannot be empty")
        if key.startswith(("#", "$")):
            raise InvalidArgumentError(f"Validation error: {name}: Metadata key cannot start with '#' or '$': {key}")
        if type_of_value(value) is None:
            raise MalformedRequestError(_bad_value(f"{name}.{key}", value))


class CheckedMetadatas(msgspec.Struct, frozen=True):
    """The metadata of a batch as it is stored, and the types seen of each field, in order of appearance."""

    stored: list[Mapping[str, object] | None]
    types: FieldTypes


def check_metadatas(metadatas: Sequence[object], *, nulls_allowed: bool) -> CheckedMetadatas:
    """Check the metadata of a batch, and bring it into the form in which it is stored.

    Rows of a batch are mostly alike: where all are, they are looked at field by field; else what holds for all rows with the
    same keys and types is found out once. As at Chroma, a value of no type is reported before a bad key, and that before a
    sparse vector, wherever in the batch they are.

    Raises:
        MalformedRequestError: a value is no str, int, float, bool or list of one of these (or null where not allowed).
        InvalidArgumentError: a key is empty or reserved.
    """
    alike = _alike(metadatas)
    if alike is not None:
        return alike
    seen: dict[str, tuple[str, ...]] = {}
    shapes: dict[tuple[object, ...], _Shape] = {}
    noted: set[tuple[object, ...]] = set()
    """Shapes of which a row was noted that is stored as it is: all such rows have the same types."""
    stored: list[Mapping[str, object] | None] = []
    refusals: list[ChromaError] = []
    for position, metadata in enumerate(metadatas):
        if metadata is None:
            stored.append(None)
            continue
        if not isinstance(metadata, dict):
            raise MalformedRequestError(_bad_value(f"metadatas[{position}]", metadata))
        fields = cast("dict[str, object]", metadata)
        key = (*fields, *map(type, fields.values()))
        shape = shapes.get(key)
        if shape is None:
            shape = shapes[key] = _Shape.of(fields)
        is_stored = shape.is_stored_as_it_is(fields)
        if not is_stored or key not in noted:
            for name, value in fields.items():
                refusal = _note_type(seen, name, value, position, nulls_allowed)
                if refusal is not None:
                    refusals.append(refusal)
            if is_stored:
                noted.add(key)
        stored.append(fields if is_stored else normalise_metadata(fields))
    if refusals:
        raise min(refusals, key=lambda refusal: refusal.status)
    return CheckedMetadatas(stored, {key: kinds for key, kinds in seen.items() if kinds and not key.startswith(RESERVED)})


def _alike(metadatas: Sequence[object]) -> CheckedMetadatas | None:
    """Check rows that all have the same keys and types, and are stored as they are; None: these are others.

    A field of all rows is looked at by a few calls, each of which goes through all of them: some ten times as fast.
    """
    first = metadatas[0] if metadatas else None
    if not isinstance(first, dict) or not first or set(map(type, metadatas)) != {dict}:
        return None
    rows = cast("Sequence[dict[str, object]]", metadatas)
    if set(map(len, rows)) != {len(rows[0])}:
        return None
    types: FieldTypes = {}
    for key in rows[0]:
        if not key or key[0] in "#$" or key.startswith(RESERVED):
            return None
        try:
            kind = _kind_of_column(list(map(itemgetter(key), rows)))
        except KeyError:
            return None
        if kind is None:
            return None
        types[key] = (kind,)
    return CheckedMetadatas(list(rows), types)


def _kind_of_column(values: Sequence[Any]) -> str | None:
    """Name the type that all of these values have; None: not one, or one of them is not stored as it is."""
    kinds = set(map(type, values))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is list:
        items = set(map(type, chain.from_iterable(values)))
        return "str" if items == {str} and all(values) else None
    if kind is int and not (min(values) >= INT64_MIN and max(values) <= INT64_MAX):
        return None
    if kind is float and not all(map(math.isfinite, values)):
        return None
    return None if kind is None else _SCALARS.get(kind)


def _note_type(
    seen: dict[str, tuple[str, ...]], key: str, value: object, position: int, nulls_allowed: bool
) -> ChromaError | None:
    """Note the type of a field; return what is to be refused, but not before the rest has been looked at.

    Raises:
        MalformedRequestError: the value has no type of ours.
    """
    kind = type_of_value(value)
    if kind == "int" and _exceeds_int64(value):
        kind = "float"
    if kind is None and not (value is None and nulls_allowed):
        if value != []:
            refusal = _refusal_of_value(key, position, value, nulls_allowed)
            if isinstance(refusal, MalformedRequestError):
                raise refusal
            return refusal
        kind = "bool"  # an empty list is stored as nothing, but Chroma's schema learns this much
    known = seen.get(key)
    if known is None:
        if not key or key[0] in "#$":
            return InvalidArgumentError(
                f"Validation error: metadatas: Invalid metadata at index {position}. "
                f"a key must not be empty or start with '#' or '$'. key={key!r}"
            )
        seen[key] = (kind,) if kind is not None else ()
    elif kind is not None and kind not in known:
        seen[key] = (*known, kind)
    return None


class _Shape(msgspec.Struct, frozen=True):
    """What rows with the same keys and types have in common. `integers`, `fractions` and `lists` are keys of such values."""

    is_plain: bool
    integers: tuple[str, ...]
    fractions: tuple[str, ...]
    lists: tuple[str, ...]

    @classmethod
    def of(cls, metadata: Mapping[str, object]) -> _Shape:
        kinds = {key: type(value) for key, value in metadata.items()}
        return cls(
            is_plain=bool(kinds)
            and not any(key.startswith(RESERVED) for key in kinds)
            and all(kind in _SCALARS or kind is list for kind in kinds.values()),
            integers=tuple(key for key, kind in kinds.items() if kind is int),
            fractions=tuple(key for key, kind in kinds.items() if kind is float),
            lists=tuple(key for key, kind in kinds.items() if issubclass(kind, list | tuple)),
        )

    def is_stored_as_it_is(self, metadata: Mapping[str, Any]) -> bool:
        """Whether `normalise_metadata` would change nothing: only numbers and lists have values to be looked at."""
        if not self.is_plain:
            return False
        for key in self.integers:
            if not INT64_MIN <= metadata[key] <= INT64_MAX:
                return False
        for key in self.fractions:
            if not math.isfinite(metadata[key]):
                return False
        for key in self.lists:  # noqa: SIM110 - as the two above
            if set(map(type, metadata[key])) != {str}:
                return False
        return True


_SCALARS: Final[Mapping[type, str]] = {str: "str", bool: "bool", int: "int", float: "float"}


def type_of_value(value: object) -> str | None:
    """Name the type of a metadata value; a list has the type of its elements; None when it is none of ours."""
    if isinstance(value, list | tuple):
        kinds = {_SCALARS.get(type(item)) for item in cast("Sequence[object]", value)}
        if kinds == {"int", "float"}:
            return "float"
        return next(iter(kinds)) if len(kinds) == 1 else None
    return _SCALARS.get(type(value))


def _exceeds_int64(value: object) -> bool:
    """Whether an int, or one of a list of ints, is stored as a float."""
    if isinstance(value, int):
        return not INT64_MIN <= value <= INT64_MAX
    return any(_exceeds_int64(item) for item in cast("Sequence[object]", value))


def normalise_value(value: object) -> object:
    """Return a checked value as it is stored: ints beyond int64 and lists of mixed numbers become floats."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        try:
            return float(value) if _exceeds_int64(value) else value
        except OverflowError as error:
            raise InvalidArgumentError("metadata values must be numbers that float64 can hold") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"metadata values must be finite numbers. got={value}")
    if isinstance(value, list | tuple):
        items = [normalise_value(item) for item in cast("Sequence[object]", value)]
        mixed = any(isinstance(item, float) for item in items)
        return [float(cast("float", item)) for item in items] if mixed else items
    return value


def normalise_collection_metadata(metadata: Mapping[str, Json] | None) -> dict[str, Json] | None:
    """Return the metadata of a collection as stored, after it was checked."""
    return None if metadata is None else {key: cast("Json", normalise_value(value)) for key, value in metadata.items()}


def normalise_metadata(metadata: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the metadata as stored.

    An empty list is as good as null, and deletes what was there. The reserved keys `chroma:*`, which Chroma never shows, are
    dropped; {} becomes None.
    """
    kept = {key: item for key, item in metadata.items() if not key.startswith(RESERVED)}
    return {key: None if item == [] else normalise_value(item) for key, item in kept.items()} or None


def check_unsigned(value: int | None, name: str) -> None:
    """Limits, offsets and numbers of results are u32 on the wire."""
    if value is not None and not 0 <= value <= U32_MAX:
        raise MalformedRequestError(f"{PREFIX}{name}: invalid value: integer `{value}`, expected u32")


def check_lsn(lsn: int | None) -> None:
    """Check an LSN that a caller names.

    Raises:
        InvalidArgumentError: it is none.
    """
    if lsn is not None and not 0 <= lsn <= LSN_MAX:
        raise InvalidArgumentError(f"an LSN is a number from 0 to 2^63 - 1. got={lsn}")


class _SparseVector(msgspec.Struct, frozen=True):
    """A value that Chroma knows: coordinates by index; `tokens` says what they stand for."""

    indices: list[Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)]]
    values: list[float]
    tokens: list[str] | None = None
    type: Literal["sparse_vector"] | None = msgspec.field(name="#type", default=None)

    @property
    def problem(self) -> str | None:
        lengths = {len(part) for part in (self.indices, self.values, self.tokens) if part is not None}
        if len(lengths) > 1:
            return "indices, values, and tokens (when present) must have the same length"
        if any(second <= first for first, second in pairwise(self.indices)):
            return "indices must be sorted in strictly ascending order (no duplicates)"
        return None


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_PREPARED: Final = msgspec.json.Decoder(_SparseVector)


def _refusal_of_value(key: str, position: int, value: object, nulls_allowed: bool) -> ChromaError:
    """A sparse vector is a value that Chroma knows, but not on a single node; all else is none at all."""
    try:
        sparse = msgspec.convert(value, _SparseVector, strict=True)
    except msgspec.ValidationError:
        variant = "UpdateMetadataValue" if nulls_allowed else "MetadataValue"
        return MalformedRequestError(_bad_value(f"metadatas[{position}].{key}", value, variant))
    if sparse.problem is not None:
        return InvalidArgumentError(
            f"Validation error: metadatas: Invalid metadata at index {position}. sparse vector {key!r}: {sparse.problem}"
        )
    return UnimplementedError(f"Unimplemented: Sparse vector is not supported for local chroma: {key}")


def _bad_value(path: str, value: object, variant: str = "MetadataValue") -> str:
    return (
        f"{PREFIX}{path}: data did not match any variant of untagged enum {variant}: "
        f"expected str, int, float, bool or a list of one of these, got {_noun(value)}"
    )


def _noun(value: object) -> str:
    """Name what is no metadata value: for a list, what makes it none."""
    if not isinstance(value, list | tuple):
        return _NOUNS.get(type(value), type(value).__name__)
    items = cast("Sequence[object]", value)
    odd = [item for item in items if type(item) not in _SCALARS]
    if odd:
        return f"a list with {_NOUNS.get(type(odd[0]), type(odd[0]).__name__)} in it"
    return "a list of mixed types" if items else "an empty list"


_NOUNS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", tuple: "a list", type(None): "null"}


def check_wait_seconds(seconds: float | None) -> None:
    """Refuse a time to wait that is none, or too long."""
    if seconds is not None and not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise InvalidArgumentError(f"wait_seconds must be from 0 to {WAIT_SECONDS_MAX:g}. got={seconds}")
