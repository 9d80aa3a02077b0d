"""The bytes of a piece, made to be mapped: a small header is read at once, a column's bytes when it is first asked.

    offset 0   magic            8 bytes
           8   version          uint32, little-endian like all that follows
          12   header length    uint32, bytes
          16   header CRC-32    uint32
          20   header           JSON: rows, and per column its field, kind, sections, and bytes of a value
          ...  sections         each at a multiple of 64 bytes after the end of the header, rounded up to one

A section is a bare array. The header tells its offset (from the first section), its length in bytes and its CRC-32. What
a column consists of is named by role: `values`, and where needed `rows`, `present`, `offsets`, `blob`; see `Column`.
`decode` checks the header, and whoever keeps the bytes all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_async.checksums import crc32
from chroma_async.core.columns.column import DTYPES, Column, Dictionary
from chroma_async.core.columns.piece import ColumnPiece
from chroma_async.core.operators import Kind
from chroma_async.errors import FormatError, StorageCorrupt

__all__ = ["VERSION", "decode", "encoded_parts"]

VERSION: Final = 2
"""In version 1 a whole number has 8 bytes and a code 4, and the header does not say so."""

_READ: Final = (1, VERSION)
_MAGIC: Final = b"\x93columns"
_PREFIX: Final = struct.Struct("<8sIII")
_ALIGNMENT: Final = 64
_SLOT: Final = np.dtype("<i8")
_ROLES: Final[Mapping[str, np.dtype[Any]]] = {
    "rows": np.dtype("<i4"),
    "present": np.dtype("?"),
    "offsets": np.dtype("<i8"),
    "blob": np.dtype("u1"),
}
_Array = npt.NDArray[Any]
_Bytes = npt.NDArray[np.uint8]


class _Section(msgspec.Struct, frozen=True, array_like=True):
    offset: Annotated[int, msgspec.Meta(ge=0)]
    length: Annotated[int, msgspec.Meta(ge=0)]
    crc: int


class _ColumnHeader(msgspec.Struct, frozen=True):
    field: str
    kind: Kind
    is_list: bool
    sections: dict[str, _Section]
    width: int | None = None


class _Header(msgspec.Struct, frozen=True):
    slots: _Section
    dead: _Section
    columns: list[_ColumnHeader]


_HEADER_DECODER: Final = msgspec.json.Decoder(_Header)


class _Writer:
    """Lines sections up behind one another."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._length = 0

    def add(self, array: _Array, dtype: np.dtype[Any]) -> _Section:
        data = np.ascontiguousarray(array, dtype).view(np.uint8).data if array.size else b""
        padding = -self._length % _ALIGNMENT
        section = _Section(self._length + padding, len(data), crc32(data))
        self._parts += [bytes(padding), data]
        self._length += padding + len(data)
        return section

    def finish(self, header: bytes) -> list[bytes | memoryview]:
        prefix = _PREFIX.pack(_MAGIC, VERSION, len(header), crc32(header))
        padding = bytes(-(len(prefix) + len(header)) % _ALIGNMENT)
        return [prefix, header, padding, *self._parts]


def encoded_parts(piece: ColumnPiece) -> list[bytes | memoryview]:
    """Return the piece as bytes, in parts to be written one after another; equal pieces give equal bytes.

    Most parts are the piece's own arrays: these may be large.
    """
    writer = _Writer()
    header = _Header(
        slots=writer.add(piece.slots, _SLOT),
        dead=writer.add(piece.dead, _SLOT),
        columns=[_write_column(writer, column) for columns in piece.columns.values() for column in columns],
    )
    return writer.finish(msgspec.json.encode(header))


def _write_column(writer: _Writer, column: Column) -> _ColumnHeader:
    values = column.values
    sections = {"values": writer.add(values, values.dtype)}
    dictionary = column.dictionary
    arrays = {
        "rows": column.rows,
        "present": column.present,
        "offsets": None if dictionary is None else dictionary.offsets,
        "blob": None if dictionary is None else dictionary.blob,
    }
    sections |= {role: writer.add(array, _ROLES[role]) for role, array in arrays.items() if array is not None}
    return _ColumnHeader(column.field, column.kind, column.is_list, sections, values.itemsize)


