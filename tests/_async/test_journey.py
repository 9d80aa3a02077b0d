"""What a user does with a client, the same whichever way it reaches its engine."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from chroma_async import AsyncAdminClient, AsyncClientAPI, AsyncCollection, EmbeddingFunction, errors, wrap

pytestmark = pytest.mark.anyio


def count_letters(texts: list[str]) -> list[list[float]]:
    return [[float(text.count("a")), float(text.count("b")), 1.0] for text in texts]


async def count_letters_async(texts: list[str]) -> np.ndarray:
    return np.asarray(count_letters(texts), dtype=np.float64)


class Letters(EmbeddingFunction):
    """Counts one letter in texts; asked a question, it counts the letter in upper case."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def __call__(self, input: list[str]) -> list[list[float]]:  # noqa: A002
        return [[float(text.count(self.letter)), 1.0] for text in input]

    def embed_query(self, input: list[str]) -> list[list[float]]:  # noqa: A002
        return [[float(text.count(self.letter.upper())), 1.0] for text in input]

    @staticmethod
    def name() -> str:
        return "letters"

    def get_config(self) -> dict[str, str]:
        return {"letter": self.letter}

    @staticmethod
    def build_from_config(config: dict[str, str]) -> Letters:
        return Letters(config["letter"])

    def default_space(self) -> str:
        return "ip"


async def test_server_is_alive_and_says_what_it_takes(client: AsyncClientAPI) -> None:
    assert await client.heartbeat() > 1_700_000_000 * 10**9
    assert isinstance(await client.get_version(), str)
    assert await client.get_max_batch_size() >= 5461
    assert (await client.get_user_identity()).tenant == "default_tenant"


async def test_added_records_are_returned_in_order_with_what_was_asked_for(docs: AsyncCollection) -> None:
    result = await docs.get()
    assert result["ids"] == ["east", "north", "north-east"]
    assert result["documents"] == ["the sun rises", "cold wind", None]
    assert result["metadatas"] == [{"degrees": 90, "tags": ["warm", "dry"]}, {"degrees": 0}, None]
    assert result["embeddings"] is None
    assert result["uris"] is None
    assert result["data"] is None
    assert result["included"] == ["metadatas", "documents"]


async def test_embeddings_come_back_as_one_array(docs: AsyncCollection) -> None:
    result = await docs.get(include=["embeddings"])
    assert result["embeddings"] is not None
    assert result["embeddings"].dtype == np.float32
    np.testing.assert_allclose(result["embeddings"], [[1, 0], [0, 1], [1, 1]], atol=1e-6)
    assert result["documents"] is None


async def test_records_are_found_by_id_filter_and_page(docs: AsyncCollection) -> None:
    assert (await docs.get("north"))["ids"] == ["north"]
    assert (await docs.get(["north", "unknown"]))["ids"] == ["north"]
    assert (await docs.get(where={"degrees": {"$gt": 10}}))["ids"] == ["east"]
    assert (await docs.get(where={"$or": [{"degrees": 0}, {"degrees": 90}]}))["ids"] == ["east", "north"]
    assert (await docs.get(where={"tags": {"$contains": "dry"}}))["ids"] == ["east"]
    assert (await docs.get(where_document={"$contains": "wind"}))["ids"] == ["north"]
    assert (await docs.get(limit=1, offset=1))["ids"] == ["north"]
    assert (await docs.peek(1))["ids"] == ["east"]
    assert await docs.count() == 3


async def test_nearest_records_come_first(docs: AsyncCollection) -> None:
    result = await docs.query([2, 0.5], n_results=2, include=["distances", "embeddings"])
    assert result["ids"] == [["east", "north-east"]]
    assert result["distances"] is not None
    cosine = 1 - np.asarray([2.0, 2.5 / np.sqrt(2)]) / np.sqrt(4.25)
    np.testing.assert_allclose(result["distances"][0], cosine, atol=1e-6)
    assert result["embeddings"] is not None
    np.testing.assert_allclose(result["embeddings"][0], [[1, 0], [1, 1]], atol=1e-6)
    assert result["documents"] is None


