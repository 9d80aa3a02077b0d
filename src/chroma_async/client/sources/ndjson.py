"""NDJSON: lines as records of the protocol, which need no mapping, or as objects, which do."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, Final, TypeVar, cast

import msgspec

from chroma_async.client.cells import BadLine, to_id, to_vector
from chroma_async.client.lines import BLANK, Lines, Vector, column_of, joined
from chroma_async.client.mapping import lines_of
from chroma_async.client.sources.options import SourceOptions
from chroma_async.client.sources.text import LINE_BYTES_MAX, TextFile, gathered
from chroma_async.model import Operation

T = TypeVar("T")


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """A line of NDJSON that needs no mapping."""

    id: str
    op: Operation | None = None
    embedding: list[float] | str | None = None
    document: str | None = None
    metadata: msgspec.Raw | None = None
    uri: str | None = None


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_RECORD: Final = msgspec.json.Decoder(_Record)
_ANY: Final = msgspec.json.Decoder()


def runs_of(text: TextFile, options: SourceOptions, skip: int) -> Iterator[Lines]:
    """NDJSON, one object on each line. An empty line counts, and says nothing."""
    for raws in gathered(islice(_lines(text), skip, None), lambda raw: len(raw or b"")):
        lines = _run(raws, options)
        lines.share = text.share()
        yield lines


def _lines(text: TextFile) -> Iterator[bytes | None]:
    """The lines, of which the first shows whether they are what they should be.

    Raises:
        ValueError: it is JSON, but not an object on each line, or an export.
    """
    lines = _raw_lines(text.content)
    for first in islice(lines, 1):
        raw = (first or b"").removeprefix(codecs.BOM_UTF8)
        if raw.startswith(b'{"chroma_async_export"'):
            raise ValueError(f"this is an exported collection: `chroma-async import` reads it. file={str(text.path)!r}")
        if raw.lstrip().startswith(b"["):
            raise ValueError(
                f"this is one JSON list, not an object on each line: jq -c '.[]' makes them. file={str(text.path)!r}"
            )
        yield None if first is None else raw
    yield from lines


def _raw_lines(file: Any) -> Iterator[bytes | None]:
    """The lines of a file; None for one that is too long."""
    while raw := file.readline(LINE_BYTES_MAX + 1):
        if len(raw) > LINE_BYTES_MAX and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(LINE_BYTES_MAX)
            yield None
        else:
            yield raw


_Plain = tuple[_Record, "Vector | None"]


def _run(raws: Sequence[bytes | None], options: SourceOptions) -> Lines:
    entries = [_entry(raw, plain=not options.mapping.is_given) for raw in raws]
    return joined([_group(list(group), options) for _, group in groupby(entries, _kind_of_entry)])


def _entry(raw: bytes | None, *, plain: bool) -> _Plain | dict[str, Any] | str:
    """A line as a record that needs no mapping, or as an object, or what is wrong with it."""
    if raw is None:
        return f"the line is longer than {LINE_BYTES_MAX} bytes"
    record = _plain_record(raw) if plain else None
    if record is not None:
        return record
    try:
        found = _ANY.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the line is no JSON: {error}" if raw.strip() else BLANK
    return cast("dict[str, Any]", found) if isinstance(found, dict) else "a line is a JSON object"


def _plain_record(raw: bytes) -> _Plain | None:
    try:
        record = _RECORD.decode(raw)
        vector = None if record.embedding is None else to_vector(record.embedding)
        to_id(record.id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadLine):
        return None
    if record.metadata is not None and not bytes(record.metadata).lstrip().startswith(b"{"):
        return None
    record.embedding = None
    return record, vector


def _kind_of_entry(entry: _Plain | dict[str, Any] | str) -> object:
    if isinstance(entry, dict):
        return tuple(entry)
    return type(entry)


def _group(entries: Sequence[Any], options: SourceOptions) -> Lines:
    """Lines of entries of one kind."""
    if isinstance(entries[0], str):
        return Lines([""] * len(entries), faults=dict(enumerate(entries)))
    if isinstance(entries[0], dict):
        objects = cast("Sequence[dict[str, Any]]", entries)
        columns = {name: [entry[name] for entry in objects] for name in objects[0]}
        shape = options.mapping.shape(columns, strict=False)
        return lines_of(columns, len(entries), shape, options.operation)
    records = [record for record, _ in entries]
    operations: list[Operation] = [record.op or options.operation for record in records]
    return Lines(
        ids=[record.id for record in records],
        operations=operations[0] if len(set(operations)) == 1 else operations,
        vectors=column_of([vector for _, vector in entries]),
        documents=_unless_empty([record.document for record in records]),
        metadatas=_unless_empty([_raw_metadata(record.metadata) for record in records]),
        uris=_unless_empty([record.uri for record in records]),
    )


def _raw_metadata(raw: msgspec.Raw | None) -> bytes | None:
    if raw is None:
        return None
    text = bytes(raw).strip()
    return None if text == b"{}" else text


def _unless_empty(cells: list[T | None]) -> list[T | None] | None:
    return None if all(cell is None for cell in cells) else cells
