"""Graphs keep codes in main directions where these suit, and whatever rows look like, the nearest of them are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.engines import TINY, Records, compactor_at, create_collection, engine_at, settle
from tests.support.manifests import manifest_of
from tests.support.oracle import exact_distances
from tests.support.shapes import SHAPES, fading, make

from chroma_async.core import planner
from chroma_async.errors import StorageCorrupt
from chroma_async.index.axes import DIRECTIONS_FROM_ROWS
from chroma_async.index.coding import (
    MAGIC,
    ODDNESS_MAX,
    chosen_coding,
    code_distances,
    decode_trailer,
    encode_trailer,
    keeps_neighbours,
)
from chroma_async.index.crowds import crowded_rows
from chroma_async.index.hnsw import GraphBuilder, GraphFile, checksum
from chroma_async.model import HnswConfiguration, Space, Vectors
from chroma_async.projections.manifest import Manifest, decode_manifest, encode_manifest
from chroma_async.projections.view import graph_path

ROWS, NDIM = DIRECTIONS_FROM_ROWS + 600, 128
CODED: list[Space] = ["l2", "cosine"]
SETTINGS = replace(TINY, graph_rows_min=DIRECTIONS_FROM_ROWS, segment_rows_max=10**6, apply_bytes_max=2**25, index_threads=2)


def across(count: int, seed: int) -> Vectors:
    """Rows of another kind than those of `fading`: of its last direction, which hardly any row has."""
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((NDIM, NDIM)))
    return fading(count, NDIM, seed) + (8 * turn[:, -1]).astype(np.float32)


def written(path: Path, builder: GraphBuilder, vectors: Vectors) -> GraphFile:
    builder.save(path, vectors)
    return GraphFile(path, rows=builder.rows, crc=checksum(path))


def built(path: Path, space: Space, vectors: Vectors) -> GraphFile:
    configuration = HnswConfiguration(space=space)
    builder = GraphBuilder.empty(NDIM, configuration, chosen_coding(space, vectors))
    builder.extend(vectors, threads=2)
    return written(path, builder, vectors)


def recall(graph: GraphFile, space: Space, vectors: Vectors, queries: Vectors) -> float:
    found = [graph.search(query[None, :], planner.coded_candidates(10), ef=256)[0] for query in queries]
    return shares(space, vectors, queries, [[*rows.tolist(), *graph.beside.tolist()] for rows in found])


def shares(space: Space, vectors: Vectors, queries: Vectors, found: Sequence[Sequence[int]]) -> float:
    """How much of the ten nearest rows was found, on average."""
    nearest = [set(np.argsort(exact_distances(space, query, vectors))[:10].tolist()) for query in queries]
    return float(np.mean([len(true & set(rows)) / 10 for true, rows in zip(nearest, found, strict=True)]))


@pytest.mark.parametrize("space", CODED)
def test_graph_of_codes_finds_the_nearest_and_is_half_as_large(space: Space, tmp_path: Path) -> None:
    vectors = fading(ROWS, NDIM, 0)
    graph = built(tmp_path / "codes", space, vectors)
    assert graph.dims == NDIM // 2
    assert recall(graph, space, vectors, fading(40, NDIM, 1)) >= 0.97
    whole = GraphBuilder.empty(NDIM, HnswConfiguration(space=space))
    whole.extend(vectors, threads=2)
    larger = written(tmp_path / "whole", whole, vectors)
    assert larger.dims is None
    bytes_a_code, bytes_a_vector = NDIM // 2, NDIM * (1 if space == "cosine" else 2)
    behind = ROWS * bytes_a_code  # once more, which a search of the graph does not touch
    saved = larger.path.stat().st_size - (graph.path.stat().st_size - behind)
    assert saved >= 0.9 * ROWS * (bytes_a_vector - bytes_a_code)


@pytest.mark.parametrize(("shape", "space"), [("random", "l2"), ("random", "cosine"), ("far from the origin", "l2")])
def test_codes_of_all_dimensions_are_kept_where_none_is_to_spare(shape: str, space: Space, tmp_path: Path) -> None:
    """An offset that all rows share costs no precision: bfloat16 of values near 1,000 would leave nothing of the rest."""
    low = make("random", ROWS, 20, 30) @ make("random", 20, 48, 31)
    vectors = np.ascontiguousarray(low + make("random", ROWS, 48, 32) + (1_000 if shape != "random" else 0))
    coding = chosen_coding(space, vectors)
    assert coding is not None
    assert coding.dims == 48
    builder = GraphBuilder.empty(48, HnswConfiguration(space=space), coding)
    builder.extend(vectors, threads=2)
    graph = written(tmp_path / "graph", builder, vectors)
    queries = vectors[:40] + np.float32(0.3) * make("random", 40, 48, 33)
    assert recall(graph, space, vectors, queries) >= 0.97


@pytest.mark.parametrize(("ndim", "offset"), [(96, 1_000), (384, 400)])
def test_codes_are_compared_with_a_truth_that_does_not_cancel(ndim: int, offset: float) -> None:
    vectors = make("random", DIRECTIONS_FROM_ROWS, ndim, 40) + np.float32(offset)
    coding = chosen_coding("l2", vectors)
    assert coding is not None
    assert coding.dims == ndim


@pytest.mark.parametrize("space", CODED)
def test_the_last_rows_alone_do_not_decide_about_codes_of_all_dimensions(space: Space) -> None:
    """Records that are nearly alike, as they come in one batch."""
    vectors = make("random", ROWS, 64, 41)
    vectors[-200:] = vectors[0] + np.float32(0.003) * make("random", 200, 64, 42)
    coding = chosen_coding(space, vectors)
    assert coding is not None
    assert coding.dims == 64


def test_crowds_are_looked_for_among_rows_of_all_lengths() -> None:
    vectors = np.float32(1e-6) * make("random", 4_000, 8, 43)
    vectors[:2_047] = np.float32(1e18) * make("random", 2_047, 8, 44)
    rows = crowded_rows("l2", vectors, but=np.empty(0, dtype=np.int64))
    assert len(rows) == 1_024


def test_what_is_tried_after_a_coding_that_does_not_suit() -> None:
    vectors = fading(ROWS, NDIM, 34)
    first = chosen_coding("l2", vectors)
    assert first is not None
    second = chosen_coding("l2", vectors, after=first)
    assert second is not None
    assert (first.dims, second.dims) == (NDIM // 2, NDIM)
    assert chosen_coding("l2", vectors, after=second) is None


@pytest.mark.parametrize("space", CODED)
def test_graph_of_codes_grows_from_its_file(space: Space, tmp_path: Path) -> None:
    vectors = np.concatenate([fading(ROWS, NDIM, 2), across(30, 3), fading(4_000, NDIM, 4), across(20, 5)])
    first = built(tmp_path / "first", space, vectors[: ROWS + 30])
    builder = GraphBuilder.load(first.path, HnswConfiguration(space=space), rows=first.rows)
    builder.extend(vectors[first.rows :], threads=2)
    second = written(tmp_path / "second", builder, vectors)
    assert second.dims == first.dims == NDIM // 2
    assert not builder.is_odd(len(vectors))
    queries = np.concatenate([fading(30, NDIM, 6), vectors[-60:-20]])
    assert recall(second, space, vectors, queries) >= 0.97


@pytest.mark.parametrize("space", CODED)
def test_few_rows_of_another_kind_are_all_found(space: Space, tmp_path: Path) -> None:
    vectors = fading(ROWS, NDIM, 7)
    builder = GraphBuilder.empty(NDIM, HnswConfiguration(space=space), chosen_coding(space, vectors))
    vectors[5::500] = across(len(vectors[5::500]), 8)
    builder.extend(vectors, threads=2)
    graph = written(tmp_path / "graph", builder, vectors)
    assert graph.dims is not None
    assert recall(graph, space, vectors, vectors[5::500]) == 1.0
    assert set(range(5, ROWS, 500)) <= set(graph.beside.tolist())


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("ip", "ip"),
        ("few", "l2"),
        ("crowds", "l2"),
        ("crowds", "cosine"),
        ("equal", "l2"),
        ("scales", "l2"),
    ],
)
def test_vectors_stay_as_they_are_where_codes_would_not_tell_them_apart(name: str, space: Space) -> None:
    vectors = fading(ROWS, NDIM, 9)
    if name == "few":
        vectors = vectors[: DIRECTIONS_FROM_ROWS - 1]
    if name == "scales":  # the longest rows say what a step is worth
        vectors = make("scales", ROWS, NDIM, 10)
    if name == "crowds":  # what tells rows of a crowd apart is less than a step, or across
        vectors = vectors[np.arange(ROWS) % 80] + np.float32(1e-3) * make("random", ROWS, NDIM, 11)
    if name == "equal":
        vectors = make("equal", ROWS, NDIM)
    assert chosen_coding(space, vectors) is None


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e19, 3e38])
@pytest.mark.parametrize("space", CODED)
def test_extreme_rows_stay_out_of_a_graph_of_codes(space: Space, magnitude: float, tmp_path: Path) -> None:
    """Neither they nor queries like them give warnings; a direction that was hardly there is one all the same."""
    vectors = fading(ROWS, NDIM, 12)
    coding = chosen_coding(space, vectors)
    assert coding is not None
    extreme = np.float32(magnitude) * np.sign(vectors[:5])
    builder = GraphBuilder.empty(NDIM, HnswConfiguration(space=space), coding)
    builder.extend(np.concatenate([vectors[:2_000], extreme]), threads=1)
    graph = written(tmp_path / "graph", builder, vectors)
    _, oddness = coding.code(extreme)
    if magnitude > 1 or (space == "cosine" and magnitude < 1e-20):
        assert (oddness > ODDNESS_MAX).all()
    if (oddness > ODDNESS_MAX).all():
        assert set(range(2_000, 2_005)) <= set(graph.beside.tolist())
    assert len(graph.search(extreme[:1], 10, ef=64)[0]) >= 10


@pytest.mark.parametrize("with_codes", [True, False])
@pytest.mark.parametrize("space", CODED)
@pytest.mark.parametrize("many", [10, 34, 170])
def test_a_small_crowd_far_from_all_others_is_found(space: Space, many: int, with_codes: bool, tmp_path: Path) -> None:
    """A graph alone may have no way to it: those who are asked for links by such rows give them up for nearer ones."""
    vectors = fading(ROWS, NDIM, 19)
    places = np.arange(5, ROWS, ROWS // many)[:many]
    vectors[places] = across(many, 20)
    coding = chosen_coding(space, vectors) if with_codes else None
    builder = GraphBuilder.empty(NDIM, HnswConfiguration(space=space), coding)
    builder.extend(vectors, threads=2)
    alone = recall(written(tmp_path / "alone", builder, vectors), space, vectors, vectors[places])
    builder.check(vectors, threads=2)
    graph = written(tmp_path / "graph", builder, vectors)
    assert recall(graph, space, vectors, vectors[places]) >= max(0.95, alone)
    (found,) = graph.search(vectors[places[:1]], 30, ef=64)
    assert len(set(found.tolist()) & set(graph.beside.tolist())) == 0
    assert recall(graph, space, vectors, fading(40, NDIM, 21)) >= 0.97


@pytest.mark.parametrize("space", CODED)
def test_a_small_crowd_is_looked_for_beside_many_lone_rows_that_are_farther(space: Space, tmp_path: Path) -> None:
    vectors = fading(ROWS, NDIM, 19)
    places = np.arange(5, ROWS, ROWS // 34)[:34]
    vectors[places] = across(34, 20)
    dice = np.random.default_rng(22)
    alone = np.setdiff1d(np.arange(0, ROWS, 14), places)
    vectors[alone] = 30 * dice.standard_normal((len(alone), NDIM))
    builder = GraphBuilder.empty(NDIM, HnswConfiguration(space=space))
    builder.extend(vectors, threads=2)
    builder.check(vectors, threads=2)
    graph = written(tmp_path / "graph", builder, vectors)
    assert recall(graph, space, vectors, vectors[places]) >= 0.95
    assert len(graph.beside) < 100


@pytest.mark.parametrize(
    ("name", "space"),
    [("zeros", "cosine"), ("zeros", "l2"), ("duplicates", "l2"), ("duplicates", "cosine"), ("equal", "l2"), ("tiny", "l2")]
    + [("clusters", "cosine"), ("near duplicates", "cosine"), ("far from the origin", "l2")],
)
def test_what_a_graph_finds_is_not_compared_beside_it(name: str, space: Space, tmp_path: Path) -> None:
    vectors = make(name if name in SHAPES else "random", 6_000, 24, 23)
    if name == "zeros":
        vectors[::600] = 0
    if name == "duplicates":
        vectors[::20] = 20 * vectors[0]
    if name == "tiny":
        vectors *= np.float32(1e-30)
    builder = GraphBuilder.empty(24, HnswConfiguration(space=space))
    builder.extend(vectors, threads=2)
    builder.check(vectors, threads=2)
    assert len(written(tmp_path / "graph", builder, vectors).beside) <= 60


@pytest.mark.parametrize("rows", [1, 2, 9, 11, 3_000])
@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("max_neighbors", [2, 16])
def test_any_graph_is_checked(space: Space, rows: int, max_neighbors: int, tmp_path: Path) -> None:
    """With two neighbours a graph may find fewer rows than it is asked for."""
    vectors = make("clusters", rows, 3, 24)
    configuration = HnswConfiguration(space=space, max_neighbors=max_neighbors, ef_construction=max_neighbors)
    builder = GraphBuilder.empty(3, configuration)
    builder.extend(vectors, threads=1)
    builder.check(vectors, threads=1)
    graph = written(tmp_path / "graph", builder, vectors)
    (found,) = graph.search(vectors[:1], 20, ef=20)
    rows_seen = [*found.tolist(), *graph.beside.tolist()]
    assert len(rows_seen) == len(set(rows_seen))
    if max_neighbors == 16 and rows < 20:
        assert sorted(rows_seen) == list(range(rows))


@pytest.mark.parametrize("offset", [3.0, 7.0, 30.0])
def test_rows_are_not_odd_by_what_rounding_leaves(offset: float) -> None:
    """Cosine, hardly anything across, and an origin that is nearly as long as all rows."""
    dice = np.random.default_rng(25)
    turn, _ = np.linalg.qr(dice.standard_normal((NDIM, NDIM)))
    flat = dice.standard_normal((ROWS, NDIM // 2)) @ turn[: NDIM // 2]
    vectors = (flat + offset * turn[0]).astype(np.float32)
    coding = chosen_coding("cosine", vectors[: ROWS - 500])
    assert coding is not None
    assert coding.dims == NDIM // 2
    _, oddness = coding.code(vectors)
    assert np.count_nonzero(oddness > 1) < 0.01 * ROWS


@pytest.mark.parametrize("order", ["first", "last"])
def test_rows_of_another_kind_are_counted_against_the_whole_segment(order: str) -> None:
    vectors, others = fading(ROWS, NDIM, 26), across(65, 27)
    builder = GraphBuilder.empty(NDIM, HnswConfiguration(), chosen_coding("l2", vectors))
    for part in (others, vectors[:4_000]) if order == "first" else (vectors[:4_000], others):
        builder.extend(part, threads=2)
    assert not builder.is_odd(ROWS)
    assert builder.is_odd(4_065)


def test_vectors_many_of_which_are_of_another_kind_are_not_coded() -> None:
    vectors = fading(ROWS, NDIM, 28)
    coding = chosen_coding("l2", vectors)
    assert coding is not None
    assert keeps_neighbours(coding, vectors)
    vectors[::100] = across(len(vectors[::100]), 29)
    assert not keeps_neighbours(coding, vectors)


@pytest.mark.parametrize("damage", ["garbage", "cut off", "too long"])
def test_what_stands_behind_a_graph_and_cannot_be_read_is_refused(damage: str, tmp_path: Path) -> None:
    graph = built(tmp_path / "graph", "l2", fading(ROWS, NDIM, 13))
    content = graph.path.read_bytes()
    trailer = encode_trailer(decode_trailer(memoryview(content)), ROWS)
    assert content.endswith(trailer)
    if damage == "garbage":
        content = content[:-500] + b"\xc1" * (500 - 16) + content[-16:]
    if damage == "cut off":
        content = content[: -len(trailer) + 100] + (100).to_bytes(8, "little") + MAGIC
    if damage == "too long":
        content = content[:-16] + (2**40).to_bytes(8, "little") + MAGIC
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt, match="behind the graph"):
        GraphFile(path, rows=ROWS, crc=checksum(path))


def test_a_query_of_another_kind_is_answered_by_more_candidates(tmp_path: Path) -> None:
    vectors = fading(ROWS, NDIM, 14)
    graph = built(tmp_path / "graph", "l2", vectors)
    (usual,), (more,) = graph.search(vectors[:1], 10, ef=64), graph.search(across(1, 15), 10, ef=64)
    assert (len(usual), len(more)) == (10, 40)


@pytest.mark.anyio
@pytest.mark.parametrize("space", CODED)
@pytest.mark.parametrize("then", ["of the same kind", "of another kind", "a little across"])
async def test_graph_goes_on_with_codes_as_long_as_they_suit(space: Space, then: str, tmp_path: Path) -> None:
    """What is added to a segment later need not be like what its directions were chosen for."""
    first, added = fading(ROWS, NDIM, 16), fading(5_000, NDIM, 17)
    if then == "of another kind":
        added[::2] = across(len(added[::2]), 18)
    if then == "a little across":
        turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((NDIM, NDIM)))
        added[::2] += (0.5 * turn[:, -1]).astype(np.float32)
    vectors = np.concatenate([first, added])
    async with engine_at(tmp_path, SETTINGS) as engine, compactor_at(tmp_path, SETTINGS) as compactor:
        collection = await create_collection(engine, "things", space)
        records = Records(engine, collection.id)
        for start, part in ((0, first), (ROWS, added)):
            await records.add([str(start + row) for row in range(len(part))], part)
            await settle(compactor)
            await compactor.index_now()
            (segment,) = manifest_of(tmp_path, collection.id).segments
            assert segment.graph is not None
            assert segment.graph.rows == start + len(part)
        path = graph_path(tmp_path / "collections" / collection.id, segment, segment.graph.file)
        graph = GraphFile(path, rows=segment.graph.rows, crc=segment.graph.crc)
        assert graph.dims == (NDIM if then == "of another kind" else NDIM // 2)
        queries = np.concatenate([first[:10], added[:20]]) + np.float32(0.001)
        answer = await records.query(queries)
        found = [[int(record_id) for record_id in column.ids] for column in answer.columns]
        assert shares(space, vectors, queries, found) >= 0.97


def test_a_manifest_says_that_graphs_may_keep_codes_whatever_it_said_before() -> None:
    old = msgspec.structs.replace(Manifest(), format=1)
    assert decode_manifest(encode_manifest(old)).format == 2


@pytest.mark.parametrize("dims", [1, 2, 63, 64, 192, 384, 1_000])
def test_distances_of_codes_are_exact(dims: int) -> None:
    codes = np.random.default_rng(dims).integers(-127, 128, (300, dims)).astype(np.int8)
    codes[0], codes[1] = 127, -127
    for code in codes[:4]:
        exact = ((codes.astype(np.int64) - code) ** 2).sum(axis=1)
        np.testing.assert_array_equal(code_distances(code, codes), exact)


@pytest.mark.parametrize("space", CODED)
def test_nearest_of_some_rows_are_found_by_their_codes(space: Space, tmp_path: Path) -> None:
    vectors, queries = fading(ROWS, NDIM, 20), fading(40, NDIM, 21)
    graph = built(tmp_path / "graph", space, vectors)
    assert graph.has_codes
    for share in (0.01, 0.1, 0.5):
        rows = np.flatnonzero(np.random.default_rng(22).random(ROWS) < share)
        found = [graph.nearest_of(query, rows, 4 * planner.candidates(10)) for query in queries]
        assert {len(one) for one in found} == {min(len(rows), 4 * planner.candidates(10))}
        assert all(np.isin(one, rows).all() for one in found)
        nearest = [rows[np.argsort(exact_distances(space, query, vectors[rows]))[:10]] for query in queries]
        assert np.mean([np.isin(true, one).mean() for true, one in zip(nearest, found, strict=True)]) >= 0.995


def test_codes_of_a_graph_that_has_grown_are_those_of_all_rows(tmp_path: Path) -> None:
    vectors = fading(ROWS + 3_000, NDIM, 23)
    first = built(tmp_path / "first", "l2", vectors[:ROWS])
    builder = GraphBuilder.load(first.path, HnswConfiguration(), rows=ROWS)
    builder.extend(vectors[ROWS:], threads=2)
    grown = written(tmp_path / "grown", builder, vectors)
    beside = decode_trailer(memoryview(grown.path.read_bytes()))
    assert beside.coding is not None
    assert beside.codes is not None
    np.testing.assert_array_equal(beside.codes[:ROWS], decode_trailer(memoryview(first.path.read_bytes())).codes)
    apart = beside.codes.astype(np.int64) - beside.coding.code(vectors)[0]
    assert np.abs(apart).max() <= 1  # a product of another number of rows may be rounded otherwise


def test_a_graph_without_codes_behind_it_is_searched_and_grown(tmp_path: Path) -> None:
    """As the first graphs of codes were written."""
    vectors = fading(ROWS + 3_000, NDIM, 24)
    graph = built(tmp_path / "graph", "l2", vectors[:ROWS])
    content, beside = graph.path.read_bytes(), decode_trailer(memoryview(graph.path.read_bytes()))
    behind = ROWS * NDIM // 2 + len(encode_trailer(beside, ROWS))
    path = tmp_path / "older"
    path.write_bytes(content[:-behind] + encode_trailer(beside, 0))
    older = GraphFile(path, rows=ROWS, crc=checksum(path))
    assert not older.has_codes
    assert older.search(vectors[:1], 1, ef=64)[0].tolist() == [0]
    builder = GraphBuilder.load(path, HnswConfiguration(), rows=ROWS)
    builder.extend(vectors[ROWS:], threads=2)
    assert written(tmp_path / "grown", builder, vectors).has_codes
