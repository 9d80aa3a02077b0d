"""From the lines of a part of an ingest stream to the entries that have their effect.

Lines become few entries, each of one operation. A line joins the newest group of its operation, past groups of other
operations, as long as none of those names its id: writes of different ids can change places. The entries leave the records
as the lines would, one by one. Only the insertion order of new ones may differ, where adds and upserts are mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from chroma_async.core.events import RecordsDeleted, RecordsHead, RecordsWritten
from chroma_async.engine.writer import Append
from chroma_async.errors import ChromaError, InvalidDimensionException
from chroma_async.model import CollectionId, MetadataPatch, Operation
from chroma_async.protocol.ingest import LineError, OnError
from chroma_async.protocol.lines import Decoded, Lines, check_dimension
from chroma_async.protocol.metadata import CheckedMetadatas, check_metadatas

T = TypeVar("T")
Group = tuple[Operation, Sequence[int]]
"""An operation, and the lines that it is for: ascending positions."""


def group_lines(operations: Sequence[Operation], ids: Sequence[str]) -> list[Group]:
    """Return groups which, carried out one after the other, have the effect of the lines; in none an id comes twice."""
    if not ids:
        return []
    if len(set(operations)) == 1 and len(set(ids)) == len(ids):
        return [(operations[0], range(len(ids)))]
    groups: list[tuple[Operation, list[int]]] = []
    newest: dict[Operation, int] = {}
    last_of: dict[str, int] = {}
    for item, (operation, record_id) in enumerate(zip(operations, ids, strict=True)):
        group = newest.get(operation, -1)
        if last_of.get(record_id, -1) >= group:
            group = newest[operation] = len(groups)
            groups.append((operation, []))
        groups[group][1].append(item)
        last_of[record_id] = group
    return cast("list[Group]", groups)


class Cut(Struct, frozen=True, eq=False):
    """What is to be done of a part: entries for the lines from `position` to before `beyond`, and what to tell."""

    position: int
    beyond: int
    dimension: int | None
    appends: Sequence[Append]
    errors: list[LineError]


class Part:
    """A part of a stream, decoded, whose entries are made for where the log has the stream."""

    def __init__(self, collection_id: CollectionId, decoded: Decoded, on_error: OnError) -> None:
        self._collection_id = collection_id
        self._on_error = on_error
        self._decoded = decoded
        self.first = decoded.first
        self.beyond = decoded.beyond
        self._cut = self._make_cut(decoded.first, None)
        self.size_bytes = sum(len(append.payload) for append in self._cut.appends if isinstance(append.head, RecordsHead))

    @property
    def dimension(self) -> int | None:
        """Of its vectors; None where it has none."""
        return self._decoded.lines.dimension

    def cut(self, position: int, dimension: int | None) -> Cut:
        """Return what is to be done when the log has the lines before `position`, and the collection has this dimension."""
        own = self._decoded.lines.dimension
        changed = dimension is not None and own not in (None, dimension)
        if position == self._cut.position and not changed:
            return self._cut
        return self._make_cut(position, dimension if changed else None)

    def _make_cut(self, position: int, dimension: int | None) -> Cut:
        """Metadata is checked where all of a group is; only where that fails, line by line."""
        try:
            return self._cut_of_good(position, dimension)
        except ChromaError:
            self._decoded = _without_bad_metadata(self._decoded)
            return self._cut_of_good(position, dimension)

    def _cut_of_good(self, position: int, dimension: int | None) -> Cut:
        decoded = self._decoded if dimension is None else _without_vectors(self._decoded, dimension)
        beyond, errors = decoded.beyond, list(decoded.errors)
        if self._on_error == "stop":
            stop = next((place for place, error in enumerate(errors) if error.line >= position), None)
            if stop is not None:
                beyond, errors = errors[stop].line, errors[: stop + 1]
        lines = decoded.lines
        chosen: Sequence[int] = range(len(lines))
        if position > decoded.first or beyond < decoded.beyond:
            chosen = [item for item, number in enumerate(lines.numbers) if position <= number < beyond]
        return Cut(position, beyond, dimension, _appends(self._collection_id, lines.take(chosen)), errors)


def _appends(collection_id: CollectionId, lines: Lines) -> list[Append]:
    return [
        _append(collection_id, operation, lines.take(chosen))
        for operation, chosen in group_lines(lines.operations, lines.ids)
    ]


def _append(collection_id: CollectionId, operation: Operation, lines: Lines) -> Append:
    """Encode one group."""
    if operation == "delete":
        return Append.of_records(RecordsDeleted(collection_id, list(lines.ids)))
    metadatas = _checked_metadatas(operation, lines.metadatas)
    event = RecordsWritten(
        head=RecordsHead(collection_id, operation, len(lines), lines.dimension, metadatas.types),
        ids=list(lines.ids),
        vectors=lines.vectors,
        rows=None if len(lines.rows) in (0, len(lines)) else lines.rows,
        documents=_column(lines.documents),
        metadatas=cast("list[MetadataPatch | None] | None", _column(metadatas.stored)),
        uris=_column(lines.uris),
    )
    return Append.of_records(event)


def _column(values: Sequence[T | None]) -> list[T | None] | None:
    """A column that says nothing is left out."""
    return list(values) if any(value is not None for value in values) else None


def _checked_metadatas(operation: Operation, metadatas: Sequence[Mapping[str, object] | None]) -> CheckedMetadatas:
    return check_metadatas(metadatas, nulls_allowed=operation != "add")


# ---- what turns out to be bad


def _without_bad_metadata(decoded: Decoded) -> Decoded:
    lines = decoded.lines
    problems: dict[int, str] = {}
    for operation in set(lines.operations) - {"delete"}:
        chosen = [item for item, other in enumerate(lines.operations) if other == operation]
        try:
            _checked_metadatas(operation, [lines.metadatas[item] for item in chosen])
        except ChromaError:
            problems.update(_metadata_problems(operation, lines, chosen))
    return _without(decoded, problems)


def _metadata_problems(operation: Operation, lines: Lines, chosen: Sequence[int]) -> dict[int, str]:
    problems: dict[int, str] = {}
    for item in chosen:
        try:
            _checked_metadatas(operation, [lines.metadatas[item]])
        except ChromaError as error:
            problems[item] = error.message
    return problems


def _without_vectors(decoded: Decoded, dimension: int) -> Decoded:
    """Refuse all lines with vectors: their collection got another dimension meanwhile."""
    try:
        check_dimension(dimension, decoded.lines.dimension)
    except InvalidDimensionException as error:
        return _without(decoded, dict.fromkeys(decoded.lines.rows.tolist(), error.message))
    return decoded


def _without(decoded: Decoded, problems: Mapping[int, str]) -> Decoded:
    if not problems:
        return decoded
    lines = decoded.lines
    worse = [LineError(line=lines.numbers[item], message=message) for item, message in problems.items()]
    errors = sorted((*decoded.errors, *worse), key=lambda error: error.line)
    good = [item for item in range(len(lines)) if item not in problems]
    return replace(decoded, lines=lines.take(good), errors=errors)
