"""`schema` at creation: what is filled in, what is refused, and which filters it forbids."""

from __future__ import annotations

from typing import Any

import pytest
from tests.compat.wire import COLLECTIONS, Wire, WireCollection, unique_name

OFF = {"enabled": False, "config": {}}
ON = {"enabled": True, "config": {}}
NO_STRINGS = {"string": {"string_inverted_index": OFF}}
FUNCTION = {"type": "known", "name": "openai", "config": {"model": "m"}}
NOTHING_INDEXED = {
    "string": {"string_inverted_index": OFF},
    "int": {"int_inverted_index": OFF},
    "float": {"float_inverted_index": OFF},
    "bool": {"bool_inverted_index": OFF},
}


def vector(enabled: bool = True, **config: Any) -> dict[str, Any]:
    return {"float_list": {"vector_index": {"enabled": enabled, "config": config}}}


def schema(defaults: Any = None, **keys: Any) -> dict[str, Any]:
    named = {{"document": "#document", "embedding": "#embedding"}.get(key, key): types for key, types in keys.items()}
    return {"defaults": defaults or {}, "keys": named}


def vector_index(described: dict[str, Any], key: str = "#embedding") -> dict[str, Any]:
    types = described["schema"]["defaults"] if key == "defaults" else described["schema"]["keys"][key]
    found: dict[str, Any] = types["float_list"]["vector_index"]
    return found


def test_empty_schema_is_the_default_one(wire: Wire) -> None:
    assert wire.create(schema=schema()).describe()["schema"] == wire.create().describe()["schema"]


@pytest.mark.parametrize(
    "types",
    [{}, NO_STRINGS, {"string": {}}, {"int": {"int_inverted_index": OFF}}, vector(enabled=False)],
    ids=str,
)
def test_key_of_the_schema_is_shown_as_it_was_given(wire: Wire, types: Any) -> None:
    assert wire.create(schema=schema(topic=types)).describe()["schema"]["keys"]["topic"] == types


@pytest.mark.parametrize("types", [{"foo": {"x": 1}}, {"string": None}], ids=str)
def test_unknown_and_null_value_types_are_dropped(wire: Wire, types: Any) -> None:
    assert wire.create(schema=schema(topic=types)).describe()["schema"]["keys"]["topic"] == {}


def test_space_of_the_embedding_key_is_the_space_of_the_collection(wire: Wire) -> None:
    config = {"space": "ip", "hnsw": {"ef_search": 12}, "embedding_function": FUNCTION}
    described = wire.create(schema=schema(embedding=vector(**config))).describe()
    assert described["configuration_json"]["hnsw"]["space"] == "ip"
    assert described["configuration_json"]["hnsw"]["ef_search"] == 12
    assert described["configuration_json"]["embedding_function"] == FUNCTION
    assert vector_index(described)["config"]["source_key"] == "#document"
    assert vector_index(described, "defaults")["config"]["space"] == "l2"
    assert "embedding_function" not in vector_index(described, "defaults")["config"]


def test_unknown_embedding_function_of_a_schema_is_none(wire: Wire) -> None:
    described = wire.create(schema=schema(embedding=vector(embedding_function={"type": "unknown"}))).describe()
    assert described["configuration_json"]["embedding_function"] is None
    assert "embedding_function" not in vector_index(described)["config"]


def test_space_of_the_defaults_says_nothing_about_the_collection(wire: Wire) -> None:
    described = wire.create(schema=schema(vector(enabled=False, space="cosine"))).describe()
    assert vector_index(described, "defaults")["config"]["space"] == "cosine"
    assert described["configuration_json"]["hnsw"]["space"] == "l2"


def test_vector_index_that_is_disabled_is_shown_and_still_searched(wire: Wire) -> None:
    collection = wire.create(schema=schema(embedding=vector(enabled=False)))
    assert vector_index(collection.describe())["enabled"] is False
    collection.add(ids=["a"], embeddings=[[1]])
    assert collection.query([1])["ids"] == [["a"]]


