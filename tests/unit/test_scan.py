"""The packed scan picks candidates; what is answered in the end are the nearest rows, whatever the vectors look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.support.oracle import exact_distances
from tests.support.shapes import SHAPES, fading, make

from chroma_async.core.memtable import Memtable
from chroma_async.core.planner import GATHER_ROWS_MAX
from chroma_async.engine import ranking, segment_search
from chroma_async.engine.ranking import Neighbours
from chroma_async.engine.search import SearchTarget, search
from chroma_async.index import axes, packing
from chroma_async.index.axes import DIRECTIONS_FROM_ROWS, Axes, main_directions
from chroma_async.index.packing import ScanBuilder, TailScan
from chroma_async.model import Lsn, Mask, Space, Vectors
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.stored_vectors import StoredVectors
from chroma_async.projections.view import Base, GrownSlots, SegmentView

SPACES: list[Space] = ["l2", "ip", "cosine"]
ROWS = GATHER_ROWS_MAX + 300


def segment_target(space: Space, vectors: Vectors, *, packed: bool = True) -> SearchTarget:
    """One segment, every row of it owned by the slot of its number; nothing in the tail."""
    builder = ScanBuilder(space)
    builder.extend(vectors[:1])
    slots = np.arange(len(vectors))
    segment = SegmentView(1, StoredVectors(vectors), slots, GrownSlots.of(slots), builder, None)
    base = Base(
        manifest=Manifest(dimension=vectors.shape[1], space=space),
        pieces=(),
        alive=np.ones(len(vectors), dtype=np.bool_),
        placed=GrownSlots.of(np.stack([np.zeros_like(slots), slots], axis=1)),
        segments=(segment,),
    )
    tail = Memtable(applied=Lsn(0), next_slot=len(vectors)).tail()
    return SearchTarget(space, base, tail, [builder.extend(vectors) if packed else None], None, 100)


def assert_exact(
    space: Space, vectors: Vectors, query: Vectors, found: Neighbours, count: int, mask: Mask | None = None
) -> None:
    """The nearest by float64, up to what float32 arithmetic can tell apart."""
    allowed = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    exact = exact_distances(space, query, vectors)
    scale = np.abs(vectors[allowed]).max(initial=0).astype(np.float64) * max(1.0, np.abs(query).max()) * vectors.shape[1]
    rounding = 2e-6 if space == "cosine" else 1e-6 * (scale if space == "ip" else 0)
    assert len(found.slots) == len(set(found.slots.tolist())) == min(count, len(allowed))
    assert np.isin(found.slots, allowed).all()
    np.testing.assert_allclose(found.distances, exact[found.slots], rtol=1e-3, atol=rounding + 1e-6)
    np.testing.assert_allclose(exact[found.slots], np.sort(exact[allowed])[:count], rtol=1e-3, atol=rounding + 1e-6)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("ndim", [1, 2, 3, 17, 384])
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_of_many_rows_are_exact_for_any_vectors(space: Space, ndim: int, shape: str) -> None:
    vectors = make(shape, ROWS, ndim)
    dice = np.random.default_rng(1)
    queries = vectors[dice.integers(0, ROWS, 6)] + (0.01 * dice.standard_normal((6, ndim))).astype(np.float32)
    queries[0] = 0
    mask = dice.random(ROWS) < 0.7
    masks: list[Mask | None] = [None, None, None, mask, mask, None]
    counts = [10, 1, 100, 10, 3, ROWS + 1]
    for packed in (True, False):
        found = search(segment_target(space, vectors, packed=packed), queries, masks, counts)
        for query, allowed, count, answer in zip(queries, masks, counts, found, strict=True):
            assert_exact(space, vectors, query, answer, count, allowed)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch", [1, 2, 3, 16, 17])
def test_a_batch_of_any_size_is_answered_as_its_queries_alone(space: Space, batch: int) -> None:
    vectors = make("clusters", ROWS, 17)
    queries = make("random", batch, 17, seed=2)
    target = segment_target(space, vectors)
    together = search(target, queries, [None] * batch, [7] * batch)
    for query, found in zip(queries, together, strict=True):
        assert_exact(space, vectors, query, found, 7)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("steps", [1, 7])
def test_scan_grows_over_the_borders_of_its_blocks(
    space: Space, offset: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BLOCK_ROWS", 256)
    rows = 3 * 256 + offset
    vectors, queries = make("random", rows, 24), make("random", 5, 24, seed=3)
    builder = ScanBuilder(space)
    for end in np.linspace(rows // steps, rows, steps).astype(int).tolist():
        scan = builder.extend(vectors[:end])
    assert scan.rows == rows
    judged = scan.judged(queries)
    assert judged.scores.shape == (5, rows)
    for query, line, slope in zip(queries, judged.scores, judged.slopes, strict=True):
        exact = exact_distances(space, query, vectors)
        assert np.ptp(line - slope * exact) < 0.05 * np.ptp(slope * exact)
    later = scan.judged(queries, first_block=1).scores
    np.testing.assert_array_equal(later, judged.scores[:, 256:])


@pytest.mark.parametrize("space", SPACES)
def test_a_scan_goes_on_behind_rows_that_it_needs_no_more(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_ROWS", 256)
    vectors, queries = make("random", 1_400, 24), make("random", 5, 24, seed=1)
    builder = ScanBuilder(space)
    whole = builder.extend(vectors[:1_100])
    later = ScanBuilder.behind(whole, 512)
    assert later is not None
    assert later.latest is not None
    assert later.latest.blocks == whole.blocks[2:4]  # complete ones are shared, and searched at once
    scan = later.extend(vectors[512:])
    assert scan.rows == 1_400 - 512
    np.testing.assert_array_equal(scan.judged(queries).scores, builder.extend(vectors).judged(queries).scores[:, 512:])
    assert whole.rows == 1_100
    for first in (100, 1_024, 2_048):  # where no complete block begins
        assert ScanBuilder.behind(whole, first) is None


@pytest.mark.parametrize("space", SPACES)
def test_rows_that_a_scan_was_built_without_are_not_searched_for_an_older_view(space: Space) -> None:
    vectors = make("random", ROWS, 8)
    builder = ScanBuilder(space)
    builder.extend(vectors)
    target = segment_target(space, vectors[: ROWS - 500])
    newer = SearchTarget(space, target.base, target.tail, [builder.extend(vectors)], None, 100)
    (found,) = search(newer, vectors[-1:], [None], [10])
    assert_exact(space, vectors[: ROWS - 500], vectors[-1], found, 10)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e-18, 1e18, 1e30, 3e38])
def test_extreme_magnitudes_neither_warn_nor_lose_records(space: Space, magnitude: float) -> None:
    ndim = 5
    vectors = make("random", ROWS, ndim)
    vectors[::2] = np.clip(vectors[::2].astype(np.float64) * magnitude, -3.4e38, 3.4e38)
    queries = np.stack([vectors[0], vectors[1], np.zeros(ndim, dtype=np.float32)])
    found = search(segment_target(space, vectors), queries, [None] * 3, [10, 10, ROWS])
    assert [len(set(answer.slots.tolist())) for answer in found] == [10, 10, ROWS]
    ordinary = exact_distances(space, queries[1], vectors)
    if magnitude < 1 and space != "cosine":
        np.testing.assert_allclose(found[1].distances, np.sort(ordinary)[:10], rtol=1e-4, atol=1e-5)
    if magnitude > 1 and space == "l2":
        assert found[1].slots[0] == 1
        np.testing.assert_allclose(found[1].distances, np.sort(ordinary)[:10], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 3e-9, 1e-9, 1e-15, 1e-20])
@pytest.mark.parametrize("space", SPACES)
def test_values_that_cancel_neither_fail_nor_lose_neighbours(space: Space, scale: float) -> None:
    """Beside a slope of 1e20 the doubt about scores is nothing but rounding."""
    for ndim in (2, 17):
        vectors = make("random", 5_000, ndim) * np.float32(scale)
        queries = np.concatenate([vectors[:10], np.zeros((1, ndim), np.float32), make("random", 2, ndim, seed=1)])
        target = segment_target(space, vectors)
        for count in (10, 40):
            found = search(target, queries, [None] * len(queries), [count] * len(queries))
            for query, answer in zip(queries, found, strict=True):
                assert len(set(answer.slots.tolist())) == count
                farthest = np.sort(exact_distances(space, query, vectors))[count - 1]
                if scale > 1e-18:  # else square lengths are too small for float32 to tell what is nearer by cosine
                    assert answer.distances[-1] <= farthest + 1e-5 * max(1.0, abs(farthest))


def test_a_tiny_query_fails_nobody_else() -> None:
    vectors, queries = make("random", 5_000, 17), make("random", 30, 17, seed=1)
    queries[::7] *= np.float32(1e-20)
    found = search(segment_target("ip", vectors), queries, [None] * 30, [10] * 30)
    assert [len(answer.slots) for answer in found] == [10] * 30


@pytest.mark.parametrize("space", SPACES)
def test_a_large_batch_is_answered_in_parts_as_one_is(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = make("random", ROWS, 24), make("random", 40, 24, seed=1)
    target, dice = segment_target(space, vectors), np.random.default_rng(0)
    masks = [None if number % 3 else dice.random(ROWS) < 0.9 for number in range(40)]
    counts = [(10, 3, 20)[number % 3] for number in range(40)]
    whole = search(target, queries, masks, counts)
    monkeypatch.setattr(segment_search, "SCORES_BYTES_MAX", 7 * 4 * ROWS)
    monkeypatch.setattr(ranking, "COMPARED_BYTES_MAX", 100 * 24 * 4)
    for one, other in zip(whole, search(target, queries, masks, counts), strict=True):
        np.testing.assert_array_equal(one.slots, other.slots)
        np.testing.assert_array_equal(one.distances, other.distances)


def test_a_query_for_nothing_gets_nothing_beside_others() -> None:
    vectors = make("random", ROWS, 24)
    found = search(segment_target("l2", vectors), vectors[:3], [None] * 3, [0, 5, 0])
    assert [len(answer.slots) for answer in found] == [0, 5, 0]


def test_most_queries_are_settled_by_the_first_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[bool] = []
    test = ranking.doubts_of

    def noting(*arguments: Any) -> npt.NDArray[np.float64]:
        doubts = test(*arguments)
        settled.extend((doubts <= 0).tolist())
        return doubts

    monkeypatch.setattr(ranking, "doubts_of", noting)
    vectors, queries = make("random", ROWS, 384), make("random", 16, 384, seed=4)
    for space in SPACES:
        search(segment_target(space, vectors), queries, [None] * 16, [10] * 16)
    assert settled == [True] * 48


@pytest.fixture(params=["of eigenvectors", "by power iteration"])
def directions_found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by power iteration":
        monkeypatch.setattr(axes, "EIGENVECTORS_DIMENSIONS_MAX", 1)


@pytest.mark.usefixtures("directions_found")
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["like the rows", "unlike the rows"])
def test_scan_in_main_directions_finds_the_nearest(space: Space, kind: str) -> None:
    vectors = fading(DIRECTIONS_FROM_ROWS + 500, 256, 0)
    queries = fading(12, 256, 1) if kind == "like the rows" else make("random", 12, 256, seed=1)
    target = segment_target(space, vectors)
    scan = target.scans[0]
    assert scan is not None
    assert scan.axes.directions is not None
    mask = np.random.default_rng(2).random(len(vectors)) < 0.6
    for allowed in (None, mask):
        found = search(target, queries, [allowed] * 12, [10] * 12)
        rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
        shares = []
        for query, answer in zip(queries, found, strict=True):
            exact = exact_distances(space, query, vectors)
            nearest = rows[np.argsort(exact[rows])[:10]]
            assert np.isin(answer.slots, rows).all()
            np.testing.assert_allclose(answer.distances, exact[answer.slots], rtol=1e-3, atol=1e-4)
            shares.append(len(set(nearest.tolist()) & set(answer.slots.tolist())) / 10)
        assert np.mean(shares) >= 0.99


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("order", ["in turn", "one after the other", "few among many", "three at the end"])
@pytest.mark.parametrize("length", [1, 3, 10])
def test_rows_of_another_kind_than_most_are_found(space: Space, order: str, length: int) -> None:
    """Directions are chosen for a sample of the first rows; others may lie across them, and far from all that they suit."""
    vectors = fading(DIRECTIONS_FROM_ROWS + 4_000, 256, 5)
    places = {
        "in turn": slice(1, None, 2),
        "one after the other": slice(DIRECTIONS_FROM_ROWS, None),
        "few among many": slice(0, None, 1_001),
        "three at the end": slice(-3, None),
    }
    others = vectors[places[order]]
    dice = np.random.default_rng(6)
    around = dice.standard_normal(256) / 16 + 0.3 * dice.standard_normal(others.shape) / 16
    others[:] = length * float(np.linalg.norm(vectors, axis=1).mean()) * around
    queries = others[:: -(-len(others) // 10)] + np.float32(0.01) * dice.standard_normal(256).astype(np.float32)
    count = min(10, len(others))
    answers = search(segment_target(space, vectors), queries, [None] * len(queries), [count] * len(queries))
    shares: list[float] = []
    for query, found in zip(queries, answers, strict=True):
        exact = exact_distances(space, query, vectors)
        shares.append(len(set(np.argsort(exact)[:count].tolist()) & set(found.slots.tolist())) / count)
    assert np.mean(shares) >= 0.9


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("distance", [0.2, 0.4, 0.8, 2, 5])
def test_rows_that_differ_from_others_across_the_directions_are_found(space: Space, crowds: bool, distance: float) -> None:
    """As of a second language, or of a field that the first rows did not have; in crowds, each of many ordinary rows."""
    first, ndim = DIRECTIONS_FROM_ROWS + 600, 128
    vectors = fading(first + 2_000, ndim, 9)
    if crowds:
        vectors = fading(200, ndim, 10)[np.arange(len(vectors)) % 200] + np.float32(0.15) * vectors
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((ndim, ndim)))
    vectors[first:] += (distance * float(np.linalg.norm(vectors, axis=1).mean()) * turn[:, -1]).astype(np.float32)
    assert ScanBuilder(space).extend(vectors[:first]).axes.directions is not None
    queries = vectors[first::150] + np.float32(0.001)
    answers = search(segment_target(space, vectors), queries, [None] * len(queries), [10] * len(queries))
    shares: list[float] = []
    for query, found in zip(queries, answers, strict=True):
        exact = exact_distances(space, query, vectors)
        shares.append(float(np.mean(exact[found.slots] <= np.sort(exact)[9] + 1e-4 * abs(np.sort(exact)[9]))))
    assert np.mean(shares) >= 0.97


@pytest.mark.parametrize("length", [80, 150, 1_000])
@pytest.mark.parametrize("many", [1, 40])
def test_long_rows_across_the_directions_are_found_by_ordinary_queries(length: float, many: int) -> None:
    """By inner product the little that a query has across the directions counts as many times as a row is longer."""
    ndim = 128
    vectors = fading(DIRECTIONS_FROM_ROWS + 600, ndim, 11)
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((ndim, ndim)))
    usual = float(np.linalg.norm(vectors, axis=1).mean())
    places = np.arange(7, 7 + many) * 300
    vectors[places] = length * usual * turn[:, 70 : 70 + many].T
    target = segment_target("ip", vectors)
    assert target.scans[0] is not None
    assert target.scans[0].axes.directions is not None
    queries = fading(40, ndim, 12)
    answers = search(target, queries, [None] * 40, [5] * 40)
    nearest = list[int]()
    for query, found in zip(queries, answers, strict=True):
        exact = exact_distances("ip", query, vectors)
        wanted = places[exact[places] < np.sort(exact)[5]].tolist()
        nearest += wanted
        assert set(wanted) <= set(found.slots.tolist())
    assert nearest, "no long row is near to any query"


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("offset", [10, 100, 300, 1_000])
def test_what_lies_across_is_not_lost_where_large_numbers_cancel(space: Space, offset: float) -> None:
    """As good as comparing all rows: with what float32 tells of such data."""
    dice = np.random.default_rng(19)
    low = dice.standard_normal((DIRECTIONS_FROM_ROWS + 500, 20)) @ dice.standard_normal((20, 128))
    vectors = (low + 0.1 * dice.standard_normal(low.shape) + offset).astype(np.float32)
    queries = vectors[:40] + (0.05 * dice.standard_normal((40, 128))).astype(np.float32)
    answers = search(segment_target(space, vectors), queries, [None] * 40, [10] * 40)
    compared = search(segment_target(space, vectors, packed=False), queries, [None] * 40, [10] * 40)
    shares = [
        len(set(found.slots.tolist()) & set(exact.slots.tolist())) / 10
        for found, exact in zip(answers, compared, strict=True)
    ]
    assert np.mean(shares) >= 0.97


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rows", [ROWS, DIRECTIONS_FROM_ROWS + 500])
@pytest.mark.parametrize("shape", ["fading", *SHAPES])
def test_no_row_is_as_near_but_those_that_may_be(space: Space, rows: int, shape: str) -> None:
    vectors = fading(rows, 128, 13) if shape == "fading" else make(shape, rows, 128, seed=13)
    odd = np.random.default_rng(14).choice(rows, 30, replace=False)
    vectors[odd] = 3 * make("random", 30, 128, seed=15)
    queries = np.concatenate([vectors[odd[:3]], vectors[20:23], make("random", 3, 128, seed=16)])
    judged = ScanBuilder(space).extend(vectors).judged(queries)
    for number, query in enumerate(queries):
        exact = exact_distances(space, query, vectors)
        farthest = float(np.sort(exact)[20])
        near = judged.near(number, farthest)
        assert (np.diff(near) > 0).all()
        slack = 1e-5 * max(1.0, abs(farthest))
        assert set(np.flatnonzero(exact < farthest - slack)) <= set(near.tolist())


def test_a_query_of_another_kind_is_not_compared_with_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    distances = ranking.distances

    def counted(space: Space, query: Vectors, rows: Vectors) -> npt.NDArray[np.float32]:
        compared.append(len(rows))
        return distances(space, query, rows)

    monkeypatch.setattr(ranking, "distances", counted)
    vectors = fading(2 * DIRECTIONS_FROM_ROWS, 256, 17)
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((256, 256)))
    usual = float(np.linalg.norm(vectors, axis=1).mean())
    for space in SPACES:
        target = segment_target(space, vectors)
        queries = fading(4, 256, 18) + (0.8 * usual * turn[:, -1]).astype(np.float32)
        assert target.scans[0] is not None
        assert not target.scans[0].judged(queries).are_told.any()
        compared.clear()
        answers = search(target, queries, [None] * 4, [10] * 4)
        assert sum(compared) < 4 * len(vectors) / 5
        for query, found in zip(queries, answers, strict=True):
            assert_exact(space, vectors, query, found, 10)


@pytest.mark.parametrize("place", ["first", "second"])
def test_rows_are_packed_again_after_an_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may be scarce for a while."""
    vectors = make("random", 3_000, 16)
    builder = ScanBuilder("l2", block_rows=1_024)
    before = builder.extend(vectors[:1_000])
    packings: list[int] = []
    pack = ScanBuilder._pack

    def failing(self: ScanBuilder) -> packing.PackedBlock:
        packings.append(1)
        if len(packings) == (1 if place == "first" else 2):
            raise MemoryError
        return pack(self)

    with monkeypatch.context() as patched:
        patched.setattr(ScanBuilder, "_pack", failing)
        with pytest.raises(MemoryError):
            builder.extend(vectors[:2_100])
    after = builder.extend(vectors)
    assert [block.rows for block in after.blocks] == [1_024, 1_024, 952]
    anew = ScanBuilder("l2", 1_024).extend(vectors)
    np.testing.assert_array_equal(after.judged(vectors[:3]).scores, anew.judged(vectors[:3]).scores)
    assert before.rows == 1_000


