"""Every way to search a segment keeps the same promises: min(n, allowed) rows, each once, nearest first, exact distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from msgspec.structs import replace
from tests.support.oracle import exact_distances

from chroma_async.core.events import RecordsHead, RecordsWritten
from chroma_async.core.memtable import Memtable
from chroma_async.core.planner import CompareAll, CompareCodes, Plan, ScanPacked, SearchGraph, candidates
from chroma_async.engine import search as search_module
from chroma_async.engine import segment_search
from chroma_async.engine.search import SearchTarget, search
from chroma_async.errors import StorageCorrupt
from chroma_async.index import packing
from chroma_async.index.axes import Axes
from chroma_async.index.coding import Coding
from chroma_async.index.hnsw import GraphBuilder, GraphFile, checksum
from chroma_async.index.packing import ScanBuilder
from chroma_async.model import CollectionId, HnswConfiguration, Lsn, Mask, Space, Vectors
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.stored_vectors import StoredVectors
from chroma_async.projections.view import Base, GrownSlots, SegmentView
from chroma_async.seams import ThreadWorkers

T = TypeVar("T")

SPACES: list[Space] = ["l2", "ip", "cosine"]
ROWS, GRAPH_ROWS, NDIM = 3_000, 2_200, 24
PLANS: dict[str, Plan] = {
    "compare": CompareAll(),
    "scan": ScanPacked(),
    "graph": SearchGraph(fetch=candidates(10), ef=256),
    "codes": CompareCodes(fetch=candidates(10)),
}
EXACT = ["compare", "scan"]


def random_rows(count: int, seed: int) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, NDIM)).astype(np.float32)


def write_graph(path: Path, space: Space, vectors: Vectors, coding: Coding | None = None) -> GraphFile:
    graph = GraphBuilder.empty(vectors.shape[1], HnswConfiguration(space=space), coding)
    graph.extend(vectors, threads=1)
    graph.save(path, vectors)
    return GraphFile(path, rows=len(vectors), crc=checksum(path))


def flat_coding(space: Space) -> Coding:
    """Of rows whose second half of dimensions hardly varies."""
    axes = Axes(np.full(NDIM, 0.01, dtype=np.float32), np.eye(NDIM, dtype=np.float32)[: NDIM // 2], across_max=0.1)
    return Coding(space, axes, step=1 / 127 if space == "cosine" else 4 / 127)


@pytest.fixture(params=[*SPACES, "l2, codes", "cosine, codes"], scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SearchTarget:
    """A segment with a graph over most of it, with dead and with hidden rows, and a tail of new records.

    Of codes: one row in a hundred is of another kind, and not in the graph.
    """
    space: Space = request.param.split(",")[0]
    vectors, slots, coding = random_rows(ROWS, 0), np.arange(ROWS), None
    if "codes" in request.param:
        vectors[slots % 100 > 0, NDIM // 2 :] *= np.float32(0.05)
        coding = flat_coding(space)
    owners = np.where(slots % 5 == 0, -1, slots)
    builder = ScanBuilder(space)
    graph = write_graph(tmp_path_factory.mktemp("graphs") / "graph", space, vectors[:GRAPH_ROWS], coding)
    segment = SegmentView(1, StoredVectors(vectors), slots, GrownSlots.of(owners), builder, graph)
    base = Base(
        manifest=Manifest(dimension=NDIM, space=space, next_slot=ROWS),
        pieces=(),
        alive=owners >= 0,
        placed=GrownSlots.of(np.stack([np.zeros_like(slots), slots], axis=1)),
        segments=(segment,),
    )
    memtable = Memtable(applied=Lsn(0), next_slot=ROWS)
    ids = [f"new{number}" for number in range(300)]
    memtable.learn(ids, {})
    head = RecordsHead(CollectionId("c"), "add", len(ids), NDIM, {})
    memtable.fold(Lsn(1), RecordsWritten(head, ids, random_rows(300, 1), None, None, None, None))
    hidden = np.zeros(ROWS, dtype=np.bool_)
    hidden[1::7] = True
    return SearchTarget(space, base, memtable.tail(), [builder.extend(vectors)], hidden, 100)


def current(target: SearchTarget) -> tuple[np.ndarray, Vectors]:
    """Slots and vectors of all live records."""
    assert target.hidden is not None
    segment = target.base.segments[0]
    rows = np.flatnonzero((segment.owners >= 0) & ~target.hidden)
    tail = target.tail
    return (
        np.concatenate([segment.owners[rows], tail.owners[tail.owners >= 0]]),
        np.concatenate([segment.vectors[rows], tail.vectors[:][tail.owners >= 0]]),
    )


def plan_of(name: str, target: SearchTarget) -> Plan:
    """A plan that the planner could make for this target: rows are ranked by codes where there are such."""
    graph = target.base.segments[0].graph
    return PLANS["compare" if name == "codes" and not (graph and graph.has_codes) else name]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("share", [None, 0.9, 0.3, 0.01, 0.0])
@pytest.mark.parametrize("count", [1, 10, 200, 10_000])
def test_plan_returns_as_many_as_there_are(
    target: SearchTarget, name: str, share: float | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_search, "plan_search", lambda *_, **__: plan_of(name, target))
    slots, vectors = current(target)
    size = target.tail.next_slot
    mask: Mask | None = None if share is None else np.random.default_rng(7).random(size) < share
    allowed = np.ones(len(slots), dtype=np.bool_) if mask is None else mask[slots]
    queries = random_rows(5, 2)
    found = search(target, queries, [mask] * 5, [count] * 5)
    recall: list[float] = []
    for query, answer in zip(queries, found, strict=True):
        exact = dict(zip(slots[allowed].tolist(), exact_distances(target.space, query, vectors[allowed]), strict=True))
        chosen = answer.slots.tolist()
        assert len(chosen) == len(set(chosen)) == min(count, len(exact))
        np.testing.assert_allclose(answer.distances, [exact[slot] for slot in chosen], rtol=1e-4, atol=1e-4)
        assert (np.diff(answer.distances) >= 0).all()
        best = sorted(exact.values())[: len(chosen)]
        if name in EXACT:
            np.testing.assert_allclose(answer.distances, best, rtol=1e-4, atol=1e-4)
        recall.append(float(np.mean(answer.distances <= best[-1] + 1e-4)) if best else 1.0)
    assert np.mean(recall) >= 0.9


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("rows_min", [1, 301])
def test_a_search_that_is_shared_finds_the_same(
    target: SearchTarget, share: float | None, name: str, rows_min: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared is what takes long: here scanning 3,000 rows or searching their graph, and a tail of 300 rows."""
    monkeypatch.setattr(segment_search, "plan_search", lambda *_, **__: plan_of(name, target))
    for module in (search_module, segment_search):
        monkeypatch.setattr(module, "SHARED_ROWS_MIN", rows_min)
    masks = [None if share is None else np.random.default_rng(9).random(target.tail.next_slot) < share] * 7
    queries, counts = random_rows(7, 5), [10] * 7
    alone = search(target, queries, masks, counts)
    threads, shared = ThreadWorkers(3, "test"), list[int]()

    def share_pieces(pieces: Sequence[Callable[[], T]]) -> list[T]:
        shared.append(len(pieces))
        return threads.share(pieces)

    with closing(threads):
        for _ in range(20):
            found = search(replace(target), queries, masks, counts, share_pieces)
            assert [neighbours.slots.tolist() for neighbours in found] == [one.slots.tolist() for one in alone]
    assert shared == ([2] * 20 if rows_min == 1 and name in ("scan", "graph") else [])