@pytest.mark.parametrize(
    "given",
    [
        schema(),
        schema(embedding={}),
        schema(embedding=vector(source_key="#document", space="l2")),
        schema(document={"string": {"fts_index": ON}}),
        schema({"string": {"string_inverted_index": ON}}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "arguments", [{"configuration": {"hnsw": {"space": "ip"}}}, {"metadata": {"hnsw:space": "ip"}}], ids=str
)
def test_configuration_may_stand_beside_a_schema_that_says_nothing(wire: Wire, given: Any, arguments: Any) -> None:
    described = wire.create(schema=given, **arguments).describe()
    assert described["configuration_json"]["hnsw"]["space"] == "ip"
    assert vector_index(described)["config"]["space"] == "ip"
    assert vector_index(described, "defaults")["config"]["space"] == "ip"


@pytest.mark.parametrize(
    "arguments",
    [
        {"configuration": {"hnsw": {"space": "ip"}}},
        {"metadata": {"hnsw:space": "ip"}},
        {"configuration": {"embedding_function": FUNCTION}},
        {"configuration": {"embedding_function": {"type": "legacy"}}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "given", [schema(topic=NO_STRINGS), schema(topic={}), schema(embedding=vector(space="l2"))], ids=str
)
def test_schema_and_configuration_that_both_say_something_are_refused(wire: Wire, given: Any, arguments: Any) -> None:
    refusal = wire.call("POST", COLLECTIONS, {"name": unique_name(), "schema": given, **arguments}).refusal
    message = "Failed to reconcile schema: Cannot set both collection config and schema simultaneously"
    assert refusal == (400, "InvalidArgumentError", message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"defaults": {}, "keys": {"#foo": {}}},
            "key cannot begin with '#'. Keys starting with '#' are reserved for system use: #foo",
        ),
        (
            schema(document={"int": {"int_inverted_index": ON}}),
            "Document field cannot have any value types other than string: #document",
        ),
        (schema(embedding=NO_STRINGS), "Embedding field cannot have any value types other than float_list: #embedding"),
        (schema(embedding=vector(source_key="foo")), "Vector index can only source from #document"),
        (schema(foo=vector()), "Vector index can only be enabled on #embedding field: foo"),
        (schema(vector()), "Vector index cannot be enabled by default. It can only be enabled on #embedding field."),
        (
            schema(foo={"string": {"fts_index": ON}}),
            "Full text search / regular expression index can only be enabled on #document field: foo",
        ),
        (
            schema({"string": {"fts_index": ON}}),
            "Full text search / regular expression index cannot be enabled by default. It can only be enabled on "
            "#document field.",
        ),
        (
            schema(document={"string": {"string_inverted_index": ON}}),
            "String inverted index can not be enabled on #document key: #document",
        ),
    ],
    ids=str,
)
def test_index_in_the_wrong_place_is_refused(wire: Wire, given: Any, message: str) -> None:
    refusal = wire.call("POST", COLLECTIONS, {"name": unique_name(), "schema": given}).refusal
    assert refusal == (400, "InvalidArgumentError", f"Validation error: schema: {message}")


def test_sparse_index_is_refused(wire: Wire) -> None:
    given = schema(sparse={"sparse_vector": {"sparse_vector_index": ON}})
    refusal = wire.call("POST", COLLECTIONS, {"name": unique_name(), "schema": given}).refusal
    message = "Failed to reconcile schema: Invalid schema input: Sparse vector indexing is not enabled in local"
    assert refusal == (400, "InvalidArgumentError", message)


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        ({"defaults": {}}, "schema: missing field `keys`"),
        ({"defaults": None, "keys": {}}, "schema.defaults: invalid type: null"),
        ({"defaults": {}, "keys": []}, "schema.keys: invalid type: sequence, expected a map"),
        (schema(a=None), "schema.keys.a: invalid type: null"),
        (schema(a={"string": {"string_inverted_index": {"enabled": False}}}), "missing field `config`"),
        (
            schema(a={"string": {"string_inverted_index": {"enabled": "x", "config": {}}}}),
            'schema.keys.a.string.string_inverted_index.enabled: invalid type: string "x", expected a boolean',
        ),
        (schema(embedding=vector(space="x")), "config.space: unknown variant `x`, expected one of `"),
        (schema(embedding=vector(hnsw={"ef_search": -1})), "ef_search: invalid value: integer `-1`, expected usize"),
        (schema(embedding=vector(foo=1)), "config.foo: unknown field `foo`, expected one of `space`"),
        (
            schema(a={"int": {"int_inverted_index": {"enabled": True, "config": {"x": 1}}}}),
            "int_inverted_index.config.x: unknown field `x`, there are no fields",
        ),
        (schema(embedding=vector(embedding_function={"type": "foo"})), "unknown variant `foo`"),
    ],
    ids=str,
)
def test_schema_of_the_wrong_shape_is_unprocessable(wire: Wire, given: Any, fragment: str) -> None:
    status, error, message = wire.call("POST", COLLECTIONS, {"name": unique_name(), "schema": given}).refusal
    assert (status, error) == (422, "ChromaError")
    assert fragment in message


