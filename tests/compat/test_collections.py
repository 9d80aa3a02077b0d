"""Life of a collection: names, listing, configuration, metadata, renaming, deletion."""

from __future__ import annotations

import uuid
from typing import Any

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError
from tests.compat.wire import ABSENT_UUID, COLLECTIONS, DATABASE, TENANT, Wire, WireCollection, unique_name

NAME_RULE = (
    "Expected a name containing 3-512 characters from [a-zA-Z0-9._-], "
    "starting and ending with a character in [a-zA-Z0-9]. Got: "
)
HNSW_DEFAULTS = {
    "space": "l2",
    "ef_construction": 100,
    "ef_search": 100,
    "max_neighbors": 16,
    "resize_factor": 1.2,
    "sync_threshold": 1000,
}
HNSW_FIELDS = ", ".join(
    f"`{name}`"
    for name in (
        *("space", "ef_construction", "ef_search", "max_neighbors", "num_threads", "resize_factor"),
        *("sync_threshold", "batch_size"),
    )
)


def hnsw_of(wire: Wire, **create: Any) -> dict[str, Any]:
    hnsw: dict[str, Any] = wire.create(**create).describe()["configuration_json"]["hnsw"]
    return hnsw


# --- create, get, list, count, delete ---


def test_created_collection_shows_all_its_fields_with_defaults(wire: Wire) -> None:
    name = unique_name()
    body = wire.call("POST", COLLECTIONS, {"name": name}).body
    assert uuid.UUID(body["id"]).version == 4
    assert body["configuration_json"] == {"hnsw": HNSW_DEFAULTS, "spann": None, "embedding_function": None}
    assert set(body) == {
        *("id", "name", "configuration_json", "schema", "metadata", "dimension", "tenant", "database"),
        *("log_position", "version"),
    }
    assert (body["name"], body["tenant"], body["database"]) == (name, "default_tenant", "default_database")
    assert (body["metadata"], body["dimension"], body["log_position"], body["version"]) == (None, None, 0, 0)


def test_new_schema_enables_the_vector_index_and_the_full_text_index(collection: WireCollection) -> None:
    schema = collection.describe()["schema"]
    assert set(schema["defaults"]) == {"string", "float_list", "sparse_vector", "int", "float", "bool"}
    assert set(schema["keys"]) == {"#embedding", "#document"}
    vector_index = schema["keys"]["#embedding"]["float_list"]["vector_index"]
    assert (vector_index["enabled"], vector_index["config"]["space"]) == (True, "l2")
    assert schema["keys"]["#document"]["string"]["fts_index"] == {"enabled": True, "config": {}}


def test_schema_gains_an_entry_for_each_key_and_type_written(collection: WireCollection) -> None:
    collection.add(ids=["a", "b"], embeddings=[[1], [2]], metadatas=[{"price": 1.5, "tags": ["x"]}, {"price": 2}])
    keys = collection.describe()["schema"]["keys"]
    assert keys["price"] == {
        "float": {"float_inverted_index": {"enabled": True, "config": {}}},
        "int": {"int_inverted_index": {"enabled": True, "config": {}}},
    }
    assert set(keys["tags"]) == {"string"}


def test_collection_is_found_by_name_and_by_id(client: ClientAPI) -> None:
    name = unique_name()
    created = client.create_collection(name, metadata={"topic": "films", "stars": 5, "rate": 1.0, "new": True})
    for found in (client.get_collection(name), client.get_collection_by_id(created.id)):
        assert (found.id, found.name, found.tenant, found.database) == (
            *(created.id, name),
            *("default_tenant", "default_database"),
        )
        assert found.metadata == {"topic": "films", "stars": 5, "rate": 1.0, "new": True}
        assert isinstance(found.metadata["rate"], float)
        assert found.metadata["new"] is True