@pytest.mark.parametrize("share", [None, 0.3])
def test_rows_beyond_a_graph_are_scanned_from_where_packing_began(
    target: SearchTarget, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large segment only the rows that its graph lacks are packed."""
    monkeypatch.setattr(segment_search, "plan_search", lambda *_, **__: PLANS["graph"])
    monkeypatch.setattr(segment_search, "CHUNK_ROWS", 100)
    monkeypatch.setattr(segment_search, "BLOCK_ROWS", 256)
    first = GRAPH_ROWS // 256 * 256
    segment = replace(target.base.segments[0], scan_first=first, scan=ScanBuilder(target.space))
    monkeypatch.setattr(packing, "BLOCK_ROWS", 256)
    partly = SearchTarget(
        target.space, replace(target.base, segments=(segment,)), target.tail, [segment.scanned()], target.hidden, 100
    )
    slots, vectors = current(target)
    mask = None if share is None else np.random.default_rng(8).random(target.tail.next_slot) < share
    allowed = np.ones(len(slots), dtype=np.bool_) if mask is None else mask[slots]
    for query in vectors[(slots >= GRAPH_ROWS) & (slots < ROWS)][:20]:
        (found,) = search(partly, query[None, :], [mask], [10])
        exact = exact_distances(target.space, query, vectors[allowed])
        nearest = slots[allowed][np.argsort(exact)[:10]]
        assert len(set(nearest.tolist()) & set(found.slots.tolist())) >= 9


def whole_target(space: Space, vectors: Vectors, graph: GraphFile) -> SearchTarget:
    """A segment whose rows are all some record's, and in the graph or beside it; no row is packed, and none in the tail."""
    slots = np.arange(len(vectors))
    base = Base(
        manifest=Manifest(dimension=NDIM, space=space, next_slot=len(vectors)),
        pieces=(),
        alive=np.ones(len(vectors), dtype=np.bool_),
        placed=GrownSlots.of(np.stack([np.zeros_like(slots), slots], axis=1)),
        segments=(SegmentView(1, StoredVectors(vectors), slots, GrownSlots.of(slots), ScanBuilder(space), graph),),
    )
    return SearchTarget(space, base, Memtable(applied=Lsn(0), next_slot=len(vectors)).tail(), [None], None, 100)


@pytest.mark.parametrize("rows_beside", [0, 40])
def test_rows_beside_a_graph_do_not_stand_for_what_it_finds(rows_beside: int, tmp_path: Path) -> None:
    """A filter that hides what is near: the graph has to be asked for more, however many rows are compared anyway."""
    vectors = random_rows(ROWS, 12)
    vectors[:, NDIM // 2 :] *= np.float32(0.05)
    vectors[:rows_beside, NDIM // 2 :] += 5
    graph = write_graph(tmp_path / "graph", "l2", vectors, flat_coding("l2"))
    assert len(graph.beside) == rows_beside
    target = whole_target("l2", vectors, graph)
    query = vectors[-1]
    exact = exact_distances("l2", query, vectors)
    mask = exact > np.sort(exact)[800]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_search, "plan_search", lambda *_, **__: PLANS["graph"])
        (found,) = search(target, query[None, :], [mask], [10])
    np.testing.assert_allclose(found.distances, np.sort(exact[mask])[:10], rtol=1e-4)


def test_rows_that_codes_say_little_of_take_no_place_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors without a direction are many among what a filter leaves, and their codes are near to every query."""
    vectors = random_rows(ROWS, 6)
    vectors[:, NDIM // 2 :] *= np.float32(0.05)
    vectors[::8] = 0
    graph = write_graph(tmp_path / "graph", "cosine", vectors, flat_coding("cosine"))
    assert len(graph.beside) >= 4 * candidates(10)
    target = whole_target("cosine", vectors, graph)
    mask = np.arange(ROWS) % 4 < 2
    queries = vectors[[1, 4, 9]]
    monkeypatch.setattr(segment_search, "plan_search", lambda *_, **__: PLANS["codes"])
    for query, found in zip(queries, search(target, queries, [mask] * 3, [10] * 3), strict=True):
        exact = exact_distances("cosine", query, vectors)
        np.testing.assert_allclose(found.distances, np.sort(exact[mask])[:10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_graph_is_grown_from_its_file(space: Space, tmp_path: Path) -> None:
    vectors = random_rows(600, 3)
    first = write_graph(tmp_path / "first", space, vectors[:400])
    grown = GraphBuilder.load(first.path, HnswConfiguration(space=space), rows=400)
    grown.extend(vectors[400:], threads=1)
    grown.save(tmp_path / "second", vectors)
    second = GraphFile(tmp_path / "second", rows=600, crc=checksum(tmp_path / "second"))
    for row in (0, 399, 400, 599):
        (found,) = second.search(vectors[row : row + 1], 10, ef=64)
        if space != "ip":
            assert found[0] == row
    batch = second.search(vectors[:7], 10, ef=64)
    assert [len(found) for found in batch] == [10] * 7


@pytest.mark.parametrize("space", SPACES)
def test_graph_file_is_searched_after_it_was_unlinked(space: Space, tmp_path: Path) -> None:
    vectors = random_rows(500, 4)
    graph = write_graph(tmp_path / "graph", space, vectors)
    before = [found.tolist() for found in graph.search(vectors[:20], 5, ef=64)]
    graph.path.unlink()
    assert [found.tolist() for found in graph.search(vectors[:20], 5, ef=64)] == before


def test_graph_that_is_asked_for_more_than_it_holds_gives_all(tmp_path: Path) -> None:
    vectors = random_rows(30, 5)
    graph = write_graph(tmp_path / "graph", "l2", vectors)
    (found,) = graph.search(vectors[:1], 100, ef=100)
    assert sorted(found.tolist()) == list(range(30))


@pytest.mark.parametrize("damage", ["missing", "empty", "shorter", "a bit", "something else"])
def test_damaged_graph_file_is_refused(damage: str, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", "l2", random_rows(100, 6))
    crc = checksum(graph.path)
    path = tmp_path / "damaged"
    content = bytearray(graph.path.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    if damage == "shorter":
        content = content[:-1]
    if damage == "empty":
        content.clear()
    if damage == "something else":
        content = bytearray(b"x" * len(content))
    if damage != "missing":
        path.write_bytes(content)
    with pytest.raises(StorageCorrupt):
        GraphFile(path, rows=100, crc=crc)
