"""Exact distances against float64, and the choice of the smallest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.support.oracle import exact_distances

from chroma_async.index.distance import (
    COLUMNS_FROM,
    distances,
    distances_of_each,
    ranking_scores,
    ranking_slope,
    ranking_weights,
    smallest_of_each,
)
from chroma_async.model import Space

SPACES: list[Space] = ["l2", "ip", "cosine"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("ndim", [1, 2, 3, 17, 384])
@pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
def test_distances_agree_with_float64(space: Space, ndim: int, shift: float) -> None:
    dice = np.random.default_rng(ndim)
    rows = (dice.standard_normal((200, ndim)) + shift).astype(np.float32)
    rows[3] = 0
    for query in (rows[0], rows[3], dice.standard_normal(ndim).astype(np.float32)):
        expected = exact_distances(space, query, rows)
        rounding = 1e-6 * (1 + ndim * (1 + shift * shift)) if space == "ip" else 1e-6
        np.testing.assert_allclose(distances(space, query, rows), expected, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("space", SPACES)
def test_identical_vectors_are_at_distance_zero_and_zero_vectors_at_one(space: Space) -> None:
    unit = np.array([0.6, 0.8], dtype=np.float32)
    assert distances(space, unit, unit[None, :])[0] == pytest.approx(0, abs=2e-7)
    zero = np.zeros((1, 2), dtype=np.float32)
    assert distances(space, unit, zero)[0] == pytest.approx(1)
    if space == "cosine":
        assert distances(space, zero[0], np.stack([unit, zero[0]])).tolist() == [1, 1]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("magnitude", [1e-30, 1e19, 3e38])
def test_overflow_and_underflow_are_values_not_warnings(space: Space, magnitude: float) -> None:
    rows = np.full((3, 4), magnitude, dtype=np.float32)
    values = distances(space, np.ones(4, dtype=np.float32), rows)
    assert values.shape == (3,)
    assert ranking_scores(space, -rows, rows, ranking_weights(space, rows)).shape == (3, 3)


@pytest.mark.parametrize("space", SPACES)
def test_ranking_scores_are_distances_but_for_slope_and_constant(space: Space) -> None:
    dice = np.random.default_rng(1)
    rows, queries = dice.standard_normal((50, 8)).astype(np.float32), dice.standard_normal((5, 8)).astype(np.float32)
    for query, line in zip(queries, ranking_scores(space, queries, rows, ranking_weights(space, rows)), strict=True):
        assert np.ptp(line - ranking_slope(space, query) * exact_distances(space, query, rows)) < 1e-4


scores_arrays = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 60)),
    elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("nan"), float(np.float32(-3e38))]),
)


def check_smallest(scores: np.ndarray, count: int) -> None:
    chosen = smallest_of_each(scores, count)
    assert chosen.shape == (len(scores), count)
    for line, positions in zip(scores, chosen, strict=True):
        assert len(set(positions.tolist())) == count
        np.testing.assert_array_equal(np.sort(line[positions]), np.sort(line)[:count])  # nan is sorted last


@given(scores=scores_arrays, share=st.floats(0, 1))
def test_smallest_are_the_smallest_of_each_line(scores: np.ndarray, share: float) -> None:
    check_smallest(scores, 1 + int(share * (scores.shape[1] - 1)))


@pytest.mark.parametrize("size", [COLUMNS_FROM - 1, COLUMNS_FROM, COLUMNS_FROM + 1, 5 * COLUMNS_FROM + 13])
@pytest.mark.parametrize("count", [1, 2, 42, 1_000, COLUMNS_FROM - 1])
@pytest.mark.parametrize("unusable", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("lines", [1, 3])
def test_smallest_of_many_are_the_smallest(size: int, count: int, unusable: float, lines: int) -> None:
    dice = np.random.default_rng(size + count)
    scores = dice.integers(0, 5_000, (lines, size)).astype(np.float32)
    scores[dice.random((lines, size)) < unusable] = np.inf
    check_smallest(scores, count)


@pytest.mark.parametrize("size", [100, COLUMNS_FROM + 5])
@pytest.mark.parametrize("lines", [1, 3])
def test_scores_that_overflowed_hide_no_other_score(size: int, lines: int) -> None:
    """One nan must not hide the neighbours with which it is compared in parts."""
    dice = np.random.default_rng(size)
    scores = dice.random((lines, size)).astype(np.float32)
    scores[dice.random((lines, size)) < 0.5] = np.nan
    check_smallest(scores, 20)


def test_smallest_are_found_in_lines_that_lie_apart() -> None:
    scores = np.random.default_rng(0).random((3, 3 * COLUMNS_FROM)).astype(np.float32)
    check_smallest(scores[:, : 2 * COLUMNS_FROM], 42)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("queries", [1, 2, 7])
def test_distances_are_the_same_to_the_last_bit_whatever_else_is_asked(space: Space, queries: int) -> None:
    dice = np.random.default_rng(queries)
    asked = dice.standard_normal((queries, 384)).astype(np.float32)
    asked[0] = 0
    rows = dice.standard_normal((queries, 42, 384)).astype(np.float32)
    rows[0, 3] = 0
    together = distances_of_each(space, asked, rows)
    alone = np.stack([distances(space, query, its_rows) for query, its_rows in zip(asked, rows, strict=True)])
    np.testing.assert_array_equal(together, alone)
    for line, query, its_rows in zip(together, asked, rows, strict=True):
        np.testing.assert_allclose(line, exact_distances(space, query, its_rows), rtol=1e-4, atol=1e-5)
