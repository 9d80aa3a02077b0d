"""The HTTP level: bodies that are no JSON, wrong types, unknown routes, sizes."""

from __future__ import annotations

import pytest
from tests.compat.wire import ABSENT_UUID, COLLECTIONS, Wire, WireCollection

ONCE = {"Content-Type": "application/json", "Connection": "close"}
"""For bodies that a server may refuse before it has read them: it then closes the connection, sooner or later."""

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("GET", "/api/v2/heartbeat/"), ("GET", COLLECTIONS + "/"), ("GET", "/api/v2/Heartbeat")],
)
def test_unknown_path_is_404_with_an_empty_body(wire: Wire, method: str, path: str) -> None:
    answer = wire.call(method, path)
    assert (answer.status, answer.text) == (404, "")
    assert "content-type" not in answer.headers


def test_wrong_method_is_405_with_an_empty_body_and_allow(collection: WireCollection) -> None:
    for method, path, allowed in (
        ("DELETE", collection.path + "/count", {"GET", "HEAD"}),
        ("PUT", COLLECTIONS, {"GET", "HEAD", "POST"}),
        ("GET", collection.path + "/add", {"POST"}),
        ("POST", "/api/v2/heartbeat", {"GET", "HEAD"}),
    ):
        answer = collection.wire.call(method, path)
        assert (answer.status, answer.text) == (405, "")
        assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


def test_missing_content_type_counts_as_json(collection: WireCollection) -> None:
    assert collection.wire.call("POST", collection.path + "/get", content=b"{}").status == 200


def test_json_with_a_charset_is_json(collection: WireCollection) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert collection.wire.call("POST", collection.path + "/get", content=b"{}", headers=headers).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_other_content_type_is_415(collection: WireCollection, content_type: str) -> None:
    answer = collection.wire.call("POST", collection.path + "/get", content=b"{}", headers={"content-type": content_type})
    assert answer.refusal == (415, "ChromaError", "Expected request with `Content-Type: application/json`")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nope", b'{"limit":NaN}', b'{"limit":Infinity}', b'{"limit":1} x', b'{"ids":["\xff"]}', b"{'a':1}"],
    ids=repr,
)
def test_body_that_is_no_json_is_400(collection: WireCollection, content: bytes) -> None:
    answer = collection.wire.call("POST", collection.path + "/get", content=content, headers=JSON)
    status, error, message = answer.refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("Failed to parse the request body as JSON: ")


@pytest.mark.parametrize("content", [b"1", b'"x"', b"null", b'{"limit":1,"limit":2}', b'{"limit":"1"}'], ids=repr)
def test_json_of_the_wrong_shape_is_422(collection: WireCollection, content: bytes) -> None:
    answer = collection.wire.call("POST", collection.path + "/get", content=content, headers=JSON)
    status, error, message = answer.refusal
    assert (status, error) == (422, "ChromaError")
    assert message.startswith("Failed to deserialize the JSON body into the target type: ")


def test_too_deep_nesting_is_400(collection: WireCollection) -> None:
    content = b'{"where":' + b'{"$and":[' * 200 + b'{"a":1}' + b"]}" * 200 + b"}"
    answer = collection.wire.call("POST", collection.path + "/get", content=content, headers=JSON)
    assert answer.refusal[:2] == (400, "InvalidArgumentError")


def test_missing_collection_is_found_out_after_parsing_and_before_validation(wire: Wire) -> None:
    path = f"{COLLECTIONS}/{ABSENT_UUID}"
    assert wire.call("POST", path + "/add", content=b"{", headers=JSON).status == 400
    assert wire.call("POST", path + "/add", {"ids": [1], "embeddings": [[1]]}).status == 422
    bodies = [
        ("add", {"ids": ["a"], "embeddings": [[]]}),
        ("add", {"ids": ["a"], "embeddings": ["AAAA"]}),
        ("add", {"ids": [""], "embeddings": [[1]]}),
        ("get", {"where": {}}),
        ("delete", {"ids": []}),
        ("query", {"query_embeddings": [[1], [1, 2]]}),
    ]
    assert [wire.call("POST", f"{path}/{verb}", body).status for verb, body in bodies] == [404] * len(bodies)


def test_body_of_thirty_nine_mebibytes_is_accepted(collection: WireCollection) -> None:
    content = b'{"ids":["a"],"embeddings":[[1]],"ignored":"' + b"x" * (39 << 20) + b'"}'
    assert collection.wire.call("POST", collection.path + "/add", content=content, headers=JSON).status == 201
    assert collection.count() == 1


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_body_beyond_forty_mebibytes_is_413(collection: WireCollection, verb: str) -> None:
    content = b'{"ids":["' + b"x" * (41 << 20) + b'"]}'
    answer = collection.wire.call("POST", f"{collection.path}/{verb}", content=content, headers=ONCE)
    assert answer.refusal[:2] == (413, "ChromaError")


@pytest.mark.reference_differs
def test_body_beyond_forty_mebibytes_is_413_in_json_for_writes_too(collection: WireCollection) -> None:
    content = b'{"ids":["' + b"x" * (41 << 20) + b'"],"embeddings":[[1]]}'
    answer = collection.wire.call("POST", collection.path + "/add", content=content, headers=ONCE)
    assert answer.refusal[:2] == (413, "ChromaError")
    assert collection.count() == 0


def test_errors_are_json_objects_with_a_name_and_a_message(wire: Wire) -> None:
    answer = wire.call("GET", f"{COLLECTIONS}/nowhere")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == {"error": "NotFoundError", "message": "Collection [nowhere] does not exist"}


def test_one_connection_serves_many_requests(wire: Wire) -> None:
    answers = [wire.call("GET", "/api/v2/heartbeat") for _ in range(20)]
    assert all(answer.headers.get("connection", "keep-alive") != "close" for answer in answers)
