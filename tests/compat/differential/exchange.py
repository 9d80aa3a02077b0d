"""The same requests to Chroma's server and to ours, and where the answers differ.

Statuses, content types, names and messages of errors, and bodies are compared field by field. What may differ is a row of
docs/compatibility.md, and a `Tolerance` (see `deviations`) takes just that out of a pair of answers; whatever
remains is a difference. Ids that a server invents are replaced by whose they are, and the time by a word, before.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from urllib.parse import quote
from uuid import UUID

import httpx
from tests.compat.wire import TENANT, unique_name

Json = Any

LSN_HEADER: Final = "chroma-async-lsn"
CLOCK: Final = "nanosecond heartbeat"
SHOWN_MAX: Final = 20
EARLIER_MAX: Final = 40
BUSY_ATTEMPTS_MAX: Final = 20
BUSY_SECONDS: Final = 0.25
ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NOTHING: Final = object()

FORMS: Final[Mapping[str | None, Callable[[UUID], str]]] = {
    None: str,
    "upper": lambda identifier: str(identifier).upper(),
    "hex": lambda identifier: identifier.hex,
    "braces": lambda identifier: quote(f"{{{identifier}}}"),
    "urn": lambda identifier: identifier.urn,
}
"""Ways to write a collection's id."""


@dataclass(frozen=True)
class Request:
    """One request. A path below `/collections` belongs to the database of the pair, others are absolute.

    `{docs}` in it stands for the id that each server gave to the collection `docs`, `{docs:hex}` for another form of it
    (`FORMS`). `content` is sent as it is; else `body` as JSON, unless it is `NOTHING`.
    """

    method: str
    path: str
    body: Json = NOTHING
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        sent = "" if self.body is NOTHING else json.dumps(self.body, ensure_ascii=False)
        if self.content is not None:
            sent = repr(self.content[:500]) + (f" ... {len(self.content)} bytes" if len(self.content) > 500 else "")
        return f"{self.method} {self.path} {sent[:2000]} {dict(self.headers) or ''}".rstrip()

    @property
    def verb(self) -> str:
        """What is done to the records: the last segment of the path."""
        return self.path.rpartition("/")[2].partition("?")[0]

    def field(self, name: str) -> Json:
        """A field of the body; None where there is none."""
        return self.body.get(name) if isinstance(self.body, dict) else None


@dataclass(frozen=True)
class Answer:
    """What a client can see of an answer; status 0 is a connection that was closed without one."""

    status: int
    content_type: str | None
    body: Json
    lsn: str | None = None
    """The header in which our server says where a write stands in the log."""

    @property
    def error(self) -> str:
        return self.body.get("error", "") if isinstance(self.body, dict) else ""

    @property
    def message(self) -> str:
        """The message of an error; nothing when it is none."""
        return self.body.get("message", "") if self.status >= 400 and isinstance(self.body, dict) else ""

    def with_message(self, message: str) -> Answer:
        return replace(self, body={**self.body, "message": message})


@dataclass(frozen=True)
class Exchange:
    """A request and both answers to it."""

    request: Request
    chroma: Answer
    ours: Answer

    def answered_as_chroma(self) -> Exchange:
        """The exchange as it were if our answer had been Chroma's."""
        return replace(self, ours=self.chroma)

    def __str__(self) -> str:
        return f"{self.request}\n  chroma: {_shown(self.chroma)}\n  ours:   {_shown(self.ours)}"


def _shown(answer: Answer) -> str:
    return f"{answer.status} {json.dumps(answer.body, ensure_ascii=False)[:3000]}"


class Tolerance(Protocol):
    """Takes the difference that a row of docs/compatibility.md describes out of an exchange; None when there is none."""

    @property
    def row(self) -> str: ...
    def __call__(self, exchange: Exchange) -> Exchange | None: ...


@dataclass(frozen=True)
class Verdict:
    """The first difference that remains, and the rows that explain those that don't."""

    difference: str | None
    rows: tuple[str, ...]


def judge(exchange: Exchange, tolerances: Sequence[Tolerance]) -> Verdict:
    """Compare the answers of an exchange, letting tolerances explain differences one after the other."""
    rows: list[str] = []
    found = difference(exchange)
    for tolerance in tolerances:
        if found is None:
            break
        explained = tolerance(exchange)
        if explained is not None:
            rows.append(tolerance.row)
            exchange, found = explained, difference(explained)
    return Verdict(found, tuple(rows))


def difference(exchange: Exchange) -> str | None:
    """Return the first place where the answers differ."""
    chroma, ours = exchange.chroma, exchange.ours
    if chroma.status != ours.status:
        return f"status: {chroma.status} != {ours.status}"
    if chroma.content_type != ours.content_type:
        return f"content type: {chroma.content_type} != {ours.content_type}"
    return json_difference(chroma.body, ours.body) or json_difference(chroma.lsn, ours.lsn, "lsn")


def json_difference(left: Json, right: Json, path: str = "") -> str | None:
    """Return the first place where two JSON values differ; 1, 1.0 and true are three values."""
    if type(left) is not type(right):
        return f"{path}: {left!r} != {right!r}"
    if isinstance(left, dict):
        keys = [*left, *(key for key in right if key not in left)]
        pairs = ((f"{path}.{key}", left.get(key, NOTHING), right.get(key, NOTHING)) for key in keys)
        return next((found for at, one, two in pairs if (found := json_difference(one, two, at))), None)
    if isinstance(left, list):
        if len(left) != len(right):
            return f"{path}: {len(left)} != {len(right)} items: {left!r:.300} != {right!r:.300}"
        pairs = ((f"{path}[{index}]", one, two) for index, (one, two) in enumerate(zip(left, right, strict=True)))
        return next((found for at, one, two in pairs if (found := json_difference(one, two, at))), None)
    return None if left == right else f"{path}: {left!r} != {right!r}"