async def test_several_queries_are_answered_in_parallel_lists(docs: AsyncCollection) -> None:
    result = await docs.query(np.asarray([[1, 0], [0, 1]], dtype=np.float16), n_results=1)
    assert result["ids"] == [["east"], ["north"]]
    assert result["documents"] == [["the sun rises"], ["cold wind"]]
    assert result["metadatas"] == [[{"degrees": 90, "tags": ["warm", "dry"]}], [{"degrees": 0}]]


async def test_a_query_is_narrowed_by_filters_and_ids(docs: AsyncCollection) -> None:
    assert (await docs.query([1, 0], where={"degrees": {"$in": [0]}}))["ids"] == [["north"]]
    assert (await docs.query([1, 0], where_document={"$regex": "^cold"}))["ids"] == [["north"]]
    assert (await docs.query([1, 0], ids=["north", "north-east"]))["ids"] == [["north-east", "north"]]
    assert (await docs.query([1, 0], where={"degrees": 7}))["ids"] == [[]]


@pytest.mark.reference_differs
async def test_a_query_may_be_narrowed_to_nothing_and_to_the_same_id_twice(docs: AsyncCollection) -> None:
    nothing = await docs.query(query_embeddings=[1.0, 0.0], ids=[])
    assert (nothing["ids"], nothing["documents"], nothing["distances"]) == ([[]], [[]], [[]])
    assert (await docs.query(query_embeddings=[1.0, 0.0], ids=["north", "unknown", "north"]))["ids"] == [["north"]]


async def test_a_negative_filter_leaves_out_records_without_the_field_unless_told_otherwise(docs: AsyncCollection) -> None:
    assert (await docs.get(where={"degrees": {"$ne": 90}}))["ids"] == ["north"]
    assert (await docs.get(where={"degrees": {"$ne": 90}}, missing="include"))["ids"] == ["north", "north-east"]
    assert (await docs.query([1, 0], where={"degrees": {"$ne": 90}}))["ids"] == [["north"]]
    assert await docs.delete(where={"degrees": {"$ne": 90}}) == {"deleted": 1}
    assert (await docs.get())["ids"] == ["east", "north-east"]


async def test_upsert_replaces_and_merges_metadata(docs: AsyncCollection) -> None:
    await docs.upsert(
        ids=["east", "south"],
        embeddings=np.asarray([[1, 0.5], [0, -1]]),
        metadatas=[{"new": True, "tags": None}, {"x": 1.5}],
    )
    result = await docs.get(["east", "south"], include=["metadatas", "documents"])
    assert result["metadatas"] == [{"degrees": 90, "new": True}, {"x": 1.5}]
    assert result["documents"] == ["the sun rises", None]


async def test_update_changes_what_is_given_and_ignores_unknown_ids(docs: AsyncCollection) -> None:
    await docs.update(ids=["north", "unknown"], metadatas=[{"degrees": 1}, {"degrees": 2}])
    result = await docs.get(include=["metadatas", "embeddings", "documents"])
    assert result["ids"] == ["east", "north", "north-east"]
    assert result["metadatas"] is not None
    assert result["metadatas"][1] == {"degrees": 1}
    assert result["documents"] == ["the sun rises", "cold wind", None]
    assert result["embeddings"] is not None
    assert result["embeddings"][1].tolist() == [0, 1]


async def test_adding_an_existing_id_keeps_the_first_value(docs: AsyncCollection) -> None:
    await docs.add("east", [5, 5], documents="another")
    assert (await docs.get("east"))["documents"] == ["the sun rises"]


async def test_deleted_records_are_gone(docs: AsyncCollection) -> None:
    assert await docs.delete("east") == {"deleted": 1}
    assert await docs.delete(where={"degrees": 0}) == {"deleted": 1}
    assert (await docs.get())["ids"] == ["north-east"]
    assert (await docs.query([1, 0]))["ids"] == [["north-east"]]