def test_integers_beyond_64_bits_in_the_metadata_become_floats(wire: Wire) -> None:
    collection = wire.create(metadata={"n": 2**63, "least": -(2**63)})
    metadata = collection.describe()["metadata"]
    assert (type(metadata["n"]), type(metadata["least"])) == (float, int)
    collection.put({"new_metadata": {"m": -(2**63) - 1}})
    assert collection.describe()["metadata"] == {"m": -(2.0**63)}
    assert type(collection.describe()["metadata"]["m"]) is float


def test_default_embedding_function_is_echoed(client: ClientAPI) -> None:
    created = client.create_collection(unique_name())
    assert created.configuration_json["embedding_function"] == {"type": "known", "name": "default", "config": {}}
    assert created.schema is not None


def test_custom_embedding_function_is_echoed_verbatim(wire: Wire) -> None:
    function = {"type": "known", "name": "openai", "config": {"model": "m", "n": 1, "nested": {"x": [1, 2.5]}}}
    body = wire.create(configuration={"embedding_function": function}).describe()
    assert body["configuration_json"]["embedding_function"] == function
    for value_types in (body["schema"]["defaults"], body["schema"]["keys"]["#embedding"]):
        assert value_types["float_list"]["vector_index"]["config"]["embedding_function"] == function


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"type": "known", "name": "x", "config": {"b": 1}, "more": 1},
            {"type": "known", "name": "x", "config": {"b": 1}},
        ),
        ({"type": "legacy", "name": "x"}, {"type": "legacy"}),
        ({"type": "unknown", "config": {}}, {"type": "unknown"}),
    ],
    ids=str,
)
def test_embedding_function_is_kept_without_what_is_no_part_of_it(wire: Wire, given: Any, kept: Any) -> None:
    created, modified = wire.create(configuration={"embedding_function": given}), wire.create()
    assert modified.put({"new_configuration": {"embedding_function": given}}).status == 200
    for collection in (created, modified):
        body = collection.describe()
        assert body["configuration_json"]["embedding_function"] == kept
        described = body["schema"]["defaults"]["float_list"]["vector_index"]["config"]["embedding_function"]
        assert described == kept


def test_creating_a_collection_twice_is_a_conflict(client: ClientAPI, collection: WireCollection) -> None:
    with pytest.raises(ChromaError, match="already exists"):
        client.create_collection(collection.name)
    refusal = collection.wire.call("POST", COLLECTIONS, {"name": collection.name}).refusal
    assert refusal == (409, "ChromaError", f"Collection [{collection.name}] already exists")


