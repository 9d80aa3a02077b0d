"""Requests that nobody chose: Chroma's server and ours answer each of them alike, but for the rows of docs/compatibility.md.

Hypothesis chooses them, always the same ones; `CHROMA_ASYNC_EXAMPLES=2000` tries that many others in each test. A failure is
shrunk to the smallest requests that show it.
"""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.compat.differential import strategies
from tests.compat.differential.exchange import Json, Pair, Request, create, describe, post

pytestmark = pytest.mark.timeout(600)

EXAMPLES: Final = os.environ.get("CHROMA_ASYNC_EXAMPLES")
SLOW: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
SPACES: Final = ("l2", "ip", "cosine")


PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Not `explain`, which traces every line."""


def examples(count: int, **more: Any) -> settings:
    return settings(
        max_examples=int(EXAMPLES or count),
        derandomize=not EXAMPLES,
        deadline=None,
        phases=PHASES,
        suppress_health_check=SLOW,
        **more,
    )


@examples(40)
@given(records=strategies.collections_of_records(), space=st.sampled_from(SPACES), data=st.data())
def test_filters_find_the_same(pair: Pair, records: Json, space: str, data: st.DataObject) -> None:
    pair.fresh().agree(create("docs", configuration={"hnsw": {"space": space}}))
    pair.agree(post("docs", "add", records))
    for body in data.draw(st.lists(strategies.gets, min_size=4, max_size=8)):
        pair.agree(post("docs", "get", body))
    for body in data.draw(st.lists(strategies.queries, min_size=2, max_size=4)):
        pair.agree(post("docs", "query", body))
    pair.agree(post("docs", "delete", data.draw(strategies.deletions)))
    pair.agree(post("docs", "get", {}))


@examples(25)
@given(records=strategies.collections_of_records(), data=st.data())
def test_spoilt_reads_are_refused_alike(pair: Pair, records: Json, data: st.DataObject) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", records))
    for verb, bodies in (("get", strategies.gets), ("query", strategies.queries), ("delete", strategies.deletions)):
        for body in data.draw(st.lists(strategies.spoilt(bodies), min_size=2, max_size=4)):
            exchange = pair.agree(post("docs", verb, body))
            if verb == "delete" and exchange.status == 200:
                pair.agree(post("docs", "get", {}))


@examples(25)
@given(data=st.data())
def test_spoilt_writes_are_refused_alike(pair: Pair, data: st.DataObject) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {"ids": ["a"], "embeddings": [[1] * strategies.DIMENSION]}))
    for verb in ("add", "upsert", "update"):
        for body in data.draw(st.lists(strategies.spoilt(strategies.writes(verb)), min_size=2, max_size=4)):
            pair.agree(post("docs", verb, body))
    pair.agree(post("docs", "get", {"include": ["documents", "embeddings", "metadatas", "uris"]}))
    pair.agree(describe("docs"))


@examples(25)
@given(
    name=strategies.names,
    metadata=strategies.collection_metadatas,
    configuration=strategies.configurations | strategies.spoilt_configurations,
    updates=st.lists(strategies.hnsw_updates | strategies.spoilt(strategies.hnsw_updates), max_size=3),
    again=st.booleans(),
)
def test_collections_are_described_alike(
    pair: Pair, name: str, metadata: Json, configuration: Json, updates: list[Json], again: bool
) -> None:
    pair.fresh()
    created = pair.agree(create(name, metadata=metadata, configuration=configuration))
    pair.agree(create(name, get_or_create=again))
    if created.status == 200:
        for update in updates:
            pair.agree(Request("PUT", f"/collections/{{{name}}}", {"new_configuration": {"hnsw": update}}))
        pair.agree(Request("PUT", f"/collections/{{{name}}}", {"new_metadata": metadata}))
        pair.agree(describe(name))


class History(RuleBasedStateMachine):
    """Any calls on a few collections, one after the other.

    Where records have lists, no collection is deleted: Chroma gives the lists to records that come later.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair.fresh()
        self.names: list[str] = []
        self.created = 0

    @initialize(lists=st.booleans(), space=st.sampled_from(SPACES))
    def begin(self, lists: bool, space: str) -> None:
        self.lists = lists
        self.create(space, {"topic": "x"})

    def name(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names))

    @precondition(lambda self: len(self.names) < 3)
    @rule(space=st.sampled_from(SPACES), metadata=st.none() | st.just({"hnsw:space": "ip", "n": 1}))
    def create(self, space: str, metadata: Json) -> None:
        self.created += 1
        self.names.append(f"collection-{self.created}")
        self.pair.agree(create(self.names[-1], metadata=metadata, configuration={"hnsw": {"space": space}}))
        # A dimension from the start: Chroma learns it even from writes that it refuses.
        self.pair.agree(post(self.names[-1], "add", {"ids": ["first"], "embeddings": [[1] * strategies.DIMENSION]}))

    @precondition(lambda self: self.names and not self.lists)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = self.name(data)
        self.names.remove(name)
        self.pair.agree(Request("DELETE", f"/collections/{name}"))
        self.pair.agree(post(name, "get", {}))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), verb=st.sampled_from(["add", "upsert", "update"]))
    def write(self, data: st.DataObject, verb: str) -> None:
        self.pair.agree(post(self.name(data), verb, data.draw(strategies.writes(verb, lists=self.lists))))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), body=strategies.deletions)
    def delete(self, data: st.DataObject, body: Json) -> None:
        self.pair.agree(post(self.name(data), "delete", body))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), body=strategies.gets)
    def get(self, data: st.DataObject, body: Json) -> None:
        self.pair.agree(post(self.name(data), "get", body))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), body=strategies.queries)
    def query(self, data: st.DataObject, body: Json) -> None:
        self.pair.agree(post(self.name(data), "query", body))

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def read_all(self, data: st.DataObject) -> None:
        name = self.name(data)
        self.pair.agree(post(name, "get", {"include": ["documents", "embeddings", "metadatas", "uris"]}))
        self.pair.agree(Request("GET", f"/collections/{{{name}}}/count"))
        self.pair.agree(describe(name))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), metadata=st.none() | st.just({"version": 2}) | st.just({}))
    def modify(self, data: st.DataObject, metadata: Json) -> None:
        self.pair.agree(Request("PUT", f"/collections/{{{self.name(data)}}}", {"new_metadata": metadata}))

    @rule()
    def list_collections(self) -> None:
        self.pair.agree(Request("GET", "/collections"))
        self.pair.agree(Request("GET", "/collections_count"))


def test_histories_have_the_same_answers(pair: Pair) -> None:
    run_state_machine_as_test(lambda: History(pair), settings=examples(15, stateful_step_count=30))
