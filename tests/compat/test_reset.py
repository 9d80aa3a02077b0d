"""Reset, when it is allowed, leaves a server as new."""

from __future__ import annotations

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.errors import NotFoundError
from tests.compat.wire import TENANT, Wire, unique_name


def test_reset_deletes_everything_but_the_defaults(client: ClientAPI, docs: chromadb.Collection, wire: Wire) -> None:
    tenant = unique_name("tenant")
    wire.call("POST", "/api/v2/tenants", {"name": tenant})
    wire.call("POST", TENANT + "/databases", {"name": "extra"})
    docs.add(ids=["a"], embeddings=[[1.0]])
    assert client.reset() is True
    assert client.count_collections() == 0
    with pytest.raises(NotFoundError, match="does not exist"):
        docs.count()
    assert wire.call("GET", f"/api/v2/tenants/{tenant}").status == 404
    databases = wire.call("GET", TENANT + "/databases").body
    assert [database["name"] for database in databases] == ["default_database"]


def test_server_works_after_a_reset(client: ClientAPI, wire: Wire) -> None:
    name = unique_name()
    client.create_collection(name, embedding_function=None).add(ids=["a"], embeddings=[[1.0, 2.0]])
    answer = wire.call("POST", "/api/v2/reset")
    assert (answer.status, answer.text) == (200, "true")
    again = client.create_collection(name, embedding_function=None)
    again.add(ids=["b"], embeddings=[[1.0]])
    assert again.get()["ids"] == ["b"]
    assert again.query(query_embeddings=[[1.0]])["ids"] == [["b"]]