def test_get_or_create_returns_the_stored_collection_untouched(client: ClientAPI) -> None:
    name = unique_name()
    first = client.get_or_create_collection(name, metadata={"v": 1}, embedding_function=None)
    again = client.get_or_create_collection(
        name, metadata={"v": 2}, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    assert again.id == first.id
    assert again.metadata == {"v": 1}
    assert again.configuration_json["hnsw"]["space"] == "l2"


def test_missing_collection_is_not_found_with_the_words_clients_look_for(client: ClientAPI) -> None:
    with pytest.raises(NotFoundError, match=r"Collection \[nowhere\] does not exist"):
        client.get_collection("nowhere")
    with pytest.raises(NotFoundError, match=r"Collection \[nowhere\] does not exist"):
        client.delete_collection("nowhere")
    with pytest.raises(NotFoundError, match="does not exist"):
        client.get_collection_by_id(uuid.UUID(ABSENT_UUID))


def test_missing_collection_messages_end_with_a_period_only_by_uuid(wire: Wire) -> None:
    by_name = wire.call("GET", f"{COLLECTIONS}/nowhere").refusal
    assert by_name == (404, "NotFoundError", "Collection [nowhere] does not exist")
    by_id = wire.call("GET", f"{COLLECTIONS}/by-id/{ABSENT_UUID}").refusal
    assert by_id == (404, "NotFoundError", f"Collection [{ABSENT_UUID}] does not exist")
    for method, path in (("GET", "/count"), ("POST", "/get"), ("PUT", "")):
        body = None if method == "GET" else {}
        refusal = wire.call(method, f"{COLLECTIONS}/{ABSENT_UUID}{path}", body).refusal
        assert refusal == (404, "NotFoundError", f"Collection [{ABSENT_UUID}] does not exist.")


def test_collection_id_that_is_no_uuid_is_refused(wire: Wire) -> None:
    message = "Collection ID is not a valid UUIDv4"
    assert wire.call("GET", f"{COLLECTIONS}/nope/count").refusal == (400, "InvalidArgumentError", message)
    assert wire.call("PUT", f"{COLLECTIONS}/nope", {}).refusal == (400, "InvalidArgumentError", message)
    message = "Validation error: collection_id: Invalid collection ID format, expected UUID"
    assert wire.call("GET", f"{COLLECTIONS}/by-id/nope").refusal == (400, "InvalidArgumentError", message)


def test_path_addresses_a_collection_by_name_even_if_it_looks_like_a_uuid(collection: WireCollection) -> None:
    refusal = collection.wire.call("GET", collection.path).refusal
    assert refusal == (404, "NotFoundError", f"Collection [{collection.id}] does not exist")


def test_other_spellings_of_a_uuid_reach_the_collection(collection: WireCollection) -> None:
    plain = collection.id.replace("-", "")
    for spelling in (collection.id.upper(), plain, f"{{{collection.id}}}", f"urn:uuid:{collection.id}"):
        assert collection.wire.call("GET", f"{COLLECTIONS}/{spelling}/count").body == 0


def test_names_in_paths_are_percent_decoded(wire: Wire) -> None:
    name = unique_name("a.b_c")
    wire.create(name)
    assert wire.call("GET", f"{COLLECTIONS}/{name.replace('a', '%61').replace('.', '%2E')}").body["name"] == name
    refusal = wire.call("GET", f"{COLLECTIONS}/a%2Fb").refusal
    assert refusal == (404, "NotFoundError", "Collection [a/b] does not exist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ab", NAME_RULE + "ab"),
        ("", NAME_RULE),
        ("a b c", NAME_RULE + "a b c"),
        ("-abc", NAME_RULE + "-abc"),
        ("abc.", NAME_RULE + "abc."),
        ("a+bcd", NAME_RULE + "a"),
        ("abc+", NAME_RULE),
        ("abc+d..e", "Expected a name that does not contains two consecutive periods (..). Got d..e"),
        ("äöü", NAME_RULE + "äöü"),
        ("x" * 513, NAME_RULE + "x" * 513),
        ("a..b", "Expected a name that does not contains two consecutive periods (..). Got a..b"),
        ("1.2.3.4", "Expected a name that is not a valid ip address. Got 1.2.3.4"),
        ("region+x", NAME_RULE + "x"),
        ("r..n+abc", "Expected a name that does not contains two consecutive periods (..). Got r..n"),
        ("region+1.2.3.4", "Expected a name that is not a valid ip address. Got 1.2.3.4"),
    ],
)
def test_collection_names_follow_the_rules(wire: Wire, collection: WireCollection, name: str, message: str) -> None:
    created = wire.call("POST", COLLECTIONS, {"name": name}).refusal
    assert created == (400, "InvalidArgumentError", "Validation error: name: " + message)
    renamed = collection.put({"new_name": name}).refusal
    assert renamed == (400, "InvalidArgumentError", "Validation error: new_name: " + message)


def test_name_may_have_512_characters(wire: Wire) -> None:
    name = unique_name().ljust(512, "x")
    assert wire.create(name).describe()["name"] == name