def decode(buffer: memoryview | bytes) -> ColumnPiece:
    """Return a piece whose arrays are views of `buffer`, which they keep alive. Only the header is read, and checked.

    Raises:
        FormatError: not a piece, or of a version that is not known.
        StorageCorrupt: too short, or the header is damaged.
    """
    header, sections = _open(buffer)
    size = header.slots.length // _SLOT.itemsize
    fields: dict[str, tuple[Column, ...]] = {}
    for column in header.columns:
        fields[column.field] = (*fields.get(column.field, ()), _read_column(sections, column, size))
    return ColumnPiece(_view(sections, header.slots, _SLOT), _view(sections, header.dead, _SLOT), fields)


def _open(buffer: memoryview | bytes) -> tuple[_Header, _Bytes]:
    """Return the checked header and the part of the buffer where the sections are, as a view."""
    view = memoryview(buffer).cast("B")
    if len(view) < _PREFIX.size:
        raise StorageCorrupt(f"metadata columns are cut off. bytes={len(view)}")
    magic, version, length, crc = cast("tuple[bytes, int, int, int]", _PREFIX.unpack_from(view))
    if magic != _MAGIC:
        raise FormatError("this is not a file of metadata columns")
    if version not in _READ:
        raise FormatError(
            f"metadata columns have a format that this version can't read. found={version} known=1 to {VERSION}"
        )
    end = _PREFIX.size + length
    if crc32(view[_PREFIX.size : end]) != crc:
        raise StorageCorrupt("the header of the metadata columns does not match its checksum")
    try:
        header = _HEADER_DECODER.decode(view[_PREFIX.size : end])
    except msgspec.MsgspecError as error:
        raise StorageCorrupt("the header of the metadata columns can't be read") from error
    sections = np.frombuffer(view, np.uint8)[end + -end % _ALIGNMENT :]
    expected = max(section.offset + section.length for section in _sections(header))
    if len(sections) != expected:
        raise StorageCorrupt(f"metadata columns have the wrong length. found={len(sections)} expected={expected}")
    return header, sections


def _sections(header: _Header) -> Iterator[_Section]:
    yield from (header.slots, header.dead)
    for column in header.columns:
        yield from column.sections.values()


def _read_column(buffer: _Bytes, header: _ColumnHeader, size: int) -> Column:
    dtypes = {"values": _dtype_of(header), **_ROLES}
    if not header.sections.keys() <= dtypes.keys():
        raise StorageCorrupt(f"a metadata column has unknown sections. field={header.field!r}")
    arrays = {role: _view(buffer, section, dtypes[role]) for role, section in header.sections.items()}
    column = Column(
        header.field,
        header.kind,
        header.is_list,
        arrays.get("values", _EMPTY),
        arrays.get("rows"),
        arrays.get("present"),
        Dictionary(arrays["blob"], arrays["offsets"]) if {"blob", "offsets"} <= arrays.keys() else None,
    )
    _check_shapes(column, size)
    return column


def _dtype_of(header: _ColumnHeader) -> np.dtype[Any]:
    """The dtype of the values: the widest of the kind, unless the header says how wide."""
    dtypes = DTYPES[header.kind]
    if header.width is None:
        return dtypes[-1]
    found = next((dtype for dtype in dtypes if dtype.itemsize == header.width), None)
    if found is None:
        raise StorageCorrupt(f"a metadata column has values of an unknown size. field={header.field!r} bytes={header.width}")
    return found


_EMPTY: Final[npt.NDArray[np.int64]] = np.zeros(0, np.int64)


def _check_shapes(column: Column, size: int) -> None:
    expected = size if column.rows is None else len(column.rows)
    fits = len(column.values) == expected
    fits = fits and (column.present is None or len(column.present) == expected)
    if not fits or (column.dictionary is None) == (column.kind == "str"):
        raise StorageCorrupt(f"a metadata column has sections that do not fit together. field={column.field!r}")


def _view(buffer: _Bytes, section: _Section, dtype: np.dtype[Any]) -> _Array:
    if section.length % dtype.itemsize or section.offset % _ALIGNMENT:
        raise StorageCorrupt(f"a section of the metadata columns has a wrong size. bytes={section.length}")
    return buffer[section.offset : section.offset + section.length].view(dtype)
