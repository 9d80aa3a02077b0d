"""Raw HTTP for the compatibility tests: able to send what a well-behaved client would refuse to send."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

TENANT = "/api/v2/tenants/default_tenant"
DATABASE = TENANT + "/databases/default_database"
COLLECTIONS = DATABASE + "/collections"
ABSENT_UUID = "00000000-0000-4000-8000-000000000000"

Json = Any


def unique_name(prefix: str = "compat") -> str:
    """A name that no other test, run or worker uses."""
    return f"{prefix}-{uuid.uuid4().hex}"


def to_base64(vector: list[float] | NDArray[np.float32]) -> str:
    """Encode a vector as clients do: little-endian float32, standard alphabet."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


@dataclass(frozen=True)
class Answer:
    """A response reduced to what a client can observe."""

    status: int
    text: str
    headers: httpx.Headers

    @property
    def body(self) -> Json:
        return httpx.Response(self.status, text=self.text).json()

    @property
    def refusal(self) -> tuple[int, str, str]:
        """Status, error name and message of a JSON error."""
        assert self.headers["content-type"] == "application/json", (self.status, self.text)
        body = self.body
        return self.status, body["error"], body["message"]


class Wire:
    """One server, addressed without any client in between."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Json = None, **options: Any) -> Answer:
        """Send a JSON body (or none); `options` reach httpx, for content, headers and query parameters."""
        response = self._http.request(method, path, **({} if body is None else {"json": body}), **options)
        return Answer(response.status_code, response.text, response.headers)

    def create(self, name: str | None = None, **fields: Json) -> WireCollection:
        answer = self.call("POST", COLLECTIONS, {"name": name or unique_name(), **fields})
        assert answer.status == 200, answer.text
        return WireCollection(self, answer.body["id"], answer.body["name"])


@dataclass(frozen=True)
class WireCollection:
    """The record routes of one collection."""

    wire: Wire
    id: str
    name: str

    @property
    def path(self) -> str:
        return f"{COLLECTIONS}/{self.id}"

    def post(self, verb: str, body: Json) -> Answer:
        return self.wire.call("POST", f"{self.path}/{verb}", body)

    def put(self, body: Json) -> Answer:
        return self.wire.call("PUT", self.path, body)

    def describe(self) -> Json:
        return self._done(self.wire.call("GET", f"{COLLECTIONS}/by-id/{self.id}"))

    def add(self, **body: Json) -> None:
        self._done(self.post("add", body), status=201)

    def upsert(self, **body: Json) -> None:
        self._done(self.post("upsert", body))

    def update(self, **body: Json) -> None:
        self._done(self.post("update", body))

    def delete(self, **body: Json) -> int:
        """Delete, and return the count that the server reports."""
        deleted: int = self._done(self.post("delete", body))["deleted"]
        return deleted

    def get(self, **body: Json) -> Json:
        return self._done(self.post("get", body))

    def ids(self, **body: Json) -> list[str]:
        ids: list[str] = self.get(**body, include=[])["ids"]
        return ids

    def query(self, *vectors: list[float], **body: Json) -> Json:
        return self._done(self.post("query", {"query_embeddings": list(vectors), **body}))

    def count(self) -> int:
        count: int = self._done(self.wire.call("GET", f"{self.path}/count"))
        return count

    @staticmethod
    def _done(answer: Answer, status: int = 200) -> Json:
        assert answer.status == status, (answer.status, answer.text)
        return answer.body
