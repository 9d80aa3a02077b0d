"""Metadata: what may stand in it, how it is stored, and what is wrong with it, in Chroma's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from operator import itemgetter
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from chroma_async.errors import ChromaError, InvalidArgumentError, MalformedRequestError, UnimplementedError
from chroma_async.model import INT64_MAX, INT64_MIN, Json
from chroma_async.protocol.explain import PREFIX
from chroma_async.protocol.validation import U32_MAX

RESERVED: Final = "chroma:"
"""What the names of Chroma's own metadata fields begin with."""

FieldTypes = dict[str, tuple[str, ...]]
"""Fields and the types seen of each, in order of appearance."""


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


# ---- the rows of a batch


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
    batch = _Batch(nulls_allowed=nulls_allowed)
    stored = [batch.store(position, metadata) for position, metadata in enumerate(metadatas)]
    if batch.refusals:
        raise min(batch.refusals, key=lambda refusal: refusal.status)
    types = {key: kinds for key, kinds in batch.types.items() if kinds and not key.startswith(RESERVED)}
    return CheckedMetadatas(stored, types)


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


class _Batch:
    """What has been found out about the rows of a batch so far: `types` of the fields, and `refusals` that can wait."""

    def __init__(self, *, nulls_allowed: bool) -> None:
        self._nulls_allowed = nulls_allowed
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self.types: FieldTypes = {}
        self.refusals: list[ChromaError] = []

    def store(self, position: int, metadata: object) -> Mapping[str, object] | None:
        """Look at a row, and return it as it is stored.

        Raises:
            MalformedRequestError: it is no object, or a value in it is of none of our types.
        """
        if metadata is None:
            return None
        if not isinstance(metadata, dict):
            raise MalformedRequestError(_bad_value(f"metadatas[{position}]", metadata))
        fields = cast("dict[str, object]", metadata)
        shape = self._shape_of(fields)
        is_stored = shape.is_stored_as_it_is(fields)
        if not (is_stored and shape.is_noted):
            for key, value in fields.items():
                self._note(position, key, value)
            shape.is_noted = shape.is_noted or is_stored
        return fields if is_stored else normalise_metadata(fields)

    def _shape_of(self, fields: Mapping[str, object]) -> _Shape:
        names_and_kinds = (*fields, *map(type, fields.values()))
        shape = self._shapes.get(names_and_kinds)
        if shape is None:
            shape = self._shapes[names_and_kinds] = _Shape.of(fields)
        return shape

    def _note(self, position: int, key: str, value: object) -> None:
        """Note the type of a field, or what is to be refused, but not before the rest has been looked at."""
        kind = _kind_in_schema(value)
        if kind is None and not (value is None and self._nulls_allowed):
            self.refusals.append(_refusal_of_value(key, position, value, self._nulls_allowed))
            return
        known = self.types.get(key)
        if known is None and (not key or key[0] in "#$"):
            self.refusals.append(_refusal_of_key(key, position))
        elif known is None:
            self.types[key] = () if kind is None else (kind,)
        elif kind is not None and kind not in known:
            self.types[key] = (*known, kind)


class _Shape(msgspec.Struct):
    """What rows with the same keys and types have in common. `integers`, `fractions` and `lists` are keys of such values."""

    is_plain: bool
    integers: tuple[str, ...]
    fractions: tuple[str, ...]
    lists: tuple[str, ...]
    is_noted: bool = False
    """Whether the types of a row were noted that is stored as it is: all such rows have the same."""

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


# ---- values


_SCALARS: Final[Mapping[type, str]] = {str: "str", bool: "bool", int: "int", float: "float"}


def type_of_value(value: object) -> str | None:
    """Name the type of a metadata value; a list has the type of its elements; None when it is none of ours."""
    if isinstance(value, list | tuple):
        kinds = {_SCALARS.get(type(item)) for item in cast("Sequence[object]", value)}
        if kinds == {"int", "float"}:
            return "float"
        return next(iter(kinds)) if len(kinds) == 1 else None
    return _SCALARS.get(type(value))


def _kind_in_schema(value: object) -> str | None:
    """Name the type that Chroma's schema learns from a value: an empty list too, though it is stored as nothing."""
    kind = type_of_value(value)
    if kind is None:
        return "bool" if value == [] else None
    return "float" if kind == "int" and _exceeds_int64(value) else kind


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


# ---- refusals


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


def _refusal_of_key(key: str, position: int) -> ChromaError:
    return InvalidArgumentError(
        f"Validation error: metadatas: Invalid metadata at index {position}. "
        f"a key must not be empty or start with '#' or '$'. key={key!r}"
    )


def _refusal_of_value(key: str, position: int, value: object, nulls_allowed: bool) -> ChromaError:
    """A sparse vector is a value that Chroma knows, but not on a single node.

    Raises:
        MalformedRequestError: it is not even one.
    """
    try:
        sparse = msgspec.convert(value, _SparseVector, strict=True)
    except msgspec.ValidationError:
        variant = "UpdateMetadataValue" if nulls_allowed else "MetadataValue"
        raise MalformedRequestError(_bad_value(f"metadatas[{position}].{key}", value, variant)) from None
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
