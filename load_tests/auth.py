"""What authentication costs a request, and what the time of a refusal tells.

In process: our ASGI application in front of an engine that answers at once, so that what is left is the layer itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from chroma_async.model import Tenant
from chroma_async.protocol import Call
from chroma_async.server.app import create_app
from chroma_async.server.auth.basic import htpasswd_line
from chroma_async.server.auth.build import Access, build_access
from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.lines import EVERYTHING, TokenEntry, digest_of, make_token, token_line
from chroma_async.server.auth.provider import Credential, Rejected
from chroma_async.server.auth.tokens import TokenProvider
from chroma_async.settings import AuthSettings, ServerSettings

_PATH = b"/api/v2/tenants/default_tenant"
_USUAL = [
    (b"host", b"db.example.org:8000"),
    (b"user-agent", b"load-test/1"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
]
"""Headers that requests have anyway."""

_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor time of a request, median of the rounds."""

    name: str
    microseconds: float
    added: float


@dataclass(frozen=True, slots=True)
class Guess:
    """Wrong tokens of one kind: nanoseconds until they are rejected."""

    kind: str
    median: float
    p90: float


async def _answer(call: Call[Any]) -> Tenant:
    return Tenant("default_tenant")


def measure_costs(requests: int) -> list[Cost]:
    """Measure a request with each kind of credential that was right before, beside one of a server that asks for none."""
    with tempfile.TemporaryDirectory(prefix="load-test-auth-") as place:
        return asyncio.run(_measure_costs(Path(place), requests))


async def _measure_costs(place: Path, requests: int) -> list[Cost]:
    token = make_token()
    password = htpasswd_line("alice", "a password", 5)
    lines = [token_line("one", token, "admin")] + [token_line(f"n{number}", make_token(), "read") for number in range(999)]
    role = '{"name": "alice", "role": "read", "tenants": ["default_*"]}'
    for name, text in {"users": password, "tokens": "\n".join(lines), "roles": role}.items():
        (place / name).write_text(text)
        (place / name).chmod(0o600)
    basic = b"Basic " + base64.b64encode(b"alice:a password")
    kinds: list[tuple[str, AuthSettings, tuple[bytes, bytes] | None]] = [
        ("none asked for", AuthSettings(), None),
        ("password, bcrypt", AuthSettings(basic_file=str(place / "users")), (b"authorization", basic)),
        (
            "password, with a role by pattern",
            AuthSettings(basic_file=str(place / "users"), roles_file=str(place / "roles")),
            (b"authorization", basic),
        ),
        (
            "token, one of 1,000",
            AuthSettings(token_file=str(place / "tokens")),
            (b"authorization", b"Bearer " + token.encode()),
        ),
        (
            "name from a trusted proxy",
            AuthSettings(proxy_header="x-user", roles_file=str(place / "roles")),
            (b"x-user", b"alice"),
        ),
    ]
    apps = [(name, _app(settings), header) for name, settings, header in kinds]
    times: Mapping[str, list[float]] = {name: [] for name, _, _ in apps}
    for _ in range(_ROUNDS):
        for name, app, header in apps:
            times[name].append(await _microseconds(app, header, requests))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [Cost(name, median, median - medians["none asked for"]) for name, median in medians.items()]


def _app(settings: AuthSettings) -> ASGIApp:
    access: Access | None = build_access(settings, ["10.0.0.0/8"], check=True)
    return create_app(_answer, ServerSettings(), access)


async def _microseconds(app: ASGIApp, header: tuple[bytes, bytes] | None, requests: int) -> float:
    headers = [*_USUAL, *([] if header is None else [header])]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    def scope() -> dict[str, Any]:
        return {
            "type": "http",
            "method": "GET",
            "path": _PATH.decode(),
            "raw_path": _PATH,
            "query_string": b"",
            "headers": headers,
            "client": ("10.0.0.7", 4321),
        }

    await app(scope(), receive, send)
    started = time.process_time()
    for _ in range(requests):
        await app(scope(), receive, send)
    taken = time.process_time() - started
    if set(statuses) != {200}:
        raise AssertionError(f"refused: {set(statuses)}")
    return taken / requests * 1e6


def measure_guesses(rounds: int) -> list[Guess]:
    """Time wrong tokens that resemble a right one more and less, mixed. Nothing should tell them apart."""
    right = make_token()
    entries = [TokenEntry("right", digest_of(right.encode()), None)]
    provider = TokenProvider(FixedValue(entries), FixedValue(EVERYTHING))
    wrong = {
        "nothing in common": ["".join(reversed(right))] * rounds,
        "all but the last character": [right[:-1] + ("x" if right[-1] != "x" else "y")] * rounds,
        "a hash that begins alike": [_hash_neighbour(right)] * rounds,
    }
    taken: dict[str, list[int]] = {kind: [] for kind in wrong}
    for number in range(rounds):
        for kind, tokens in wrong.items():
            credential = Credential("bearer", tokens[number].encode())
            started = time.perf_counter_ns()
            try:
                provider.verify(credential)
            except Rejected:
                taken[kind].append(time.perf_counter_ns() - started)
    return [Guess(kind, statistics.median(times), _percentile(times, 90)) for kind, times in taken.items()]


def _hash_neighbour(right: str) -> str:
    """A token whose SHA-256 begins with the byte of the right one's: the most that an attacker could learn bit by bit."""
    first = hashlib.sha256(right.encode()).digest()[0]
    while True:
        token = make_token()
        if hashlib.sha256(token.encode()).digest()[0] == first:
            return token


def _percentile(values: Sequence[int], percent: int) -> float:
    return float(sorted(values)[len(values) * percent // 100])


def as_json(costs: Sequence[Cost], guesses: Sequence[Guess]) -> str:
    return json.dumps(
        {
            "costs_microseconds": {cost.name: round(cost.microseconds, 2) for cost in costs},
            "added_microseconds": {cost.name: round(cost.added, 2) for cost in costs},
            "guesses_nanoseconds": {guess.kind: {"median": guess.median, "p90": guess.p90} for guess in guesses},
        },
        indent=2,
    )


__all__ = ["Cost", "Guess", "as_json", "measure_costs", "measure_guesses"]
