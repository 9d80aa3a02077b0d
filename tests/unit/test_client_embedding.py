"""Embedding functions: described, rebuilt, and never mistaken for another."""

from __future__ import annotations

import re
import threading
from functools import reduce
from typing import Any

import pytest

from chroma_async import EmbeddingFunction, register_embedding_function, wrap
from chroma_async.client.colours import AsyncCaller, Caller
from chroma_async.client.configuration import chosen_function, new_function, to_input, to_update
from chroma_async.client.embedding import DEFAULT_EMBEDDING, default_space, describe, query_target, rebuild, require_same
from chroma_async.errors import MalformedRequestError
from chroma_async.protocol.collection_json import HnswInput
from chroma_async.protocol.embedding_function import check_embedding_function


def plain(texts: list[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


async def plain_async(texts: list[str]) -> list[list[float]]:
    return plain(texts)


class Model(EmbeddingFunction):
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, input: list[str]) -> list[list[float]]:  # noqa: A002
        return [[1.0] * self.size for _ in input]

    @staticmethod
    def name() -> str:
        return "model-of-this-test"

    def get_config(self) -> dict[str, Any]:
        return {"size": self.size}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Model:
        return Model(config["size"])

    def default_space(self) -> str:
        return "cosine"


class Nameless(EmbeddingFunction):
    def __call__(self, input: list[str]) -> list[list[float]]:  # noqa: A002
        return plain(input)


def test_what_is_stored_depends_on_what_the_function_tells() -> None:
    assert describe(None) is None
    assert describe(DEFAULT_EMBEDDING) == {"type": "known", "name": "default", "config": {}}
    assert describe(plain) == {"type": "legacy"}
    assert describe(Nameless()) == {"type": "legacy"}
    assert describe(Model(3)) == {"type": "known", "name": "model-of-this-test", "config": {"size": 3}}
    assert describe(wrap(plain, name="wrapped-1")) == {"type": "known", "name": "wrapped-1", "config": {}}


def test_a_described_function_is_rebuilt() -> None:
    rebuilt = rebuild(describe(Model(3)))
    assert isinstance(rebuilt, Model)
    assert rebuilt.size == 3
    wrapped = wrap(plain, name="wrapped-2")
    assert rebuild(describe(wrapped)) is wrapped
    assert rebuild({"type": "legacy"}) is None
    assert rebuild(None) is None


def test_an_unregistered_name_is_not_imported_but_refused() -> None:
    with pytest.raises(ValueError, match=r"not registered in this process.*name='os\.system'"):
        rebuild({"type": "known", "name": "os.system", "config": {"command": "true"}})


def test_a_configuration_that_cannot_be_built_says_which() -> None:
    register_embedding_function(Model)
    with pytest.raises(ValueError, match=r"can't build.*model-of-this-test"):
        rebuild({"type": "known", "name": "model-of-this-test", "config": {}})


def test_a_class_is_registered_by_a_call_and_by_both_forms_of_decorator() -> None:
    assert register_embedding_function(Model) is Model
    assert register_embedding_function(ef_class=Model) is Model
    assert register_embedding_function()(Model) is Model
    assert isinstance(rebuild({"type": "known", "name": "model-of-this-test", "config": {"size": 1}}), Model)


def test_only_classes_that_can_be_rebuilt_are_registered() -> None:
    with pytest.raises(TypeError, match=r"name\(\) and build_from_config"):
        register_embedding_function(dict)


def test_another_function_than_the_stored_one_is_refused() -> None:
    stored = describe(Model(3))
    require_same(Model(5), stored)
    require_same(DEFAULT_EMBEDDING, stored)
    require_same(plain, stored)
    require_same(Model(3), {"type": "legacy"})
    with pytest.raises(ValueError, match="given='wrapped-3' stored='model-of-this-test'"):
        require_same(wrap(plain, name="wrapped-3"), stored)


def test_a_function_gives_its_distance_to_a_collection_that_names_none() -> None:
    assert default_space(Model(1)) == "cosine"
    assert default_space(plain) is None
    configured = to_input(None, Model(1), None)
    assert configured is not None
    assert configured.hnsw == HnswInput(space="cosine")
    named = to_input({"hnsw": {"space": "ip", "ef_search": 5}}, Model(1), None)
    assert named is not None
    assert named.hnsw == HnswInput(space="ip", ef_search=5)
    legacy = to_input(None, Model(1), {"hnsw:space": "ip"})
    assert legacy is not None
    assert legacy.hnsw is None


def test_nothing_configured_is_nothing_sent() -> None:
    assert to_input(None, None, None) is None
    assert to_input({}, None, {"a": 1}) is None


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ({"hnsw": {"speed": 1}}, "hnsw.speed: unknown field `speed`, expected one of `space`, `ef_construction`, "),
        ({"hnsw": {"space": "l3"}}, "hnsw.space: unknown variant `l3`, expected one of `cosine`, `ip`, `l2`"),
        ({"hnsw": {"ef_search": "x"}}, 'hnsw.ef_search: invalid type: string "x", expected usize'),
        ({"hnsw": {"ef_search": -1}}, "hnsw.ef_search: invalid value: integer `-1`, expected usize"),
        ({"hnsw": {"space": "l2"}, "spann": {}}, "hnsw and spann can't both be given"),
        ("x", "must be a dict. got=str"),
        ({"hnsw": 5}, "configuration['hnsw'] must be a dict. got=int"),
    ],
    ids=str,
)
def test_a_configuration_with_mistakes_is_refused(configuration: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_input(configuration, None, None)


def test_a_part_that_is_none_is_pointed_out_and_ignored_as_chroma_does() -> None:
    with pytest.warns(UserWarning, match="'index' is no part of a configuration, and is ignored") as told:
        assert to_input({"index": {}}, None, None) is None
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"'ef_search'.*; did you mean {'hnsw': {'ef_search': \.\.\.}}\?"):
        to_update({"ef_search": 5})


