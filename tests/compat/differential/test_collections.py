"""Tenants, databases, collections: names, configurations, schemas, changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from tests.compat.differential.exchange import Answer, Json, Pair, Request, create, describe, post
from tests.compat.differential.values import (
    ANYTHING,
    FEW,
    GOOD_RECORDS,
    QUERY_VALUES,
    everything,
    mutations,
    nearest,
)
from tests.compat.wire import TENANT, unique_name

NAMES: Final = (
    *(
        "",
        "a",
        "ab",
        "abc",
        "a" * 512,
        "a" * 513,
        "a.b",
        "a-b",
        "a_b",
        "-ab",
        "ab-",
        "_ab",
        "ab_",
        ".ab",
        "ab.",
        "a..b",
        "A-B",
        "a b",
    ),
    *(
        "日本語",
        "1.2.3.4",
        "1.2.3",
        "999.1.1.1",
        "a+b",
        "topo+abc",
        "a+b+c",
        "+abc",
        "abc+",
        "a/b",
        "a%2Fb",
        "a\0b",
        "é" * 3,
        "123",
    ),
    *("a?b", "a#b", "by-id", "___", "a__b", "a--b", " abc", "abc ", "a\nb"),
)


def test_names_of_collections(pair: Pair) -> None:
    pair.fresh()
    for name in NAMES:
        pair.agree(create(name))
        pair.agree(create(name))
        pair.agree(create(name, get_or_create=True))
        pair.agree(describe(name))
    pair.agree(Request("GET", "/collections_count"))
    pair.agree(Request("GET", "/collections"))
    pair.agree(create("renamed"))
    for name in NAMES:
        pair.agree(Request("PUT", "/collections/{renamed}", {"new_name": name}))
    for name in NAMES:
        pair.agree(Request("DELETE", describe(name).path))
        pair.agree(Request("DELETE", describe(name).path))


def test_names_of_databases_and_tenants(pair: Pair) -> None:
    pair.fresh()
    tenant = unique_name("tenant")
    for name in NAMES:
        body = {"name": name and f"{name}-{tenant}"}
        pair.agree(Request("POST", "/api/v2/tenants", body))
        pair.agree(Request("POST", "/api/v2/tenants", body))
    for value in (*FEW, "a", "ab"):
        pair.agree(Request("POST", "/api/v2/tenants", {"name": value} if value is not None else {}))
    pair.agree(Request("POST", "/api/v2/tenants", {"name": tenant}))
    databases = f"/api/v2/tenants/{tenant}/databases"
    for name in NAMES:
        pair.agree(Request("POST", databases, {"name": name}))
        pair.agree(Request("POST", databases, {"name": name}))
        pair.agree(Request("GET", databases + describe(name).path.removeprefix("/collections")))
    for value in FEW:
        pair.agree(Request("POST", databases, {"name": value}))
        pair.agree(Request("POST", databases, value))
    pair.agree(Request("GET", databases))
    pair.agree_on_reads(Request("GET", f"{databases}?limit={value}") for value in QUERY_VALUES)
    pair.agree_on_reads(Request("GET", f"{databases}?limit=3&offset={value}") for value in QUERY_VALUES)
    for name in NAMES:
        place = databases + describe(name).path.removeprefix("/collections")
        pair.agree(Request("GET", place + "/collections"))
        pair.agree(Request("GET", place + "/collections_count"))
        pair.agree(Request("POST", place + "/collections", {"name": "inside"}))
        pair.agree(Request("GET", place + "/collections/inside"))
        pair.agree(Request("DELETE", place))
        pair.agree(Request("DELETE", place))
        pair.agree(Request("GET", place + "/collections/inside"))
    pair.agree(Request("GET", databases))
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("PATCH", ""),
        ("GET", "/databases"),
        ("GET", "/databases/default_database"),
    ):
        pair.agree(Request(method, f"/api/v2/tenants/{unique_name('absent')}"[:25] + path))
    for value in FEW:
        pair.agree(Request("PATCH", f"/api/v2/tenants/{tenant}", {"resource_name": value}))
    pair.agree(Request("GET", f"/api/v2/tenants/{tenant}"))


HNSW_VALUES: Final = {
    "space": ("l2", "ip", "cosine", "L2", "", 1, None, []),
    "ef_construction": (0, 1, 200, -1, 1.0, "1", None, 2**64),
    "ef_search": (0, 1, 200, -1, 1.5, "1", None, True),
    "max_neighbors": (0, 1, 200, -1, "1", None),
    "num_threads": (0, 1, 200, -1, "1", None),
    "resize_factor": (0, 0.5, 1, 1.2, 3, -1, "1", None, True),
    "sync_threshold": (0, 1, 2, 50, 100_000, -1, None),
    "batch_size": (0, 1, 2, 1000, 100_000, -1, None),
    "unknown": (1, None),
    "M": (16,),
}
FUNCTIONS: Final = (
    {"type": "legacy"},
    {"type": "unknown"},
    {"type": "known", "name": "default", "config": {}},
    {"type": "known", "name": "mine", "config": {"model": "m", "deep": {"list": [1, 2.5, None]}}},
    {"type": "known", "name": "mine"},
    {"type": "known"},
    {"name": "default"},
    {"type": "other"},
    {},
    "default",
    1,
    [],
    None,
)


def names() -> Iterator[str]:
    return (f"docs-{number}" for number in itertools.count())


def test_configurations(pair: Pair) -> None:
    pair.fresh()
    single = [{"hnsw": {name: value}} for name, values in HNSW_VALUES.items() for value in values]
    spann = [{"spann": {"space": value}} for value in HNSW_VALUES["space"]]
    spann += [{"spann": {name: value}} for name in ("search_nprobe", "ef_search", "split_threshold") for value in (1, None)]
    both = [{"hnsw": one, "spann": two} for one, two in itertools.product((None, {}, {"space": "ip"}), repeat=2)]
    functions = [{"embedding_function": function} for function in FUNCTIONS]
    pairs = [
        {"hnsw": {"batch_size": 200, "sync_threshold": 100}},
        {"hnsw": {"space": "ip", "ef_search": 7}, "embedding_function": None},
    ]
    others = [*FEW, {"hnsw": None}, {"hnsw": 1}, {"hnsw": []}, {"spann": 1}, {"unknown": 1}]
    for name, configuration in zip(names(), [*single, *spann, *both, *functions, *pairs, *others], strict=False):
        pair.agree(create(name, configuration=configuration))
        pair.agree(describe(name))
    pair.agree(Request("GET", "/collections"))


LEGACY: Final = {
    "hnsw:space": ("l2", "ip", "cosine", "L2", "", 1, None),
    "hnsw:construction_ef": (1, 0, -1, 1.5, "1", True),
    "hnsw:search_ef": (1, 0, -1, 1.5, "1"),
    "hnsw:M": (1, 0, -1, 1.5, "1"),
    "hnsw:num_threads": (1, 0, -1),
    "hnsw:batch_size": (1, 0, 1000, 5000),
    "hnsw:sync_threshold": (1, 0, 50),
    "hnsw:resize_factor": (1, 1.5, 0.5, "1"),
    "hnsw:unknown": (1,),
    "hnsw:": (1,),
    "hnsw": (1,),
}


def test_metadata_of_collections(pair: Pair) -> None:
    pair.fresh()
    legacy = [{key: value} for key, values in LEGACY.items() for value in values]
    plain = [{"v": value} for value in ANYTHING if not isinstance(value, list) and value != {"#type": "sparse_vector"}]
    keys = [{key: 1} for key in ("", "#x", "$x", "chroma:document", "日本", "x" * 1000, "\0", " ")]
    several = [{"hnsw:space": "ip", "hnsw:M": 5, "other": 1}, {"a": 1, "b": "x", "c": 1.5, "d": True}]
    whole = [value for value in FEW if not isinstance(value, list)] + [[]]
    for name, metadata in zip(names(), [*legacy, *plain, *keys, *several, *whole], strict=False):
        pair.agree(create(name, metadata=metadata))
        pair.agree(describe(name))
    pair.agree(create("beside", metadata={"hnsw:space": "ip"}, configuration={"hnsw": {"ef_search": 5}}))
    pair.agree(create("beside-spann", metadata={"hnsw:space": "ip"}, configuration={"spann": {"space": "cosine"}}))
    pair.agree(create("beside-nothing", metadata={"hnsw:space": "ip"}, configuration={"hnsw": None}))


def key(kind: str, index: str, enabled: bool, **config: Json) -> Json:
    return {kind: {index: {"enabled": enabled, "config": config}}}


def schema(**keys: Json) -> Json:
    return {"defaults": {}, "keys": keys}


SCHEMAS: Final = (
    *({"defaults": {}, "keys": {}}, {"keys": {}}, {"defaults": {}}, {}, {"defaults": None, "keys": None}, *FEW),
    *(schema(k=key("string", "string_inverted_index", enabled)) for enabled in (True, False)),
    *(schema(k=key("int", "int_inverted_index", enabled)) for enabled in (True, False)),
    *(schema(k=key("float", "float_inverted_index", enabled)) for enabled in (True, False)),
    *(schema(k=key("bool", "bool_inverted_index", enabled)) for enabled in (True, False)),
    *(schema(**{name: key("string", "fts_index", enabled)}) for name in ("k", "#document") for enabled in (True, False)),
    *(
        schema(**{name: key("string", "string_inverted_index", enabled)})
        for name in ("#document", "#x")
        for enabled in (True, False)
    ),
    *(
        schema(**{"#embedding": key("float_list", "vector_index", True, space=space)})
        for space in ("l2", "ip", "cosine", "x")
    ),
    schema(**{"#embedding": key("float_list", "vector_index", False)}),
    schema(**{"#embedding": key("float_list", "vector_index", True, source_key="k")}),
    schema(**{"#embedding": key("float_list", "vector_index", True, hnsw={"ef_search": 5})}),
    schema(**{"#embedding": key("float_list", "vector_index", True, hnsw={"unknown": 5})}),
    schema(**{"#embedding": key("float_list", "vector_index", True, hnsw={}, spann={})}),
    *(schema(k=key("float_list", "vector_index", enabled)) for enabled in (True, False)),
    *(schema(k=key("sparse_vector", "sparse_vector_index", enabled)) for enabled in (True, False)),
    schema(k={"unknown": {}}),
    schema(k={"string": {"unknown": {}}}),
    schema(k={"string": {"string_inverted_index": {"enabled": True}}}),
    schema(k={"string": {"string_inverted_index": {"config": {}}}}),
    schema(k={"string": {"string_inverted_index": {"enabled": 1, "config": {}}}}),
    *({"defaults": key(kind, f"{kind}_inverted_index", False), "keys": {}} for kind in ("string", "int", "float", "bool")),
    {"defaults": key("string", "fts_index", True), "keys": {}},
    {"defaults": key("float_list", "vector_index", True), "keys": {}},
    {"defaults": key("sparse_vector", "sparse_vector_index", True), "keys": {}},
)


def test_schemas(pair: Pair) -> None:
    record = {"ids": ["a"], "embeddings": [[1, 2]], "documents": ["x"]}
    metadata = {"k": "x", "n": 1, "f": 1.5, "b": True, "l": ["x"]}
    filters = [{"k": "x"}, {"n": {"$gt": 0}}, {"f": 1.5}, {"b": True}, {"l": {"$contains": "x"}}]
    for wanted in SCHEMAS:
        pair.fresh()
        created = pair.agree(create("docs", schema=wanted))
        pair.agree(create("configured", schema=wanted, configuration={"hnsw": {"space": "ip"}}))
        if created.status == 200:
            pair.agree(post("docs", "add", {**record, "metadatas": [metadata]}))
            pair.agree(describe("docs"))
            pair.agree_on_reads(post("docs", "get", {"where": where}) for where in filters)
            pair.agree_on_reads(post("docs", "get", {"where_document": {name: "x"}}) for name in ("$contains", "$not_regex"))
            pair.agree(nearest("docs", [1, 2], where={"k": "x"}))
            pair.agree(post("docs", "delete", {"where": {"k": "y"}}))


def test_changes_of_collections(pair: Pair) -> None:
    pair.fresh().agree(create("docs", metadata={"old": 1}))
    pair.agree(post("docs", "add", GOOD_RECORDS))
    updates = [{"hnsw": {name: value}} for name, values in HNSW_VALUES.items() for value in values]
    updates += [
        {"spann": {"search_nprobe": 5}},
        {"spann": {"space": "ip"}},
        {"hnsw": {}, "spann": {}},
        {"spann": {"unknown": 1}},
    ]
    updates += [{"embedding_function": function} for function in FUNCTIONS]
    updates += [*FEW, {"hnsw": None}, {"unknown": 1}, {"hnsw": {"ef_search": 33, "batch_size": 7}}]
    metadatas = [
        {},
        None,
        {"new": 1},
        {"hnsw:space": "ip"},
        {"hnsw:unknown": 1},
        {"v": None},
        {"": 1},
        {"#x": 1},
        {"v": {}},
        1,
        "x",
    ]
    bodies = [{"new_configuration": update} for update in updates] + [{"new_metadata": metadata} for metadata in metadatas]
    bodies += [{"new_name": value} for value in FEW] + [{"new_name": "docs"}, {"unknown": 1}, *FEW]
    bodies += [
        {"new_name": "other", "new_metadata": {}},
        {"new_name": "other", "new_configuration": {"hnsw": {"space": "ip"}}},
    ]
    bodies += [{"new_name": "other", "new_metadata": {"m": 1}, "new_configuration": {"hnsw": {"ef_search": 9}}}]
    for body in bodies:
        pair.agree(Request("PUT", "/collections/{docs}", body))
        pair.agree(Request("GET", "/collections/by-id/{docs}"))
    pair.agree(nearest("docs", [0, 0]))
    pair.agree(everything("docs"))


def test_every_part_of_a_creation_replaced_by_anything(pair: Pair) -> None:
    pair.fresh()
    body = {"name": "docs", "metadata": None, "configuration": None, "schema": None, "get_or_create": False}
    for number, changed in enumerate(mutations(body, (value for value in FEW if value not in (["x"], [1])))):
        if changed.get("name") == "docs":
            changed = {**changed, "name": f"docs-{number}"}
        pair.agree(Request("POST", "/collections", changed))
    pair.agree_on_reads(Request("POST", "/collections", value) for value in FEW)
    pair.agree(Request("GET", "/collections_count"))


def test_a_collection_that_is_there_is_not_changed_by_getting_it(pair: Pair) -> None:
    pair.fresh().agree(create("docs", metadata={"a": 1}, configuration={"hnsw": {"space": "ip"}}))
    arguments: list[dict[str, Json]] = [
        {"metadata": {"b": 2}},
        {"configuration": {"hnsw": {"space": "l2"}}},
        {"schema": SCHEMAS[0]},
        {},
    ]
    for fields in arguments:
        pair.agree(create("docs", get_or_create=True, **fields))
        pair.agree(describe("docs"))
        pair.agree(create("docs", get_or_create=False, **fields))


def test_collections_that_are_gone(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {"ids": ["a"], "embeddings": [[1, 2]]}))
    pair.agree(Request("DELETE", "/collections/docs"))
    requests = [
        post("docs", verb, body)
        for verb in ("add", "upsert", "update", "get", "query", "delete")
        for body in (GOOD_RECORDS, {}, [])
    ]
    for request in [*requests, describe("docs"), Request("PUT", "/collections/{docs}", {"new_name": "new"})]:
        pair.agree(request)
    pair.agree(create("docs"))
    pair.agree(Request("GET", "/collections/{docs}/count"))
    pair.agree(post("docs", "add", {"ids": ["a"], "embeddings": [[1, 2, 3]]}))


def test_what_a_single_node_does_not_offer(docs: Pair) -> None:
    path = "/collections/{docs}"
    requests = [
        Request("GET", path + "/fork_count"),
        *(Request("POST", path + "/fork", body) for body in ({"new_name": "forked"}, {"new_name": "x"}, {}, None)),
        *(
            Request("POST", path + "/search", body)
            for body in ({"searches": []}, {"searches": [{}]}, {}, {"searches": None})
        ),
        *(Request("POST", path + "/search", {"searches": [{"filter": value}]}) for value in (*FEW, {"a": {"$foo": 1}})),
        *(
            Request("POST", path + "/search", {"searches": [{"rank": value}]})
            for value in (*FEW, {"$val": 1}, {"$knn": {"query": [1, 2]}})
        ),
        *(Request("POST", path + "/search", {"searches": [{"limit": value}]}) for value in (*FEW, {"limit": 1})),
        Request("POST", path + "/functions/attach", {"name": "n", "function_id": "f", "output_collection": "o"}),
        *(Request("POST", path + "/functions/attach", body) for body in ({}, {"name": "n"}, {"name": 1})),
        Request("GET", path + "/functions/n"),
        *(
            Request("POST", path + "/attached_functions/n/detach", body)
            for body in ({"delete_output": True}, {}, {"delete_output": 1})
        ),
    ]
    docs.agree_on_reads(requests)


def test_answers_about_the_server(pair: Pair) -> None:
    pair.fresh()
    paths = ("/api/v2", "/api/v2/heartbeat", "/api/v2/version", "/api/v2/healthcheck", "/api/v2/auth/identity")
    pair.agree_on_reads(Request("GET", path) for path in paths)
    pair.agree_on_reads(
        Request("GET", "/api/v2/auth/identity", headers={"authorization": value}) for value in ("Bearer x", "nope")
    )


def test_reset_leaves_the_default_tenant_and_database(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(Request("POST", "/api/v2/tenants", {"name": "short-lived"}))
    pair.agree(Request("POST", "/api/v2/reset"))
    pair.agree(Request("GET", "/api/v2/tenants/short-lived"))
    pair.agree(Request("GET", TENANT + "/databases"))
    pair.agree(Request("GET", TENANT + "/databases/default_database/collections"))
    pair.agree(describe("docs"))
    answer: Answer = pair.agree(post("docs", "get", {}))
    assert answer.status == 404
