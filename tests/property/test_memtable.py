"""Folding entries is applying them: at once, one by one or in any cuts, the same records come out: rebuild equals state."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.engines import UnsyncedFiles
from tests.support.oracle import OracleCollection, Write

from chroma_async.core.columns import ColumnPiece, merge
from chroma_async.core.events import RecordsDeleted, RecordsEvent, RecordsHead, RecordsWritten, decode, decode_head, encode
from chroma_async.core.memtable import Memtable, Tail
from chroma_async.core.where import FieldTest, parse_where
from chroma_async.engine.collection import CollectionReader
from chroma_async.model import NO_SLOT, CollectionId, Lsn, Vectors
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.store import CollectionStore

COLLECTION = CollectionId("c")
NDIM = 2

names = st.integers(0, 9).map(lambda number: f"r{number}")
numbers = st.integers(-3, 3).map(float)
vectors = st.tuples(numbers, numbers).map(lambda pair: np.array(pair, dtype=np.float32))
patches = st.dictionaries(
    st.sampled_from("fg"), st.none() | st.integers(0, 2) | st.sampled_from(["x", True, [1, 2]]), max_size=2
)
texts = st.sampled_from(["", "apple pie", "pie", "漢字"])


@st.composite
def writes(draw: st.DrawFn) -> Write:
    operation = draw(st.sampled_from(["add", "upsert", "update"]))
    ids = draw(st.lists(names, min_size=1, max_size=6))
    vector = vectors if operation != "update" else st.none() | vectors
    patch = patches if operation != "add" else patches.map(lambda patch: {k: v for k, v in patch.items() if v is not None})

    def column(items: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(items, min_size=len(ids), max_size=len(ids)))

    return Write(
        operation, ids, column(vector), column(st.none() | texts), column(st.none() | patch), column(st.none() | texts)
    )


deletions = st.lists(names, min_size=1, max_size=5, unique=True).map(lambda ids: RecordsDeleted(COLLECTION, ids))
histories = st.lists(st.one_of(writes(), writes(), deletions), max_size=14)


def as_event(change: Write | RecordsDeleted) -> RecordsEvent:
    if isinstance(change, RecordsDeleted):
        return change
    given_rows = [row for row, vector in enumerate(change.vectors) if vector is not None]
    matrix = np.array([change.vectors[row] for row in given_rows], dtype=np.float32).reshape(
        len(given_rows), NDIM if given_rows else 0
    )
    head = RecordsHead(COLLECTION, change.operation, len(change.ids), NDIM if given_rows else None, {})  # type: ignore[arg-type]
    return RecordsWritten(
        head=head,
        ids=list(change.ids),
        vectors=matrix,
        rows=None if len(given_rows) == len(change.ids) else np.array(given_rows, dtype=np.int64),
        documents=_column(change.documents),
        metadatas=_column(change.metadatas),
        uris=_column(change.uris),
    )


def _column(values: Sequence[Any]) -> list[Any] | None:
    """A column that says nothing is left out, as writers do."""
    return list(values) if any(value is not None for value in values) else None


def expected(history: Sequence[Write | RecordsDeleted]) -> OracleCollection:
    oracle = OracleCollection("l2")
    for change in history:
        if isinstance(change, RecordsDeleted):
            oracle.delete(change.ids, None, None, None)
        else:
            oracle.write(change)
    return oracle


def apply(directory: Path, payloads: Sequence[bytes], cuts: Sequence[int], *, merging: bool = False) -> None:
    """Apply the entries with a commit at each cut (a number of entries), as the compactor does."""
    store = CollectionStore(directory, UnsyncedFiles())
    start = 0
    for end in cuts:
        memtable = Memtable(applied=store.applied, next_slot=store.manifest.next_slot)
        for lsn in range(start + 1, end + 1):
            fold_entry(memtable, Lsn(lsn), payloads[lsn - 1], store.tables)
        for _ in range(2):  # the second time does nothing
            store.apply(memtable.tail(columns=True), space="l2", segment_rows_max=4)
        if merging:
            store.merge_pieces()
            while store.rewrite_segments(segment_rows_max=4):
                pass
        start = end
    store.close()


def contents(directory: Path, payloads: Sequence[bytes]) -> tuple[Any, ...]:
    """All that can be read, with the entries that are not applied yet in the tail."""
    reader = CollectionReader(directory)
    for lsn, payload in enumerate(payloads, 1):
        reader.offer(Lsn(lsn), payload)
    with reader.view(columns=True) as view:
        slots = view.slots(None, None, "include")
        records = [(row.id, row.document, row.metadata, row.uri) for row in view.rows(slots)]
        filtered = [
            [row.id for row in view.rows(view.slots(None, parse_where({field: {operator: 1}}), "include"))]
            for field in "fg"
            for operator in ("$eq", "$ne", "$gt", "$contains")
        ]
        found = (records, view.vectors(slots).tolist(), filtered, view.image.live)
    reader.close()
    return found


@given(history=histories, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_cuts_give_the_same_records(history: list[Write | RecordsDeleted], data: st.DataObject) -> None:
    payloads = [encode(as_event(change)) for change in history]
    count = len(history)
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=5))) if count else []
    oracle = expected(history)
    plans = {"tail": [], "once": [count] if count else [], "each": list(range(1, count + 1)), "some": cuts}
    for name, plan in plans.items():
        with tempfile.TemporaryDirectory() as root:
            directory = Path(root) / "c"
            if name != "tail":
                apply(directory, payloads, plan, merging=name != "once")
            records, matrix, filtered, live = contents(directory, payloads)
        assert live == len(oracle.records)
        assert records == [
            (record_id, record.document, record.metadata, record.uri) for record_id, record in oracle.records.items()
        ]
        assert matrix == [record.vector.tolist() for record in oracle.records.values()]
        assert filtered == [
            oracle.matching(None, {field: {operator: 1}}, None)
            for field in "fg"
            for operator in ("$eq", "$ne", "$gt", "$contains")
        ]


@given(history=histories)
@settings(max_examples=100, deadline=None)
def test_event_survives_its_encoding(history: list[Write | RecordsDeleted]) -> None:
    for change in history:
        event = as_event(change)
        again = decode(encode(event))
        if isinstance(event, RecordsDeleted):
            assert again == decode_head(encode(event)) == event
            continue
        assert isinstance(again, RecordsWritten)
        assert decode_head(encode(event)) == again.head == event.head
        assert (again.ids, again.documents, again.uris) == (event.ids, event.documents, event.uris)
        assert orjson.dumps(again.metadatas) == orjson.dumps(event.metadatas)
        np.testing.assert_array_equal(again.vectors.reshape(event.vectors.shape), event.vectors)
        assert (again.rows is None) == (event.rows is None)


@given(history=histories, data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_of_a_memtable_say_the_same_whenever_they_are_asked_for(
    history: list[Write | RecordsDeleted], data: st.DataObject
) -> None:
    asked = data.draw(st.lists(st.booleans(), min_size=len(history), max_size=len(history)))
    often, once = (Memtable(applied=Lsn(0), next_slot=0) for _ in range(2))
    for lsn, (change, ask) in enumerate(zip(history, asked, strict=True), 1):
        payload = encode(as_event(change))
        for memtable in (often, once):
            fold_entry(memtable, Lsn(lsn), payload, None)
        if ask:
            kept = often.tail(columns=True)
            before = (len(kept.rows), kept.live_delta, [len(piece) for piece in kept.pieces])
            assert before == (len(kept.rows), kept.live_delta, [len(piece) for piece in kept.pieces])
    tails = [memtable.tail(columns=True) for memtable in (often, once)]
    assert list(tails[0].rows) == list(tails[1].rows)
    live = {row.slot for row in tails[0].rows if row is not None}
    united = [merge(tail.pieces, forget_dead=True) if tail.pieces else None for tail in tails]
    answers = [_matching(piece, live) for piece in united]
    assert answers[0] == answers[1]


def told(memtable: Memtable) -> dict[str, Any]:
    """All that a tail says; vectors by the slots that have them, and what is known of ids that it says something of."""
    tail = memtable.tail(columns=True)
    piece = merge(tail.pieces, forget_dead=False) if tail.pieces else None
    rows, vectors = [*tail.rows, *tail.overrides.values()], tail.vectors[:]
    return {
        "through": (tail.through, tail.first_slot, tail.live_delta, tail.operations),
        "rows": [None if row is None else (row.slot, row.id, row.document, row.metadata, row.uri) for row in tail.rows],
        "overrides": {slot: (row.slot, row.id, row.document, row.metadata, row.uri) for slot, row in tail.overrides.items()},
        "in the base": {row.slot for row in rows if row is not None and row.vector == NO_SLOT},
        "dead": sorted(tail.dead.tolist()),
        "vectors": {slot: vectors[row].tolist() for row, slot in enumerate(tail.owners.tolist()) if slot != NO_SLOT},
        "revectored": sorted(tail.revectored.tolist()),
        "known": {record_id: None if row is None else row.slot for record_id, row in tail.known.items()},
        "pieces": None if piece is None else (piece.slots.tolist(), piece.dead.tolist()),
        "matching": None if piece is None else piece.slots[piece.test(FieldTest("f", "$eq", 1), "include")].tolist(),
    }


@given(history=histories.filter(len), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_memtable_over_a_newer_base_is_what_folding_over_that_base_gives(
    history: list[Write | RecordsDeleted], data: st.DataObject
) -> None:
    payloads = [encode(as_event(change)) for change in history]
    bases = sorted(data.draw(st.sets(st.integers(0, len(history)), min_size=1, max_size=4)))
    asked = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as root, closing(CollectionStore(Path(root) / "c", UnsyncedFiles())) as store:
        going = Memtable(applied=Lsn(0), next_slot=0)
        tails: list[tuple[Tail, Vectors]] = []
        for base in bases:
            ahead = data.draw(st.integers(base, len(history)))
            for lsn in range(going.through + 1, ahead + 1):
                fold_entry(going, Lsn(lsn), payloads[lsn - 1], store.tables)
            if asked:
                going.tail(columns=True)
            step = Memtable(applied=store.applied, next_slot=store.manifest.next_slot)
            for lsn in range(store.applied + 1, base + 1):
                fold_entry(step, Lsn(lsn), payloads[lsn - 1], store.tables)
            store.apply(step.tail(columns=True), space="l2", segment_rows_max=4)
            before = told(going)
            kept = going.tail()
            vectors_before = kept.vectors[:].copy()
            over = going.rebased(applied=Lsn(base), next_slot=step.next_slot)
            assert told(going) == before
            tails.append((kept, vectors_before))
            going, fresh = over, Memtable(applied=Lsn(base), next_slot=step.next_slot)
            for lsn in range(base + 1, going.through + 1):
                fold_entry(fresh, Lsn(lsn), payloads[lsn - 1], store.tables)
            assert told(going) == told(fresh)
        for kept, vectors_before in tails:  # though the memtables that followed wrote into the same room
            np.testing.assert_array_equal(kept.vectors[:], vectors_before)


def _matching(piece: ColumnPiece | None, live: set[int]) -> set[int]:
    if piece is None:
        return set()
    assert set(piece.slots.tolist()) == live
    return set(piece.slots[piece.test(FieldTest("f", "$eq", 1), "include")].tolist())