def test_what_cannot_change_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hnsw\.space: unknown field `space`, expected one of `ef_search`, "):
        to_update({"hnsw": {"space": "ip"}})
    with pytest.raises(ValueError, match="the index is hnsw; there is no spann to change"):
        to_update({"spann": {"ef_search": 5}})
    assert to_update(None) is None


@pytest.mark.parametrize("stored", [None, {"type": "legacy"}, {"type": "known", "name": "model-of-this-test", "config": {}}])
def test_a_collection_keeps_its_embedding_function_but_may_be_told_its_parameters(stored: Any) -> None:
    function = Model(3)
    assert new_function({"embedding_function": function}, stored) is function
    assert new_function({"hnsw": {"ef_search": 5}}, stored) is None
    assert new_function(None, stored) is None


def test_a_function_without_a_name_is_taken_but_not_stored_for_a_named_one() -> None:
    stored = {"type": "known", "name": "model-of-this-test", "config": {}}
    assert new_function({"embedding_function": plain}, stored) is plain
    changed = to_update({"embedding_function": plain}, plain)
    assert changed is not None
    assert changed.embedding_function is None


@pytest.mark.parametrize("function", [wrap(len, name="other"), DEFAULT_EMBEDDING], ids=str)
def test_vectors_of_two_models_do_not_come_into_one_collection_by_a_change(function: Any) -> None:
    stored = {"type": "known", "name": "model", "config": {}}
    with pytest.raises(ValueError, match="can't be exchanged: vectors of two models don't compare"):
        new_function({"embedding_function": function}, stored)


def test_a_described_embedding_function_is_built() -> None:
    function = wrap(len, name="described")
    assert chosen_function(DEFAULT_EMBEDDING, {"embedding_function": describe(function)}) is function
    assert chosen_function(DEFAULT_EMBEDDING, {"embedding_function": {"type": "legacy"}}) is DEFAULT_EMBEDDING


@pytest.mark.parametrize("function", ["text", 5, Model, object()], ids=str)
def test_what_cannot_embed_is_no_embedding_function(function: Any) -> None:
    with pytest.raises(ValueError, match="embedding_function"):
        chosen_function(function, None)
    with pytest.raises(ValueError, match="embedding_function"):
        chosen_function(DEFAULT_EMBEDDING, {"embedding_function": function})
    with pytest.raises(ValueError, match="embedding_function"):
        require_same(function, None)
    with pytest.raises(ValueError, match="embedding_function"):
        wrap(function, name="wrapped-6")


def test_an_argument_and_a_configuration_may_not_disagree() -> None:
    model = Model(1)
    assert chosen_function(DEFAULT_EMBEDDING, {"embedding_function": model}) is model
    assert chosen_function(plain, None) is plain
    with pytest.raises(ValueError, match="two embedding functions"):
        chosen_function(wrap(plain, name="wrapped-4"), {"embedding_function": model})


def test_questions_are_embedded_by_their_own_method_where_there_is_one() -> None:
    wrapped = wrap(plain, name="wrapped-5", query=lambda texts: [[2.0] for _ in texts])
    assert query_target(wrapped)(["x"]) == [[2.0]]
    assert query_target(Model(2))(["x"]) == [[1.0, 1.0]]
    assert query_target(plain) is plain


@pytest.mark.anyio
async def test_sync_functions_run_in_a_thread_and_async_ones_in_the_loop() -> None:
    async def here(texts: list[str]) -> int:
        return threading.get_ident()

    caller = AsyncCaller()
    assert await caller.call(lambda texts: threading.get_ident(), ["x"]) != threading.get_ident()
    assert await caller.call(here, ["x"]) == threading.get_ident()
    assert await caller.call(lambda texts: here(texts), ["x"]) == threading.get_ident()


def test_a_sync_caller_runs_both_kinds() -> None:
    caller = Caller()
    assert caller.call(plain, ["x"]) == [[1.0]]
    assert caller.call(plain_async, ["x"]) == [[1.0]]
    assert caller.call(lambda texts: plain_async(texts), ["x"]) == [[1.0]]
    caller.close()
    caller.close()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (reduce(lambda inner, _: {"a": [inner]}, range(40), {}), "config: nested too deeply, expected 64 levels at most"),
        ({"a": 2**64}, "can't be stored as JSON: Integer exceeds 64-bit range"),
        ({"a": "half \ud83d"}, "can't be stored as JSON: str is not valid UTF-8"),
    ],
    ids=["deep", "large", "no text"],
)
def test_a_description_that_cannot_be_stored_is_refused(config: Any, reason: str) -> None:
    check_embedding_function({"type": "known", "name": "a", "config": {"a": [{"b": [1]}]}})
    with pytest.raises(MalformedRequestError, match=reason):
        check_embedding_function({"type": "known", "name": "a", "config": config})