async def test_uris_are_kept_and_loaded(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(
        f"pictures-{uuid4()}", data_loader=lambda uris: [uri.upper() for uri in uris]
    )
    await collection.add(["a", "b"], [[1, 2], [3, 4]], uris=["file:a", "file:b"])
    assert (await collection.get(include=["uris"]))["uris"] == ["file:a", "file:b"]
    loaded = await collection.get(include=["data"])
    assert loaded["data"] == ["FILE:A", "FILE:B"]
    assert loaded["uris"] is None
    assert (await collection.query([3, 4], n_results=1, include=["data"]))["data"] == [["FILE:B"]]


async def test_a_wrong_dimension_is_refused_and_changes_nothing(docs: AsyncCollection) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="dimension of 2, got 3"):
        await docs.add("up", [1, 2, 3])
    with pytest.raises(errors.InvalidArgumentError, match="dimension of 2, got 3"):
        await docs.query([1, 2, 3])
    assert await docs.count() == 3


async def test_ids_are_checked_before_anything_is_sent(docs: AsyncCollection) -> None:
    with pytest.raises(errors.DuplicateIDError, match="repeated: a"):
        await docs.add(["a", "a"], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="one item per id"):
        await docs.add(["a", "b"], [[1, 2]])
    with pytest.raises(ValueError, match="say what to delete"):
        await docs.delete()


async def test_collections_are_created_listed_found_and_deleted(client: AsyncClientAPI) -> None:
    name = f"books-{uuid4()}"
    before = await client.count_collections()
    made = await client.create_collection(name, metadata={"shelf": 3, "open": True})
    assert isinstance(made.id, UUID)
    assert made.metadata == {"shelf": 3, "open": True}
    assert (made.tenant, made.database) == ("default_tenant", "default_database")
    assert await client.get_collection(name) == made
    assert await client.get_collection_by_id(made.id) == made
    assert await client.get_or_create_collection(name, metadata={"shelf": 4}) == made
    assert made in await client.list_collections()
    assert await client.count_collections() == before + 1
    with pytest.raises(errors.UniqueConstraintError, match="already exists"):
        await client.create_collection(name)
    await client.delete_collection(name)
    with pytest.raises(errors.NotFoundError, match="does not exist"):
        await client.get_collection(name)
    with pytest.raises(errors.NotFoundError):
        await made.count()


async def test_names_that_are_no_texts_are_refused(client: AsyncClientAPI) -> None:
    admin = AsyncAdminClient.of(client)
    for call in (client.create_collection, client.get_collection, client.delete_collection, client.set_database):
        with pytest.raises(ValueError, match=r"(name|database) must be a text\. got=None"):
            await call(None)  # type: ignore[operator]
    for call in (client.set_tenant, admin.create_tenant, admin.get_tenant, admin.get_database, admin.delete_database):
        with pytest.raises(ValueError, match=r"(name|tenant) must be a text\. got=5"):
            await call(5)  # type: ignore[operator]


async def test_an_embedding_function_must_be_one(client: AsyncClientAPI) -> None:
    name = f"docs-{uuid4()}"
    await client.create_collection(name, embedding_function=None)
    for call in (client.create_collection, client.get_or_create_collection, client.get_collection):
        with pytest.raises(ValueError, match=r"called with a list of texts\. got='letters'"):
            await call(name, embedding_function="letters")  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"is a class; make one, such as Letters\(\.\.\.\)"):
            await call(name, embedding_function=Letters)  # type: ignore[operator]