def test_collections_are_listed_in_the_order_of_their_uuids(client: ClientAPI, wire: Wire) -> None:
    database = unique_name("db")
    assert wire.call("POST", TENANT + "/databases", {"name": database}).status == 200
    path = f"{TENANT}/databases/{database}"
    for number in range(5):
        assert wire.call("POST", path + "/collections", {"name": f"coll-{number}"}).status == 200
    everything = wire.call("GET", path + "/collections").body
    ids = [entry["id"] for entry in everything]
    assert len(ids) == 5
    assert ids == sorted(ids)
    page = wire.call("GET", path + "/collections", params={"limit": 2, "offset": 1}).body
    assert page == everything[1:3]
    assert wire.call("GET", path + "/collections", params={"limit": 0}).body == []
    assert wire.call("GET", path + "/collections", params={"limit": 100, "offset": 0}).body == everything
    assert wire.call("GET", path + "/collections", params={"offset": 9}).body == []
    assert wire.call("GET", path + "/collections_count").body == 5


def test_client_lists_and_counts_collections(client: ClientAPI, collection: WireCollection) -> None:
    listed = client.list_collections()
    assert collection.name in [entry.name for entry in listed]
    assert client.count_collections() == len(listed)
    assert len(client.list_collections(limit=1)) == 1
    assert client.list_collections(limit=1, offset=len(listed)) == []


def test_listing_with_a_bad_limit_is_refused(wire: Wire) -> None:
    for value in ("x", "-1"):
        refusal = wire.call("GET", COLLECTIONS, params={"limit": value}).refusal
        message = "Failed to deserialize query string: limit: invalid digit found in string"
        assert refusal == (400, "InvalidArgumentError", message)


def test_deleted_collection_is_gone_and_its_name_is_free(client: ClientAPI, docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0]])
    client.delete_collection(docs.name)
    with pytest.raises(NotFoundError, match="does not exist"):
        docs.count()
    again = client.create_collection(docs.name, embedding_function=None)
    assert again.id != docs.id
    assert again.count() == 0


def test_collection_without_a_name_or_with_a_number_for_a_name_is_unprocessable(wire: Wire) -> None:
    for body in ({}, {"name": 1}, {"name": None}):
        status, error, _ = wire.call("POST", COLLECTIONS, body).refusal
        assert (status, error) == (422, "ChromaError")


def test_unknown_fields_in_create_are_ignored(wire: Wire) -> None:
    assert wire.create(colour="blue", configuration={"colour": "blue"}).count() == 0


def test_head_is_answered_where_get_is(collection: WireCollection) -> None:
    answer = collection.wire.call("HEAD", f"{COLLECTIONS}/{collection.name}")
    assert (answer.status, answer.text) == (200, "")
    assert collection.wire.call("HEAD", DATABASE + "/collections_count").status == 200


# --- configuration ---


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_space_is_taken_from_the_configuration(client: ClientAPI, space: Any) -> None:
    created = client.create_collection(unique_name(), configuration={"hnsw": {"space": space}}, embedding_function=None)
    assert client.get_collection(created.name, embedding_function=None).configuration_json["hnsw"] == {
        **HNSW_DEFAULTS,
        "space": space,
    }


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_space_is_taken_from_legacy_metadata_which_is_kept(client: ClientAPI, space: str) -> None:
    created = client.create_collection(unique_name(), metadata={"hnsw:space": space}, embedding_function=None)
    assert created.configuration_json["hnsw"]["space"] == space
    assert created.metadata == {"hnsw:space": space}


def test_all_legacy_metadata_keys_configure_the_index(wire: Wire) -> None:
    metadata = {
        **{"hnsw:space": "ip", "hnsw:construction_ef": 50, "hnsw:M": 8, "hnsw:search_ef": 20},
        **{"hnsw:num_threads": 1, "hnsw:batch_size": 50, "hnsw:sync_threshold": 500, "hnsw:resize_factor": 2.0},
    }
    assert hnsw_of(wire, metadata=metadata) == {
        **{"space": "ip", "ef_construction": 50, "max_neighbors": 8, "ef_search": 20},
        **{"sync_threshold": 500, "resize_factor": 2.0},
    }