def test_many_rows_of_another_kind_are_packed_whole() -> None:
    """Comparing each query of that kind with all rows would cost more."""
    rows = fading(3 * DIRECTIONS_FROM_ROWS, 256, 7)
    builder = ScanBuilder("l2")
    assert builder.extend(rows[: 2 * DIRECTIONS_FROM_ROWS]).axes.directions is not None
    rows[2 * DIRECTIONS_FROM_ROWS :] = 10 * make("random", DIRECTIONS_FROM_ROWS, 256, seed=8)
    scan = builder.extend(rows)
    assert scan.axes.directions is None
    assert scan.rows == len(rows)
    again = builder.extend(np.concatenate([rows, rows[:100]]))
    assert (again.axes.directions, again.rows) == (None, len(rows) + 100)


@pytest.mark.usefixtures("directions_found")
def test_directions_hold_most_of_the_variance_and_are_left_where_all_dimensions_count() -> None:
    rows = fading(DIRECTIONS_FROM_ROWS, 256, 3)
    centred = rows - rows.mean(axis=0)
    directions = main_directions(centred)
    assert directions is not None
    assert directions.shape[0] in (64, 128)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-4)
    assert ((centred @ directions.T) ** 2).sum() >= 0.89 * (centred**2).sum()
    assert main_directions(make("random", DIRECTIONS_FROM_ROWS, 256)) is None
    assert ScanBuilder("l2").extend(rows).axes.directions is not None
    assert ScanBuilder("l2").extend(rows[:-1]).axes.directions is None
    assert main_directions(np.zeros((DIRECTIONS_FROM_ROWS, 256), dtype=np.float32)) is None


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("seed", range(10))
def test_what_was_packed_of_a_tail_moves_with_it(space: Space, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "TAIL_BLOCK_ROWS", 64)
    chances = np.random.default_rng(seed)
    vectors, queries = make("random", 2_000, 24), make("random", 3, 24, seed=3)
    packed: list[int] = []
    take = ScanBuilder._take

    def counted(self: ScanBuilder, rows: Vectors, axes: Axes) -> None:
        packed.append(len(rows))
        take(self, rows, axes)

    monkeypatch.setattr(ScanBuilder, "_take", counted)
    tails, first, beyond = TailScan(), 0, 0
    while beyond < len(vectors):
        beyond = min(len(vectors), beyond + int(chances.integers(1, 200)))
        if chances.random() < 0.3:
            first = int(chances.integers(first, beyond + 1))
        part = tails.of(space, first, vectors[first:beyond])
        if part is None:
            assert beyond - first < 2 * 64
            continue
        assert beyond - first - 64 < part.rows <= beyond - first
        judged = part.scan.judged(queries)
        for query, line, slope in zip(queries, judged.scores[:, part.skip :], judged.slopes, strict=True):
            exact = slope * exact_distances(space, query, vectors[first : first + part.rows])
            assert np.ptp(line - exact) <= 0.05 * np.ptp(slope * exact_distances(space, query, vectors))
    assert sum(packed) <= len(vectors)
    assert tails.of(space, 0, vectors[:10]) is None  # of a tail that was left behind


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("seed", range(20))
def test_a_row_a_little_nearer_than_a_crowd_of_equal_ones_is_found(space: Space, seed: int) -> None:
    """All that is compared first may be copies of one row, whose errors tell nothing of those of others."""
    dice = np.random.default_rng(1_000 + seed)
    vectors = make("random", ROWS, 24, seed)
    vectors[: ROWS // 2] = vectors[0]
    query = vectors[0] + dice.standard_normal(24).astype(np.float32) * np.float32(0.1)
    vectors[7] += (query - vectors[7]) * np.float32(0.01) + dice.standard_normal(24).astype(np.float32) * np.float32(0.002)
    (found,) = search(segment_target(space, vectors), query[None, :], [None], [10])
    exact = exact_distances(space, query, vectors)
    assert exact[found.slots[0]] <= exact.min() + 1e-9