async def test_configuration_is_what_was_asked_for(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(
        f"tuned-{uuid4()}", configuration={"hnsw": {"space": "ip", "ef_search": 55}}, embedding_function=None
    )
    assert collection.configuration["hnsw"]["space"] == "ip"
    assert collection.configuration_json["hnsw"]["ef_search"] == 55
    assert collection.configuration["spann"] is None
    assert collection.configuration["embedding_function"] is None


async def test_modified_collection_is_renamed_and_remembers(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(f"old-{uuid4()}", metadata={"a": 1})
    name = f"new-{uuid4()}"
    await collection.modify(name=name, metadata={"b": 2}, configuration={"hnsw": {"ef_search": 77}})
    assert (collection.name, collection.metadata) == (name, {"b": 2})
    found = await client.get_collection(name)
    assert found == collection
    assert found.configuration["hnsw"]["ef_search"] == 77
    with pytest.raises(ValueError, match=r"hnsw\.space: unknown field `space`, expected one of `ef_search`, "):
        await collection.modify(configuration={"hnsw": {"space": "ip"}})
    await collection.modify(metadata={"b": None})
    assert collection.metadata is None
    assert (await client.get_collection(name)).metadata is None
    with pytest.warns(UserWarning, match=r"'ef_search' is no part of a configuration.*'hnsw': {'ef_search': \.\.\.}"):
        await collection.modify(configuration={"ef_search": 5})
    assert (await client.get_collection(name)).configuration["hnsw"]["ef_search"] == 77


async def test_texts_are_embedded_by_a_plain_function(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(f"plain-{uuid4()}", embedding_function=count_letters)
    await collection.add(["aa", "bb"], documents=["aa", "bb"])
    assert (await collection.query(query_texts="aaa", n_results=1))["ids"] == [["aa"]]
    assert collection.configuration_json["embedding_function"] == {"type": "legacy"}


async def test_texts_are_embedded_by_an_async_function(client: AsyncClientAPI) -> None:
    collection = await client.create_collection(f"async-{uuid4()}", embedding_function=count_letters_async)
    await collection.add(["aa", "bb"], documents=["aa", "bb"])
    assert (await collection.query(query_texts=["bbb", "a"], n_results=1))["ids"] == [["bb"], ["aa"]]
    await collection.update("aa", documents="bbbb")
    assert (await collection.query(query_texts="bbbb", n_results=1))["ids"] == [["aa"]]


async def test_a_wrapped_function_is_found_again_by_its_name(client: AsyncClientAPI) -> None:
    name = f"wrapped-{uuid4()}"
    made = await client.create_collection(name, embedding_function=wrap(count_letters_async, name="letters-async"))
    await made.add(["aa", "bb"], documents=["aa", "bb"])
    found = await client.get_collection(name)
    assert (await found.query(query_texts="b", n_results=1))["ids"] == [["bb"]]
    with pytest.raises(ValueError, match="another embedding function"):
        await client.get_collection(name, embedding_function=Letters("a"))


async def test_an_embedding_function_is_rebuilt_from_its_configuration(client: AsyncClientAPI) -> None:
    name = f"named-{uuid4()}"
    await client.create_collection(name, embedding_function=Letters("x"))
    found = await client.get_collection(name)
    assert found.configuration_json["embedding_function"] == {"type": "known", "name": "letters", "config": {"letter": "x"}}
    assert found.configuration["hnsw"]["space"] == "ip"
    rebuilt = found.configuration["embedding_function"]
    assert isinstance(rebuilt, Letters)
    assert rebuilt.letter == "x"
    await found.add(["one", "two"], documents=["x", "xx"])
    stored = await found.get(include=["embeddings"])
    assert stored["embeddings"] is not None
    assert stored["embeddings"].tolist() == [[1, 1], [2, 1]]
    asked = await found.query(query_texts="xX", n_results=1, include=["distances"])
    assert asked["distances"] == [[1.0 - (1 * 2 + 1)]]


async def test_texts_without_an_embedding_function_are_refused_with_advice(docs: AsyncCollection) -> None:
    with pytest.raises(ValueError, match=r"no embedding function; pass embedding_function=.*embeddings="):
        await docs.add("x", documents="a text")
    with pytest.raises(ValueError, match="no embedding function"):
        await docs.query(query_texts="a text")


async def test_tenants_and_databases_are_kept_apart(client: AsyncClientAPI) -> None:
    admin = AsyncAdminClient.of(client)
    tenant, database = f"tenant-{uuid4()}", f"db-{uuid4()}"
    await admin.create_tenant(tenant)
    await admin.create_database(database, tenant)
    assert await admin.get_tenant(tenant) == {"name": tenant}
    assert (await admin.get_database(database, tenant))["name"] == database
    assert [found["name"] for found in await admin.list_databases(tenant=tenant)] == [database]
    name = f"same-{uuid4()}"
    here = await client.create_collection(name)
    await client.set_tenant(tenant, database)
    there = await client.create_collection(name)
    assert (there.tenant, there.database) == (tenant, database)
    assert here.id != there.id
    assert [found.name for found in await client.list_collections()] == [name]
    with pytest.raises(errors.NotFoundError):
        await client.set_database("no-such-database")
    assert client.database == database
    await admin.delete_database(database, tenant)
    with pytest.raises(errors.NotFoundError):
        await admin.get_database(database, tenant)


@pytest.mark.reference_differs
async def test_a_write_says_where_it_stands_and_waits_when_asked_to(docs: AsyncCollection, client: AsyncClientAPI) -> None:
    first = await docs.upsert("a", [1, 2])
    second = await docs.update("a", [1, 3], wait="applied", wait_seconds=20)
    third = await docs.delete("a", wait="indexed")
    assert (first.reached, second.reached, third.reached) == ("committed", "indexed", "indexed")
    assert first.lsn is not None
    assert (second.lsn, third.lsn) == (first.lsn + 1, first.lsn + 2)
    assert third == {"deleted": 1}
    flushed = await docs.flush(wait="indexed")
    assert (flushed.lsn, flushed.reached, flushed.waiting) == (third.lsn, "indexed", [])
    await docs.add("b", [1, 2])
    assert (await client.flush()).waiting == []
    assert (await docs.get_indexing_status()).num_unindexed_ops == 0


@pytest.mark.reference_differs
async def test_a_write_with_a_key_happens_once(docs: AsyncCollection) -> None:
    first = await docs.upsert("a", [1, 2], idempotency_key="once")
    await docs.upsert("a", [3, 4])
    assert await docs.upsert("a", [1, 2], idempotency_key="once") == first
    assert (await docs.get("a", include=["embeddings"]))["embeddings"].tolist() == [[3, 4]]  # type: ignore[union-attr]
    with pytest.raises(errors.ChromaError, match="used for another write"):
        await docs.delete("a", idempotency_key="once")


async def test_what_can_not_be_waited_for_is_refused_before_anything_is_sent(docs: AsyncCollection) -> None:
    with pytest.raises(ValueError, match=r"wait must be one of committed, applied, indexed\. got='soon'"):
        await docs.add("a", [1, 2], wait="soon")  # type: ignore[arg-type]
    for seconds in (-1, 5000, "1", True, float("nan")):
        with pytest.raises(ValueError, match="wait_seconds must be a number from 0 to 3600"):
            await docs.flush(wait_seconds=seconds)  # type: ignore[arg-type]
    assert await docs.count() == 3


async def test_what_can_not_be_asked_for_is_refused_before_anything_is_embedded(client: AsyncClientAPI) -> None:
    embedded: list[Any] = []

    def embed(texts: list[str]) -> list[list[float]]:
        embedded.append(texts)
        return [[1.0, 2.0] for _ in texts]

    docs = await client.create_collection(f"unasked-{uuid4()}", embedding_function=embed)
    for write in (docs.add, docs.upsert, docs.update):
        with pytest.raises(ValueError, match="wait must be one of"):
            await write("a", documents="text", wait="soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read_level: unknown level"):
        await docs.query(query_texts="text", read_level="soon")
    assert embedded == []


async def test_a_closed_client_says_so(client: AsyncClientAPI) -> None:
    await client.aclose()
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.heartbeat()


@pytest.mark.parametrize("key", ["", "a\nb", "a b", "ü", "x" * 256, 7])
async def test_what_is_no_key_is_refused_before_anything_is_sent(docs: AsyncCollection, key: Any) -> None:
    for write in (docs.add, docs.upsert, docs.update):
        with pytest.raises(ValueError, match="1 to 255 visible ASCII"):
            await write(["a"], [[1, 2]], idempotency_key=key)
    with pytest.raises(ValueError, match="1 to 255 visible ASCII"):
        await docs.delete(["a"], idempotency_key=key)