def test_explicit_configuration_wins_entirely_over_legacy_metadata(wire: Wire) -> None:
    hnsw = hnsw_of(wire, metadata={"hnsw:space": "ip", "hnsw:M": 8}, configuration={"hnsw": {"ef_search": 77}})
    assert hnsw == {**HNSW_DEFAULTS, "ef_search": 77}


@pytest.mark.parametrize(
    "hnsw",
    [
        {},
        {"space": "l2"},
        {"space": None, "ef_search": None},
        {"space": "l2", "ef_search": 100, "resize_factor": 1.2, "batch_size": 100, "sync_threshold": 1000},
    ],
    ids=str,
)
def test_explicit_configuration_that_says_the_defaults_leaves_legacy_metadata_in_force(wire: Wire, hnsw: Any) -> None:
    metadata = {"hnsw:space": "cosine", "hnsw:M": 8}
    found = hnsw_of(wire, metadata=metadata, configuration={"hnsw": hnsw})
    assert found == {**HNSW_DEFAULTS, "space": "cosine", "max_neighbors": 8}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"hnsw:foo": 1}, "unknown key hnsw:foo; allowed: hnsw:space, hnsw:construction_ef, hnsw:M"),
        ({"hnsw:space": "cos"}, "hnsw:space: unknown variant `cos`, expected one of `cosine`, `ip`, `l2`"),
        ({"hnsw:M": "8"}, 'hnsw:M: invalid type: string "8", expected usize'),
        ({"hnsw:M": -8}, "hnsw:M: invalid value: integer `-8`, expected usize"),
        ({"hnsw:num_threads": -1}, "hnsw:num_threads: invalid value: integer `-1`, expected usize"),
        ({"hnsw:M": 2**70}, "hnsw:M: invalid type"),
        ({"hnsw:batch_size": 1}, "hnsw:batch_size must be at least 2, got 1"),
        ({"hnsw:sync_threshold": 0}, "hnsw:sync_threshold must be at least 2, got 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("configuration", [None, {"hnsw": {"space": "ip"}}], ids=str)
def test_legacy_metadata_that_cannot_be_read_is_refused(
    wire: Wire, is_reference: bool, metadata: Any, reason: str, configuration: Any
) -> None:
    fields = {"name": unique_name(), "metadata": metadata, "configuration": configuration}
    status, error, message = wire.call("POST", COLLECTIONS, fields).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("Failed to parse hnsw parameters from segment metadata")
    assert is_reference or reason in message


def test_legacy_metadata_is_not_read_beside_a_spann_configuration(wire: Wire) -> None:
    assert hnsw_of(wire, metadata={"hnsw:foo": 1}, configuration={"spann": {}}) == HNSW_DEFAULTS


def test_resize_factor_may_be_any_number(wire: Wire) -> None:
    assert hnsw_of(wire, metadata={"hnsw:resize_factor": -1.5})["resize_factor"] == -1.5
    assert hnsw_of(wire, configuration={"hnsw": {"resize_factor": -1.5}})["resize_factor"] == -1.5


def test_configuration_with_only_an_embedding_function_leaves_legacy_metadata_in_force(wire: Wire) -> None:
    function = {"type": "known", "name": "default", "config": {}}
    hnsw = hnsw_of(wire, metadata={"hnsw:space": "ip"}, configuration={"embedding_function": function})
    assert hnsw["space"] == "ip"


@pytest.mark.parametrize("configuration", [None, {}, {"hnsw": None, "spann": None, "embedding_function": None}])
def test_empty_configuration_means_defaults(wire: Wire, configuration: Any) -> None:
    assert hnsw_of(wire, configuration=configuration) == HNSW_DEFAULTS


def test_spann_configuration_becomes_hnsw_with_its_space(wire: Wire) -> None:
    body = wire.create(configuration={"spann": {"space": "cosine"}}).describe()["configuration_json"]
    assert body == {"hnsw": {**HNSW_DEFAULTS, "space": "cosine"}, "spann": None, "embedding_function": None}


def test_threads_and_batch_size_are_accepted_but_not_shown(wire: Wire) -> None:
    assert hnsw_of(wire, configuration={"hnsw": {"num_threads": 1, "batch_size": 10}}) == HNSW_DEFAULTS


@pytest.mark.parametrize(
    ("fields", "status", "error", "message"),
    [
        (
            {"configuration": {"hnsw": {"foo": 1}}},
            *(422, "ChromaError", f"configuration.hnsw.foo: unknown field `foo`, expected one of {HNSW_FIELDS}"),
        ),
        (
            {"configuration": {"hnsw": {"space": "bad"}}},
            *(422, "ChromaError", "configuration.hnsw.space: unknown variant `bad`, expected one of `"),
        ),
        (
            {"configuration": {"hnsw": {"ef_search": -1}}},
            *(422, "ChromaError", "configuration.hnsw.ef_search: invalid value: integer `-1`, expected usize"),
        ),
        (
            {"configuration": {"hnsw": {"ef_search": "9"}}},
            *(422, "ChromaError", 'configuration.hnsw.ef_search: invalid type: string "9", expected usize'),
        ),
        (
            {"configuration": {"embedding_function": {"type": "x"}}},
            *(
                422,
                "ChromaError",
                "embedding_function.type: unknown variant `x`, expected one of `legacy`, `known`, `unknown`",
            ),
        ),
        ({"configuration": {"embedding_function": "x"}}, 422, "ChromaError", "configuration.embedding_function"),
        ({"configuration": {"embedding_function": {"name": "x"}}}, 422, "ChromaError", "embedding_function"),
        (
            {"configuration": {"hnsw": {}, "spann": {}}},
            *(400, "InvalidArgumentError", "Multiple vector index configurations provided"),
        ),
        (
            {"metadata": {"hnsw:foo": 1}},
            *(400, "InvalidArgumentError", "Failed to parse hnsw parameters from segment metadata"),
        ),
        (
            {"metadata": {"hnsw:space": "bad"}},
            *(400, "InvalidArgumentError", "Failed to parse hnsw parameters from segment metadata"),
        ),
        ({"metadata": {}}, 400, "InvalidArgumentError", "Validation error: metadata: Metadata cannot be empty"),
        ({"metadata": {"a": None}}, 422, "ChromaError", "metadata.a: data did not match any variant"),
        ({"metadata": {"a": {"b": 1}}}, 422, "ChromaError", "metadata.a: data did not match any variant"),
        (
            {"metadata": {"#a": 1}},
            *(400, "InvalidArgumentError", "Validation error: metadata: Metadata key cannot start with '#' or '$': #a"),
        ),
        (
            {"metadata": {"$a": 1}},
            *(400, "InvalidArgumentError", "Validation error: metadata: Metadata key cannot start with '#' or '$': $a"),
        ),
        ({"metadata": {"": 1}}, 400, "InvalidArgumentError", "Validation error: metadata: Metadata key cannot be empty"),
        ({"schema": {"keys": {}}}, 422, "ChromaError", "missing field `defaults`"),
        ({"get_or_create": "yes"}, 422, "ChromaError", "get_or_create"),
    ],
    ids=str,
)
def test_bad_collection_is_refused_and_not_created(
    wire: Wire, fields: dict[str, Any], status: int, error: str, message: str
) -> None:
    name = unique_name()
    refusal = wire.call("POST", COLLECTIONS, {"name": name, **fields}).refusal
    assert refusal[:2] == (status, error)
    assert message in refusal[2]
    assert wire.call("GET", f"{COLLECTIONS}/{name}").status == 404


def test_schema_and_configuration_together_are_refused(wire: Wire) -> None:
    off = {"string": {"string_inverted_index": {"enabled": False, "config": {}}}}
    body = {
        "name": unique_name(),
        "schema": {"defaults": {}, "keys": {"topic": off}},
        "configuration": {"hnsw": {"space": "cosine"}},
    }
    message = "Failed to reconcile schema: Cannot set both collection config and schema simultaneously"
    assert wire.call("POST", COLLECTIONS, body).refusal == (400, "InvalidArgumentError", message)


def test_key_without_an_index_cannot_be_filtered(wire: Wire) -> None:
    off = {"string": {"string_inverted_index": {"enabled": False, "config": {}}}}
    collection = wire.create(schema={"defaults": {}, "keys": {"topic": off}})
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"topic": "x"}])
    message = "Cannot filter using metadata key 'topic' with type 'Str' because indexing is disabled"
    for verb, body in (("get", {}), ("query", {"query_embeddings": [[1]]}), ("delete", {})):
        refusal = collection.post(verb, {**body, "where": {"topic": "x"}}).refusal
        assert refusal == (400, "InvalidArgumentError", message)
    assert collection.ids(where={"topic": {"$gt": 1}}) == []


