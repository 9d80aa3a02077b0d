"""Our clients offer what Chroma's do: same names, parameters, order and defaults. docs/compatibility.md lists the rest."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import chromadb
import pytest
from tests.api.surface import differences, surface

import chroma_async
from chroma_async import errors

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEADING = "## Python surface"


def listed() -> list[str]:
    """The names of the table: each row may have several."""
    section = PAGE.read_text(encoding="utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_difference_is_in_the_table() -> None:
    unlisted = {name: how for name, how in differences().items() if name not in listed()}
    assert unlisted == {}, f"make them equal, or say why not in {PAGE.name}: name: Chroma | we"


def test_every_row_of_the_table_is_a_difference() -> None:
    assert sorted(listed()) == sorted(set(listed()) & differences().keys())


def test_the_surface_is_seen() -> None:
    seen = {name: str(found) for name, found in surface(ours=False).items()}
    assert seen["HttpClient"].startswith("callable (host='localhost', port=8000, ssl=False, headers=None")
    assert seen["AsyncCollection.delete"] == "async method (ids=None, where=None, where_document=None, limit=None)"
    assert seen["Collection.schema"] == "property"
    assert {"errors.NotFoundError", "Settings.allow_reset", "Where", "HnswIndexConfig.ef_search", "QueryResult.uris"} <= set(
        seen
    )
    assert len(seen) > 300


def test_a_missing_name_and_another_default_are_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    before = differences()
    monkeypatch.delattr(chroma_async.Collection, "peek")
    monkeypatch.setattr(chroma_async.Collection, "modify", lambda self, metadata=None, name=None, configuration=None: None)
    assert differences().keys() - before.keys() == {"Collection.peek", "Collection.modify"}


def test_both_colours_offer_the_same() -> None:
    for ours, twin in (
        (chroma_async.AsyncClientAPI, chroma_async.ClientAPI),
        (chroma_async.AsyncCollection, chroma_async.Collection),
        (chroma_async.AsyncAdminClient, chroma_async.AdminClient),
    ):
        public = {name for name in dir(ours) if not name.startswith("_")} - {"aclose"}
        assert public == {name for name in dir(twin) if not name.startswith("_")}


def test_async_constructors_take_what_the_sync_ones_take() -> None:
    for name in ("Client", "HttpClient", "PersistentClient", "EphemeralClient", "AdminClient"):
        ours, twin = getattr(chroma_async, f"Async{name}"), getattr(chroma_async, name)
        assert str(inspect.signature(ours)) == str(inspect.signature(twin))


# ---- what the names do


def test_client_is_what_the_settings_say(tmp_path: Path) -> None:
    kept = chroma_async.Settings(is_persistent=True, persist_directory=str(tmp_path / "data"))
    with chroma_async.Client(kept) as client:
        client.create_collection("kept", embedding_function=None)
    with chroma_async.Client(kept) as client:
        assert client.count_collections() == 1
    with chroma_async.Client() as client:
        assert client.count_collections() == 0
    with pytest.raises(errors.ServerUnreachableError, match="server=localhost:1 "):
        chroma_async.Client(chroma_async.Settings(chroma_server_host="localhost", chroma_server_http_port=1))


def test_configured_settings_are_those_of_clients_without(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(chroma_async.configure)
    assert chroma_async.get_settings() == chroma_async.Settings()
    chroma_async.configure(allow_reset=True)
    assert chroma_async.get_settings().allow_reset
    with chroma_async.Client() as client:
        assert client.reset()
    with pytest.raises(ValueError, match="did you mean allow_reset"):
        chroma_async.configure(alow_reset=True)


def test_what_a_single_node_lacks_is_refused_in_plain_words() -> None:
    with chroma_async.EphemeralClient() as client:
        collection = client.create_collection("docs", embedding_function=None)
        with pytest.raises(errors.UnimplementedError, match="Search operation is not implemented"):
            collection.search(chromadb.Search().rank(chromadb.Knn(query=[0.1])))
        with pytest.raises(errors.UnimplementedError, match="forking is unsupported"):
            collection.fork("copy")
        with pytest.raises(errors.UnimplementedError, match="Count forks is unsupported"):
            collection.fork_count()
        with pytest.raises(errors.UnimplementedError, match="attached functions are not implemented"):
            collection.attach_function("statistics", "stats", "docs-stats", {"a": 1})
        with pytest.raises(errors.NotFoundError, match="Attached function not found"):
            collection.get_attached_function("stats")
        with pytest.raises(errors.UnimplementedError, match="attached functions are not implemented"):
            collection.detach_function("stats", delete_output_collection=True)


def test_a_collection_gives_its_model() -> None:
    with chroma_async.EphemeralClient() as client:
        collection = client.create_collection("docs", embedding_function=None)
        model: Any = collection.get_model()
        assert (str(collection.id), collection.name, collection.tenant) == (model.id, model.name, model.tenant)


def test_a_function_for_chroma_may_name_what_it_embeds() -> None:
    class Lengths(chroma_async.EmbeddingFunction[chroma_async.Documents]):  # type: ignore[misc]
        def __call__(self, input: chroma_async.Documents) -> list[list[float]]:  # noqa: A002
            return [[float(len(text))] for text in input]

    with chroma_async.EphemeralClient() as client:
        collection = client.create_collection("docs", embedding_function=Lengths())
        collection.add(["1"], documents=["four"])
        assert collection.query(query_texts="five!")["distances"] == [[1.0]]


def test_modules_are_where_chromas_are() -> None:
    from chroma_async.config import Settings
    from chroma_async.errors import ChromaError, NotFoundError

    assert Settings is chroma_async.Settings
    assert issubclass(NotFoundError, ChromaError)
    assert chroma_async.config.Settings is Settings
    assert chroma_async.__version__


def test_modules_of_helpers_are_where_chromas_are() -> None:
    import chroma_async as chromadb
    from chroma_async.api import ClientAPI
    from chroma_async.api.models.AsyncCollection import AsyncCollection
    from chroma_async.api.models.Collection import Collection
    from chroma_async.api.types import Documents, EmbeddingFunction
    from chroma_async.utils import embedding_functions

    assert (Collection, AsyncCollection) == (chroma_async.Collection, chroma_async.AsyncCollection)
    assert (ClientAPI, EmbeddingFunction, Documents) == (
        chroma_async.ClientAPI, chroma_async.EmbeddingFunction, chroma_async.Documents,
    )  # fmt: skip
    assert chromadb.utils.embedding_functions is embedding_functions
    assert isinstance(chromadb.api.types.DefaultEmbeddingFunction(), embedding_functions.DefaultEmbeddingFunction)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("types", "Collection Database Metadata Tenant UpdateMetadata Vector Where WhereDocument"),
        (
            "api.types",
            "Document Documents Embeddable Embedding Embeddings ID IDs Image Images Include Loadable Metadata Metadatas",
        ),
        (
            "api.types",
            "OneOrMany PyEmbedding PyEmbeddings QueryResult GetResult Schema Space URI URIs UpdateMetadata Vector Where",
        ),
    ],
)
def test_names_for_annotations_are_where_chromas_are(module: str, names: str) -> None:
    for package in ("chromadb", "chroma_async"):
        found = vars(importlib.import_module(f"{package}.{module}"))
        assert set(names.split()) - found.keys() == set()


def test_embedding_functions_that_are_absent_say_what_to_pass_instead() -> None:
    from chroma_async.utils import embedding_functions

    theirs = set(chromadb.utils.embedding_functions.__all__)
    assert theirs - set(embedding_functions.__all__) == embedding_functions.ABSENT
    with pytest.raises(ImportError, match=r"HuggingFaceEmbeddingFunction is not part of chroma_async\. Pass"):
        from chroma_async.utils.embedding_functions import HuggingFaceEmbeddingFunction  # noqa: F401
    with pytest.raises(AttributeError, match="NoSuchFunction"):
        embedding_functions.NoSuchFunction  # noqa: B018
    with pytest.raises(AttributeError, match="no_such_module"):
        chroma_async.utils.no_such_module  # noqa: B018


def test_batches_have_the_size_that_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    from chroma_async.utils.batch_utils import create_batches

    with chroma_async.EphemeralClient() as client:
        monkeypatch.setattr(client, "get_max_batch_size", lambda: 2)
        collection = client.create_collection("docs", embedding_function=None)
        vectors = [[float(number)] for number in range(5)]
        for batch in create_batches(client, ["a", "b", "c", "d", "e"], vectors, documents=list("vwxyz")):
            assert len(batch[0]) <= 2
            collection.add(*batch)
        assert collection.get()["documents"] == ["v", "w", "x", "y", "z"]
        assert create_batches(client, ["a"], [[1.0]]) == [(["a"], [[1.0]], None, None)]
