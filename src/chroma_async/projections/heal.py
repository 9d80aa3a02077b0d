"""Making again what is missing or damaged of a collection and follows from what is there: by whoever compacts it.

Records and vectors follow from nothing: where they are damaged, `StorageCorrupt` says so and nothing is published.
"""

from __future__ import annotations

import logging

import msgspec
import numpy as np

from chroma_async.errors import StorageCorrupt
from chroma_async.projections.blocks import extended, rows_of_a_block
from chroma_async.projections.graphs import is_whole
from chroma_async.projections.manifest import SegmentRef
from chroma_async.projections.segment_files import BlockSums, crc_of
from chroma_async.projections.store import CHECK_AT_OPEN_BYTES, RECORDS_FILE, CollectionStore
from chroma_async.projections.view import load_piece, map_slots, map_vectors

logger = logging.getLogger("chroma_async.compactor")


def heal(store: CollectionStore) -> None:
    """Make again what is missing or damaged and follows from other files, and remove what nothing reaches.

    Graphs are dropped, and built later; columns are made from the records. What release 0.1.0 wrote gets checksums.

    Raises:
        StorageCorrupt: the only copy of something is damaged.
        sqlite3.DatabaseError: the tables are.
    """
    if store.tables.size_bytes() <= CHECK_AT_OPEN_BYTES:
        heal_tables(store)
    _drop_damaged_graphs(store)
    _heal_columns(store)
    _add_checksums(store)
    store.sweep()


def heal_tables(store: CollectionStore) -> None:
    """Check the tables; make the indexes in them again when they disagree with the records.

    Raises:
        StorageCorrupt: records are damaged.
    """
    problem = store.tables.problem()
    if problem is not None:
        logger.warning("tables.damaged collection=%s reason=%s", store.directory.name, problem)
        _rebuild_table_indexes(store)
        logger.warning("tables.healed collection=%s", store.directory.name)


def rebuild_files(store: CollectionStore) -> None:
    """Make everything anew that follows from records and vectors; graphs are dropped, and built by `build_graphs`.

    Raises:
        StorageCorrupt: records or vectors are damaged. Nothing was published.
    """
    _rebuild_table_indexes(store)
    for view in store.base().segments:
        view.check(np.arange(view.rows))
    store.rebuild_columns()
    bare = tuple(msgspec.structs.replace(segment, graph=None) for segment in store.manifest.segments)
    store.publish(msgspec.structs.replace(store.manifest, segments=bare))
    _add_checksums(store)
    store.sweep()


def _rebuild_table_indexes(store: CollectionStore) -> None:
    store.tables.rebuild_indexes()
    problem = store.tables.problem()
    if problem is not None:
        raise StorageCorrupt(f"records are damaged. path={store.directory / RECORDS_FILE} reason={problem}")


def _drop_damaged_graphs(store: CollectionStore) -> None:
    for segment in store.manifest.segments:
        if segment.graph is not None and not is_whole(store.directory, segment, segment.graph):
            logger.warning("graph.dropped collection=%s segment=%d", store.directory.name, segment.number)
            store.publish(store.manifest.replacing(segment.number, msgspec.structs.replace(segment, graph=None)))


def _heal_columns(store: CollectionStore) -> None:
    for ref in store.manifest.pieces:
        try:
            load_piece(store.directory, ref)
        except (StorageCorrupt, PermissionError) as error:
            store.rebuild_columns(error)
            return


def _add_checksums(store: CollectionStore) -> None:
    """Give checksums to what release 0.1.0 wrote. What is there is believed."""
    store.tables.add_row_checksums()
    sums: BlockSums = {}
    segments: list[SegmentRef] = []
    for segment in store.manifest.segments:
        if not segment.block_rows:
            vectors = map_vectors(store.directory, segment, store.manifest.dimension or 0).vectors
            slots = map_slots(store.directory, segment)
            block_rows = rows_of_a_block(vectors.shape[1])
            found = extended({}, 0, vectors, block_rows)
            sums |= {(segment.number, block): crc for block, crc in found.items()}
            segment = msgspec.structs.replace(segment, block_rows=block_rows, slots_crc=crc_of(slots))
        segments.append(segment)
    if sums:
        store.publish(msgspec.structs.replace(store.manifest, segments=tuple(segments)), sums=sums)
