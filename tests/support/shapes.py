"""Vectors of many shapes, made of dice."""

from __future__ import annotations

import numpy as np

from chroma_async.model import Vectors

SHAPES = ["random", "clusters", "near duplicates", "far from the origin", "one outlier first", "scales", "equal"]


def make(shape: str, rows: int, ndim: int, seed: int = 0) -> Vectors:
    dice = np.random.default_rng(seed)
    noise = dice.standard_normal((rows, ndim))
    centres = dice.standard_normal((8, ndim))[dice.integers(0, 8, rows)]
    match shape:
        case "clusters":
            made = centres + 0.02 * noise
        case "near duplicates":
            made = centres + 0.001 * noise
        case "far from the origin":
            made = noise + 1000
        case "one outlier first":
            made = noise + 100
            made[0] = 0
        case "scales":
            made = noise * np.exp(3 * dice.standard_normal((rows, 1)))
        case "equal":
            made = np.ones((rows, ndim))
        case _:
            made = noise
    return np.ascontiguousarray(made, dtype=np.float32)


def fading(rows: int, ndim: int, seed: int) -> Vectors:
    """Rows as embeddings are: each direction varies a little less than the one before, and none along an axis."""
    dice = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((ndim, ndim)))
    spread = np.exp(-np.arange(ndim) / (ndim / 5))
    return np.ascontiguousarray((dice.standard_normal((rows, ndim)) * spread) @ turn.T + 0.05, dtype=np.float32)