def test_schema_of_the_client_survives_the_round_trip(client: ClientAPI) -> None:
    schema = chromadb.Schema().create_index(
        config=chromadb.VectorIndexConfig(space="cosine"), key=None
    ).delete_index(config=chromadb.StringInvertedIndexConfig(), key="raw")  # fmt: skip
    created = client.create_collection(unique_name(), schema=schema, embedding_function=None)
    found = client.get_collection(created.name, embedding_function=None)
    assert found.configuration_json["hnsw"]["space"] == "cosine"
    assert found.schema is not None
    raw = found.schema.keys["raw"].string
    assert raw is not None
    assert raw.string_inverted_index is not None
    assert raw.string_inverted_index.enabled is False


# --- dimension ---


def test_dimension_is_null_until_the_first_write_and_stays_after_the_last_delete(collection: WireCollection) -> None:
    assert collection.describe()["dimension"] is None
    collection.add(ids=["a"], embeddings=[[1, 2, 3]])
    assert collection.describe()["dimension"] == 3
    collection.delete(ids=["a"])
    assert collection.describe()["dimension"] == 3
    refusal = collection.post("add", {"ids": ["a"], "embeddings": [[1, 2]]}).refusal
    assert refusal == (400, "InvalidArgumentError", "Collection expecting embedding with dimension of 3, got 2")