@pytest.fixture(scope="module")
def unindexed(wire: Wire) -> WireCollection:
    """Nothing is indexed but the strings of one key."""
    collection = wire.create(schema=schema(NOTHING_INDEXED, open={"string": {"string_inverted_index": ON}}))
    collection.add(ids=["a", "b"], embeddings=[[1], [2]], metadatas=[{"open": "x"}, {"open": 1, "shut": "y"}])
    return collection


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ({"shut": "y"}, "Str"),
        ({"shut": {"$ne": 1}}, "Int"),
        ({"never": 1.5}, "Float"),
        ({"never": {"$in": [True]}}, "Bool"),
        ({"$or": [{"open": "x"}, {"$and": [{"shut": {"$contains": "y"}}]}]}, "Str"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["get", "query", "delete"])
def test_filter_on_what_is_not_indexed_is_refused(unindexed: WireCollection, verb: str, where: Any, kind: str) -> None:
    body = {"where": where, **({"query_embeddings": [[1]]} if verb == "query" else {})}
    status, error, message = unindexed.post(verb, body).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    key = "never" if "never" in str(where) else "shut"
    assert message == f"Cannot filter using metadata key '{key}' with type '{kind}' because indexing is disabled"


def test_key_with_an_index_of_its_own_can_be_filtered_by_that_type_only(unindexed: WireCollection) -> None:
    assert unindexed.ids(where={"open": "x"}) == ["a"]
    assert unindexed.post("get", {"where": {"open": 1}}).status == 400


def test_fields_that_are_written_take_their_index_from_the_defaults(unindexed: WireCollection) -> None:
    keys = unindexed.describe()["schema"]["keys"]
    assert keys["shut"] == {"string": {"fts_index": OFF, "string_inverted_index": OFF}}
    assert keys["open"] == {"string": {"string_inverted_index": ON}, "int": {"int_inverted_index": OFF}}


@pytest.mark.parametrize(
    "body",
    [
        {"where_document": {"$contains": "x"}},
        {"where_document": {"$or": [{"$not_regex": "x"}]}},
        {"where": {"#document": {"$contains": "x"}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["get", "delete"])
def test_document_filter_is_refused_without_its_index(wire: Wire, verb: str, body: Any) -> None:
    collection = wire.create(schema=schema(document={"string": {"fts_index": OFF}}))
    collection.add(ids=["a"], embeddings=[[1]], documents=["x"])
    message = "Cannot filter using full-text search because FTS indexing is disabled"
    assert collection.post(verb, body).refusal == (400, "InvalidArgumentError", message)
    assert collection.count() == 1


def test_changed_configuration_shows_in_a_schema_of_its_own(wire: Wire) -> None:
    collection = wire.create(schema=schema(embedding=vector(space="ip"), topic=NO_STRINGS))
    collection.put({"new_configuration": {"hnsw": {"ef_search": 5}, "embedding_function": FUNCTION}})
    described = collection.describe()
    assert described["schema"]["keys"]["topic"] == NO_STRINGS
    for key, space in (("#embedding", "ip"), ("defaults", "l2")):
        config = vector_index(described, key)["config"]
        assert (config["space"], config["hnsw"]["ef_search"], config["embedding_function"]) == (space, 5, FUNCTION)


def test_empty_list_counts_as_a_boolean_field(wire: Wire) -> None:
    collection = wire.create()
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"empty": [], "full": ["x"]}])
    keys = collection.describe()["schema"]["keys"]
    assert keys["empty"] == {"bool": {"bool_inverted_index": ON}}
    assert keys["full"] == {"string": {"fts_index": OFF, "string_inverted_index": ON}}


@pytest.mark.reference_differs
def test_encryption_with_a_key_of_the_customer_is_said_to_be_unsupported(wire: Wire) -> None:
    given = {**schema(), "cmek": {"gcp": "projects/p/locations/l/keyRings/k/cryptoKeys/c"}}
    assert wire.call("POST", COLLECTIONS, {"name": unique_name(), "schema": given}).refusal[:2] == (501, "ChromaError")
