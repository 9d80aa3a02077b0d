"""`index_only` counts what was applied, every other level what was acknowledged."""

import time
from pathlib import Path

import pytest

from chroma_async import PersistentClient
from chroma_async.client.types import ReadLevel

ROWS = 3


def test_only_index_only_leaves_out_what_waits_to_be_applied(tmp_path: Path) -> None:
    with PersistentClient(tmp_path, compact=False) as client:
        made = client.create_collection("levels", embedding_function=None)
        made.add([str(row) for row in range(ROWS)], [[float(row)] for row in range(ROWS)])
        assert [made.count(level) for level in ReadLevel] == [ROWS, 0, ROWS]
        assert made.get_indexing_status().num_unindexed_ops == ROWS
        with PersistentClient(tmp_path) as other:
            applied = other.get_collection("levels", embedding_function=None)
            deadline = time.monotonic() + 20
            while applied.count(ReadLevel.INDEX_ONLY) < ROWS:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert [made.count(level) for level in ReadLevel] == [ROWS] * 3
        assert made.get_indexing_status().num_unindexed_ops == 0


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("levels", embedding_function=None)
        with pytest.raises(Exception, match="read_level"):
            made.count("fresh")