def test_wrong_dimension_is_an_invalid_argument_error(docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0, 2.0]])
    with pytest.raises(InvalidArgumentError, match="expecting embedding with dimension of 2, got 3"):
        docs.upsert(ids=["b"], embeddings=[[1.0, 2.0, 3.0]])
    with pytest.raises(InvalidArgumentError, match="expecting embedding with dimension of 2, got 1"):
        docs.update(ids=["a"], embeddings=[[1.0]])
    assert docs.count() == 1


# --- modify ---


def test_modify_renames_and_replaces_the_metadata(client: ClientAPI) -> None:
    created = client.create_collection(unique_name(), metadata={"a": 1, "b": 2}, embedding_function=None)
    old, new = created.name, unique_name("renamed")
    created.add(ids=["a"], embeddings=[[1.0]])
    created.modify(name=new, metadata={"c": 3})
    found = client.get_collection(new, embedding_function=None)
    assert (found.id, found.metadata, found.count()) == (created.id, {"c": 3}, 1)
    with pytest.raises(NotFoundError, match="does not exist"):
        client.get_collection(old)


def test_modify_changes_the_configuration(client: ClientAPI, docs: chromadb.Collection) -> None:
    docs.modify(configuration={"hnsw": {"ef_search": 55}})
    found = client.get_collection(docs.name, embedding_function=None)
    assert found.configuration_json["hnsw"] == {**HNSW_DEFAULTS, "ef_search": 55}