class Side:
    """One of the servers: its address, and the ids that it invented.

    A patient one asks again when the answer is that the server's database is busy with something else: Chroma's sometimes
    is, and then the request has changed nothing.
    """

    def __init__(self, url: str, *, patient: bool) -> None:
        self.http = httpx.Client(base_url=url, timeout=60, verify=False)
        self._attempts = BUSY_ATTEMPTS_MAX if patient else 1
        self._ids: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._root = ""

    def use(self, database: str) -> None:
        """Make a database and send requests there; forget the ids of the last one."""
        self._root = f"{TENANT}/databases/{database}"
        self._ids, self._seen = {}, {}
        self._send("POST", TENANT + "/databases", json={"name": database}).raise_for_status()

    def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        response = self.http.request(method, url, **options)
        for _ in range(1, self._attempts):
            if response.status_code != 500 or "database is locked" not in response.text:
                break
            time.sleep(BUSY_SECONDS)
            response = self.http.request(method, url, **options)
        return response

    def url(self, path: str) -> str:
        named = re.sub(r"\{(.+?)(?::(\w+))?\}", lambda found: self._id(found[1], found[2]), path)
        return self._root + named if named.startswith(("/collections", "?")) else named

    def _id(self, name: str, form: str | None) -> str:
        return FORMS[form](UUID(self._ids[name])) if name in self._ids else name

    def answer(self, request: Request) -> Answer:
        options: dict[str, Any] = {} if request.body is NOTHING else {"json": request.body}
        if request.content is not None:
            options = {"content": request.content}
        try:
            response = self._send(request.method, self.url(request.path), headers=dict(request.headers), **options)
        except httpx.RemoteProtocolError:
            return Answer(0, None, None)
        content_type = response.headers.get("content-type")
        body = response.json() if content_type == "application/json" and response.content else response.text
        self._note(body)
        return Answer(response.status_code, content_type, self._comparable(body), response.headers.get(LSN_HEADER))

    def _note(self, body: Json) -> None:
        """Remember ids that were invented: whose they are, and the how-manieth of that name."""
        for item in body if isinstance(body, list) else [body]:
            if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] not in self._seen:
                same = sum(placeholder.startswith(f"<id of {item['name']},") for placeholder in self._seen.values())
                self._seen[item["id"]] = f"<id of {item['name']}, {same + 1}>"
                if "configuration_json" in item:
                    self._ids[item["name"]] = item["id"]

    def _comparable(self, body: Json) -> Json:
        if isinstance(body, dict):
            return {key: "<now>" if key == CLOCK else self._comparable(value) for key, value in body.items()}
        if isinstance(body, list):
            return [self._comparable(item) for item in body]
        if isinstance(body, str):
            return ID.sub(lambda found: self._seen.get(found[0], found[0]), body)
        return body


class Disagreement(AssertionError):
    """The servers answered differently, and no row of docs/compatibility.md says so."""


class Pair:
    """Both servers, in databases of their own that have the same content."""

    def __init__(self, chroma_url: str, our_url: str, tolerances: Sequence[Tolerance]) -> None:
        self.chroma, self.ours = Side(chroma_url, patient=True), Side(our_url, patient=False)
        self._tolerances = tolerances
        self._threads = ThreadPoolExecutor(1)
        self.history: list[Request] = []

    def close(self) -> None:
        self._threads.shutdown()
        self.chroma.http.close()
        self.ours.http.close()

    def fresh(self) -> Pair:
        """Go on in an empty database."""
        database = unique_name("differential")
        for side in (self.chroma, self.ours):
            side.use(database)
        self.history = []
        return self

    def ask(self, request: Request) -> Exchange:
        """Send a request to both servers, at the same time."""
        self.history.append(request)
        waiting = self._threads.submit(self.chroma.answer, request)
        ours = self.ours.answer(request)
        return Exchange(request, waiting.result(), ours)

    def agree(self, request: Request) -> Answer:
        """Send a request to both servers and return our answer.

        Raises:
            Disagreement: the answers differ in a way that is not documented.
        """
        exchange = self.ask(request)
        verdict = judge(exchange, self._tolerances)
        if verdict.difference is not None:
            raise Disagreement(self.report(exchange, verdict.difference))
        return exchange.ours

    def agree_on_reads(self, requests: Iterable[Request]) -> None:
        """Send requests that change nothing, all of them, before saying in which the servers disagree.

        Raises:
            Disagreement: the answers differ in a way that is not documented.
        """
        found: list[str] = []
        for request in requests:
            exchange = self.ask(request)
            if (problem := judge(exchange, self._tolerances).difference) is not None:
                found.append(f"{problem}\nat {exchange}")
            self.history.pop()
        if found:
            shown = "\n\n".join(found[:SHOWN_MAX])
            raise Disagreement(f"{len(found)} requests are answered differently after\n{self._earlier()}\n{shown}")

    def report(self, exchange: Exchange, found: str) -> str:
        return f"{found}\nafter\n{self._earlier()}\nat {exchange}"

    def _earlier(self) -> str:
        """The last requests that can have changed something."""
        reads = ("get", "query", "count")
        writes = [request for request in self.history if request.method != "GET" and request.verb not in reads]
        return "\n".join(f"  {request}" for request in writes[-EARLIER_MAX:])


def post(name: str, verb: str, body: Json) -> Request:
    """A request on the records of a collection."""
    return Request("POST", f"/collections/{{{name}}}/{verb}", body)


def create(name: str, **fields: Json) -> Request:
    return Request("POST", "/collections", {"name": name, **fields})


def describe(name: str) -> Request:
    return Request("GET", f"/collections/{quote(name, safe='')}")
