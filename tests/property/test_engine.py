"""Any sequence of calls, by two handles on one directory, with compaction at any point, answers as a dictionary does.

`CHROMA_ASYNC_EXAMPLES=5000` runs as many sequences.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.engines import (
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.oracle import OracleCollection, Write

from chroma_async.core import planner
from chroma_async.engine.engine import Engine
from chroma_async.errors import InvalidDimensionException, NotFoundError
from chroma_async.protocol import Reset

T = TypeVar("T")

EXAMPLES = int(os.environ.get("CHROMA_ASYNC_EXAMPLES", "25"))
NDIM = 3
TOLERANCE = 1e-4

handles = st.integers(0, 1)
ids_strategy = st.integers(0, 39).map(lambda number: f"r{number}")
some_ids = st.lists(ids_strategy, min_size=1, max_size=12)
numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0, 1000.25])
vectors = st.lists(numbers, min_size=NDIM, max_size=NDIM).map(lambda values: np.array(values, dtype=np.float32))
texts = st.sampled_from(["", "a", "ab", "apple pie", "naïve 漢字 text", "pie in the sky", '100% _real_ "quoted"'])
values = st.one_of(
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.5, 1.0, -1.0]),
    st.sampled_from(["x", "y", ""]),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
fields = st.sampled_from(["f", "g", "h"])
metadata = st.dictionaries(fields, values, min_size=1, max_size=3)
patch = st.dictionaries(fields, st.one_of(values, st.none()), min_size=1, max_size=3)
scalars = st.one_of(st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from(["x", "y"]))
leaves = st.one_of(
    st.builds(lambda field, value: {field: value}, fields, scalars),
    st.builds(lambda field, op, value: {field: {op: value}}, fields, st.sampled_from(["$eq", "$ne"]), scalars),
    st.builds(
        lambda field, op, value: {field: {op: value}},
        fields,
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        st.sampled_from([-1, 0, 0.5, 1]),
    ),
    st.builds(
        lambda field, op, value: {field: {op: value}},
        fields,
        st.sampled_from(["$in", "$nin"]),
        st.lists(st.integers(-2, 2), min_size=1, max_size=3),
    ),
    st.builds(
        lambda field, op, value: {field: {op: value}},
        fields,
        st.sampled_from(["$contains", "$not_contains"]),
        st.integers(0, 2),
    ),
)
wheres = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda op, children: {op: children}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=4,
)
needles = st.sampled_from(["", "a", "pie", "apple", "漢", "漢字 ", "%", '"q', "zzz"])
document_filters = st.builds(
    lambda op, needle: {op: needle},
    st.sampled_from(["$contains", "$not_contains"]),
    needles,
) | st.builds(
    lambda op, pattern: {op: pattern}, st.sampled_from(["$regex", "$not_regex"]), st.sampled_from(["^a", "pi?e", "x"])
)
filters = st.fixed_dictionaries(
    {
        "ids": st.one_of(st.none(), st.none(), st.lists(ids_strategy, max_size=20)),
        "where": st.one_of(st.none(), wheres),
        "where_document": st.one_of(st.none(), st.none(), document_filters),
    }
)


class EngineMachine(RuleBasedStateMachine):
    """Two engines and a compactor on one directory; the oracle is told the same."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._path = Path(tempfile.mkdtemp(prefix="chroma_async-test-"))
        self._stacks = [AsyncExitStack(), AsyncExitStack()]
        self._engines: list[Engine] = []
        self._kept = planner.GATHER_ROWS_MAX
        planner.GATHER_ROWS_MAX = 5  # type: ignore[misc]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(_in_time(work))

    def teardown(self) -> None:
        for stack in self._stacks:
            self.run(stack.aclose())
        self._runner.close()
        shutil.rmtree(self._path)
        planner.GATHER_ROWS_MAX = self._kept  # type: ignore[misc]

    @initialize(space=st.sampled_from(["l2", "ip", "cosine"]))
    def open(self, space: str) -> None:
        for stack in self._stacks:
            self._engines.append(self.run(stack.enter_async_context(engine_at(self._path))))
        self._create(space)

    def _create(self, space: str) -> None:
        self.collection_id = self.run(create_collection(self._engines[0], space=space)).id
        self.oracle = OracleCollection(space)

    def records(self, handle: int) -> Records:
        return Records(self._engines[handle], self.collection_id)

    # ---- writes

    @rule(handle=handles, operation=st.sampled_from(["add", "add", "upsert"]), ids=some_ids, data=st.data())
    def put(self, handle: int, operation: str, ids: list[str], data: st.DataObject) -> None:
        metadatas = metadata if operation == "add" else patch
        self._write(handle, operation, ids, data, vectors, metadatas)

    @rule(handle=handles, ids=some_ids, data=st.data())
    def update(self, handle: int, ids: list[str], data: st.DataObject) -> None:
        self._write(handle, "update", ids, data, st.one_of(st.none(), vectors), patch)

    def _write(self, handle: int, operation: str, ids: list[str], data: st.DataObject, given: Any, metadatas: Any) -> None:
        def column(items: Any) -> list[Any]:
            return data.draw(st.lists(items, min_size=len(ids), max_size=len(ids)))

        write = Write(
            operation,
            ids,
            column(given),
            column(st.none() | texts),
            column(st.none() | metadatas),
            column(st.none() | texts),
        )
        self.run(
            self.records(handle).write(
                operation, ids, write.vectors, documents=write.documents, metadatas=write.metadatas, uris=write.uris
            )
        )
        self.oracle.write(write)

    @rule(handle=handles, operation=st.sampled_from(["add", "upsert"]), first=st.integers(0, 30), seed=st.integers(0, 99))
    def put_many(self, handle: int, operation: str, first: int, seed: int) -> None:
        ids = [f"r{number}" for number in range(first, first + 30)]
        rows = np.random.default_rng(seed).standard_normal((30, NDIM)).astype(np.float32)
        nothing = [None] * len(ids)
        self.run(self.records(handle).write(operation, ids, rows))
        self.oracle.write(Write(operation, ids, list(rows), nothing, nothing, nothing))

    @rule(handle=handles, operation=st.sampled_from(["add", "upsert", "update"]))
    def write_another_dimension(self, handle: int, operation: str) -> None:
        wrong = np.zeros((1, NDIM + 1), dtype=np.float32)
        if self.oracle.dimension is None:
            return
        try:
            self.run(self.records(handle).write(operation, ["r0"], wrong))
        except InvalidDimensionException:
            return
        raise AssertionError("a vector of another dimension was accepted")

    # ---- deletes

    @rule(handle=handles, ids=some_ids)
    def delete_ids(self, handle: int, ids: list[str]) -> None:
        assert self.run(self.records(handle).delete(ids)) == self.oracle.delete(ids, None, None, None)

    @rule(handle=handles, first=st.integers(0, 20), last=st.integers(20, 60))
    def delete_range(self, handle: int, first: int, last: int) -> None:
        ids = [f"r{number}" for number in range(first, last)]
        assert self.run(self.records(handle).delete(ids)) == self.oracle.delete(ids, None, None, None) if ids else True

    @rule(handle=handles, chosen=filters, limit=st.none() | st.integers(0, 5))
    def delete_matching(self, handle: int, chosen: dict[str, Any], limit: int | None) -> None:
        if chosen["where"] is None and chosen["where_document"] is None:
            return
        found = self.run(self.records(handle).delete(**chosen, limit=limit))
        assert found == self.oracle.delete(**chosen, limit=limit)

    # ---- reads

    @rule(handle=handles, chosen=filters, limit=st.none() | st.integers(0, 9), offset=st.none() | st.integers(0, 9))
    def get(self, handle: int, chosen: dict[str, Any], limit: int | None, offset: int | None) -> None:
        expected = self.oracle.matching(**chosen)[offset or 0 :][:limit]
        found = contents(self.run(self.records(handle).get(**chosen, limit=limit, offset=offset)))
        assert list(found) == expected
        self._check(found)

    def _check(self, found: dict[str, tuple[Any, ...]]) -> None:
        for record_id, (vector, document, stored, uri) in found.items():
            record = self.oracle.records[record_id]
            assert vector == tuple(record.vector.tolist())
            assert (document, stored, uri) == (record.document, record.metadata, record.uri)
            assert _types(stored) == _types(record.metadata)

    @rule(
        handle=handles,
        chosen=filters,
        n_results=st.sampled_from([1, 2, 5, 100]),
        queries=st.lists(vectors, min_size=1, max_size=3),
    )
    def query(self, handle: int, chosen: dict[str, Any], n_results: int, queries: list[Any]) -> None:
        result = self.run(self.records(handle).query(queries, n_results, **chosen))
        matching = self.oracle.matching(**chosen)
        assert len(result.columns) == len(queries)
        assert result.distances is not None
        for query, columns, distances in zip(queries, result.columns, result.distances, strict=True):
            expected = self.oracle.distances(query, matching)
            by_id = dict(zip(matching, expected.tolist(), strict=True))
            assert len(set(columns.ids)) == len(columns.ids) == min(n_results, len(matching))
            scale = max(1.0, float(np.abs(expected).max(initial=0)))
            np.testing.assert_allclose(distances, [by_id[name] for name in columns.ids], rtol=TOLERANCE, atol=1e-6 * scale)
            np.testing.assert_allclose(distances, np.sort(expected)[:n_results], rtol=TOLERANCE, atol=1e-6 * scale)
            assert columns.documents == [self.oracle.records[name].document for name in columns.ids]

    @invariant()
    def both_handles_count_alike(self) -> None:
        for handle in range(len(self._engines)):
            assert self.run(self.records(handle).count()) == len(self.oracle.records)

    # ---- what goes on behind

    @rule(steps=st.integers(0, 4), graphs=st.booleans())
    def compact(self, steps: int, graphs: bool) -> None:
        self.run(self._compact(steps, graphs))

    async def _compact(self, steps: int, graphs: bool) -> None:
        async with compactor_at(self._path) as compactor:
            for _ in range(steps):
                await compactor.step()
            if graphs:
                await settle(compactor)

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        self.run(self._stacks[handle].aclose())
        self._stacks[handle] = AsyncExitStack()
        self._engines[handle] = self.run(self._stacks[handle].enter_async_context(engine_at(self._path)))

    @rule(handle=handles)
    def see_everything(self, handle: int) -> None:
        found = contents(self.run(self.records(handle).get()))
        assert list(found) == list(self.oracle.records)
        self._check(found)

    @precondition(lambda self: len(self.oracle.records) > 10)
    @rule(handle=handles, space=st.sampled_from(["l2", "ip", "cosine"]), reset=st.booleans())
    def start_anew(self, handle: int, space: str, reset: bool) -> None:
        gone = self.records(1 - handle)
        if reset:
            self.run(self._engines[handle].dispatch(Reset()))
        else:
            self.run(delete_collection(self._engines[handle]))
        try:
            self.run(gone.count())
        except NotFoundError:
            self._create(space)
            return
        raise AssertionError("a deleted collection still answers")


async def _in_time(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(30):
        return await work


def _types(stored: Any) -> Any:
    """1, 1.0 and True are equal in Python, and not the same metadata."""
    if isinstance(stored, dict):
        return {name: _types(value) for name, value in stored.items()}
    return [type(item) for item in stored] if isinstance(stored, list) else type(stored)


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