def test_modify_of_the_configuration_shows_in_the_schema_too(collection: WireCollection) -> None:
    assert collection.put({"new_configuration": {"hnsw": {"ef_search": 55}}}).body == {}
    vector_index = collection.describe()["schema"]["keys"]["#embedding"]["float_list"]["vector_index"]
    assert vector_index["config"]["hnsw"]["ef_search"] == 55


@pytest.mark.parametrize("body", [{}, {"new_name": None, "new_metadata": None, "new_configuration": None}])
def test_empty_modification_changes_nothing(collection: WireCollection, body: Any) -> None:
    before = collection.describe()
    assert collection.put(body).body == {}
    assert collection.describe() == before


def test_renaming_to_its_own_name_is_allowed(collection: WireCollection) -> None:
    assert collection.put({"new_name": collection.name}).body == {}


def test_null_values_of_new_metadata_are_dropped(collection: WireCollection) -> None:
    assert collection.put({"new_metadata": {"a": 1, "b": None}}).body == {}
    assert collection.describe()["metadata"] == {"a": 1}


def test_new_metadata_of_nulls_alone_leaves_none(wire: Wire) -> None:
    collection = wire.create(metadata={"a": 1})
    assert collection.put({"new_metadata": {"a": None}}).body == {}
    assert collection.describe()["metadata"] is None


def test_space_cannot_be_changed(wire: Wire) -> None:
    collection = wire.create(configuration={"hnsw": {"space": "cosine"}})
    assert collection.put({"new_metadata": {"hnsw:space": "ip"}}).status == 200
    body = collection.describe()
    assert body["metadata"] == {"hnsw:space": "ip"}
    assert body["configuration_json"]["hnsw"]["space"] == "cosine"
    status, error, message = collection.put({"new_configuration": {"hnsw": {"space": "l2"}}}).refusal
    assert (status, error) == (422, "ChromaError")
    fields = "`ef_search`, `max_neighbors`, `num_threads`, `resize_factor`, `sync_threshold`, `batch_size`"
    assert f"new_configuration.hnsw.space: unknown field `space`, expected one of {fields}" in message


def test_empty_new_metadata_is_refused(collection: WireCollection) -> None:
    message = "Validation error: new_metadata: Metadata cannot be empty"
    assert collection.put({"new_metadata": {}}).refusal == (400, "InvalidArgumentError", message)


def test_renaming_to_a_taken_name_fails_and_changes_nothing(collection: WireCollection) -> None:
    taken = collection.wire.create()
    assert collection.put({"new_name": taken.name}).status in (409, 500)
    assert collection.describe()["name"] == collection.name


@pytest.mark.reference_differs
def test_renaming_to_a_taken_name_is_a_conflict(collection: WireCollection) -> None:
    taken = collection.wire.create()
    status, error, message = collection.put({"new_name": taken.name}).refusal
    assert (status, error) == (409, "ChromaError")
    assert "already exists" in message


@pytest.mark.reference_differs
def test_list_in_collection_metadata_is_kept_or_refused(wire: Wire) -> None:
    name = unique_name()
    answer = wire.call("POST", COLLECTIONS, {"name": name, "metadata": {"tags": ["x", "y"]}})
    if answer.status == 200:
        assert wire.call("GET", f"{COLLECTIONS}/{name}").body["metadata"] == {"tags": ["x", "y"]}
    else:
        assert answer.refusal[:2] == (400, "InvalidArgumentError")


def test_resource_name_without_a_database_is_no_crn(wire: Wire) -> None:
    status, error, message = wire.call("GET", "/api/v2/collections/nope").refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("Validation error: crn: CRN must be in the format")


@pytest.mark.reference_differs
def test_collection_of_an_unknown_resource_is_not_found(wire: Wire) -> None:
    assert wire.call("GET", "/api/v2/collections/nobody:nothing:nowhere").refusal[:2] == (404, "NotFoundError")
