"""The manifest: where reachability starts. One row, replaced in the transaction that applies entries."""

from __future__ import annotations

from typing import Final

import msgspec

from chroma_async.errors import FormatError, StorageCorrupt
from chroma_async.model import HnswConfiguration, Lsn, Precision, Space

FORMAT: Final = 2
"""2: a graph file may end with what makes the codes that the graph keeps."""


class PieceRef(msgspec.Struct, frozen=True):
    """A file of metadata columns."""

    file: str
    rows: int
    crc: int


class GraphRef(msgspec.Struct, frozen=True):
    """A graph over the first `rows` vectors of its segment, and how it was built.

    Release 0.1.0 did not write down how; it is taken to be as the defaults are.
    """

    file: str
    rows: int
    crc: int
    max_neighbors: int = 16
    ef_construction: int = 100
    precision: Precision | None = None

    def is_built_as(self, configuration: HnswConfiguration) -> bool:
        wanted = (configuration.max_neighbors, configuration.ef_construction, configuration.precision)
        return (self.max_neighbors, self.ef_construction, self.precision) == wanted


class SegmentRef(msgspec.Struct, frozen=True):
    """A directory with vectors and their slots; `rows` of them are published. A sealed one takes no more.

    `slots_crc` is the CRC-32 of the published slots. `block_rows` is how many vectors share a checksum (`blocks.py`). Both
    are absent in what release 0.1.0 wrote, until the compactor adds them.
    """

    number: int
    rows: int
    sealed: bool = False
    graph: GraphRef | None = None
    block_rows: int = 0
    slots_crc: int | None = None


class PurgeRef(msgspec.Struct, frozen=True):
    """The newest purge that was done: the number of the last one that it answers, the LSN through which nothing of a record
    that is gone is left, how many records there were, how many vectors of no record it dropped; and when it ended, in
    nanoseconds since 1970.
    """

    number: int
    applied: Lsn
    records: int
    dropped_vectors: int
    ended_at_ns: int


class Manifest(msgspec.Struct, frozen=True):
    """The state of a collection's projections as of `applied` (through).

    `version` grows by one with each publication; `next_slot` is what the next new record gets; `live` counts records;
    `operations` counts written and deleted records that were applied, ever.
    """

    format: int = FORMAT
    version: int = 0
    applied: Lsn = Lsn(0)
    next_slot: int = 0
    next_file: int = 1
    live: int = 0
    operations: int = 0
    dimension: int | None = None
    space: Space = "l2"
    pieces: tuple[PieceRef, ...] = ()
    segments: tuple[SegmentRef, ...] = ()
    purge: PurgeRef | None = None

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    def segment(self, number: int) -> SegmentRef | None:
        """The segment of this number; None: there is none any more."""
        return next((item for item in self.segments if item.number == number), None)

    def replacing(self, number: int, *segments: SegmentRef) -> Manifest:
        """The same with these segments, or none, in the place of the one of this number."""
        changed = (new for item in self.segments for new in (segments if item.number == number else (item,)))
        return msgspec.structs.replace(self, segments=tuple(changed))

    def is_built_as(self, configuration: HnswConfiguration) -> bool:
        """Whether the graphs were built for this configuration, and distances are taken in its space."""
        graphs = [segment.graph for segment in self.segments if segment.graph is not None]
        same_space = not self.rows or self.space == configuration.space
        return same_space and all(graph.is_built_as(configuration) for graph in graphs)

    def files(self) -> frozenset[str]:
        """Names of the files and directories that this manifest reaches, relative to the collection's directory."""
        graphs = [f"segments/{item.number}/{item.graph.file}" for item in self.segments if item.graph is not None]
        directories = [f"segments/{item.number}" for item in self.segments]
        return frozenset([*(f"columns/{piece.file}" for piece in self.pieces), *directories, *graphs])


_DECODER: Final = msgspec.json.Decoder(Manifest)
"""Made when the module is loaded: msgspec looks into a type when it is first decoded, and two threads that do so at once
crash the process."""


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(manifest, format=max(FORMAT, manifest.format)))


def decode_manifest(raw: bytes) -> Manifest:
    """Return the manifest.

    Raises:
        FormatError: a newer release wrote it.
        StorageCorrupt: it is damaged.
    """
    try:
        manifest = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageCorrupt(f"manifest is damaged. reason={error}") from error
    if manifest.format > FORMAT:
        raise FormatError(
            f"collection was written by a newer release; upgrade chroma_async to open it. "
            f"format={manifest.format} known={FORMAT}"
        )
    return manifest
