"""The layer that finds out who calls, under attack: whatever comes, nothing opens, nobody starves, memory stays bounded."""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from tests.auth.providers import Hands, basic_case, basic_value, proxy_case, watched, write

from chroma_async.seams import InlineWorkers, Workers
from chroma_async.server.auth import authentication as layer
from chroma_async.server.auth import remembered
from chroma_async.server.auth.authentication import Authentication, Authenticator
from chroma_async.server.auth.basic import BasicProvider, htpasswd_line, parse_htpasswd
from chroma_async.server.auth.build import build_access
from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.identity import IDENTITY, Identity
from chroma_async.server.auth.lines import EVERYTHING, TokenEntry, digest_of
from chroma_async.server.auth.provider import Credential, Provider, Rejected, Scheme, Verified
from chroma_async.server.auth.throttle import (
    BUCKETS,
    FREE_FAILURES,
    PENDING_MAX,
    PENDING_PER_SOURCE_MAX,
    SLOTS_MAX,
    SPRAYED_FREE,
    SPRAYED_PER_SECOND,
    Throttle,
)
from chroma_async.server.auth.tokens import TokenProvider
from chroma_async.server.peers import source_of
from chroma_async.settings import AuthSettings

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-some-length"


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    """Say who calls: what lies behind the layer."""
    found = IDENTITY.get()
    assert scope.get("chroma_async.identity") is found
    body = b"nobody" if found is None else found.name.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def client_of(authenticator: Authenticator, address: str = "192.0.2.7") -> AsyncIterator[httpx.AsyncClient]:
    app = Authentication(who, authenticator, 5.0)
    transport = httpx.ASGITransport(app, client=(address, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def tokens(*names: str) -> TokenProvider:
    entries = [TokenEntry(name, digest_of(f"{TOKEN}-{name}".encode()), None) for name in names]
    return TokenProvider(FixedValue(entries), FixedValue(EVERYTHING))


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}-{name}"}


def users(directory: Path, *names: str, cost: int = 5) -> BasicProvider:
    file = write(directory / "users", "\n".join(htpasswd_line(name, f"password of {name}", cost) for name in names))
    return BasicProvider(watched(file, parse_htpasswd, Hands()), FixedValue(EVERYTHING))


def as_user(name: str, password: str | None = None) -> dict[str, str]:
    return {"Authorization": "Basic " + basic_value(name, password or f"password of {name}").decode()}


# ---- what is asked for, and what is not


@pytest.mark.parametrize("path", ["/api/v2", "/api/v2/heartbeat", "/api/v1/version/", "/livez", "/readyz"])
async def test_public_paths_ask_nobody(path: str) -> None:
    async with client_of(Authenticator([tokens("a")])) as client:
        assert (await client.get(path)).text == "nobody"
        assert (await client.head(path)).status_code == 200
        assert (await client.post(path)).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/heartbeat/../tenants/t",
        "/api/v2/tenants/t/../../heartbeat",
        "//api/v2/heartbeat",
        "/api/v2/heartbeat%2f",
        "/api/v2/HEARTBEAT",
        "/livez/x",
        "/api/v2/heartbeat;x",
        "/",
        "/docs",
        "/metrics",
    ],
)
async def test_paths_that_only_resemble_public_ones_ask(path: str) -> None:
    app = Authentication(who, Authenticator([tokens("a")]), 5.0)
    status = await raw_request(app, path.encode(), [])
    assert status == 401


async def raw_request(app: Authentication, path: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """A request as a server hands it on: nothing normalised by a client."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": path,
        "path": path.decode("latin-1"),
        "query_string": b"",
        "headers": headers,
        "client": ("192.0.2.7", 1),
    }
    await app(scope, receive, send)
    return int(sent[0]["status"])


async def test_identity_is_known_during_the_request_only() -> None:
    async with client_of(Authenticator([tokens("a")])) as client:
        assert (await client.get("/x", headers=bearer("a"))).text == "a"
        assert IDENTITY.get() is None


# ---- headers


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Bearer {TOKEN}-a"), ("Authorization", f"Bearer {TOKEN}-a")],
        [("Authorization", f"Bearer {TOKEN}-a"), ("Authorization", "Bearer other")],
        [("Authorization", "Bearer other"), ("Authorization", f"Bearer {TOKEN}-a")],
        [("Authorization", f"Bearer {TOKEN}-a"), ("X-Chroma-Token", f"{TOKEN}-a")],
        [("Authorization", f"Bearer {TOKEN}-a, Bearer {TOKEN}-a")],
        [("Authorization", f"{TOKEN}-a")],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Digest x")],
        [("Authorization", f"Bearer{TOKEN}-a")],
        [("Authorization", "Basic " + basic_value("a", f"{TOKEN}-a").decode())],
        [("X-Chroma-Token", f"Bearer {TOKEN}-a")],
        [("Authorization", "Bearer " + "x" * 100_000)],
        [("X-Chroma-Token", "é" * 20)],
        [("Cookie", f"Authorization=Bearer {TOKEN}-a")],
        [("Proxy-Authorization", f"Bearer {TOKEN}-a")],
        [("X-Forwarded-User", "a")],
    ],
)
async def test_headers_that_are_not_one_right_credential_are_refused(headers: list[tuple[str, str]]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    async with client_of(Authenticator([tokens("a")])) as client:
        response = await client.get("/x", headers=encoded)
    assert response.status_code == 401
    assert response.json()["error"] == "AuthorizationError"
    assert response.headers["www-authenticate"] == 'Bearer realm="chroma_async"'


@pytest.mark.parametrize(
    "header",
    [("AUTHORIZATION", f"bEARER   {TOKEN}-a "), ("x-chroma-token", f" {TOKEN}-a"), ("X-Chroma-Token", f"{TOKEN}-a")],
)
async def test_case_and_spaces_around_do_not_matter(header: tuple[str, str]) -> None:
    async with client_of(Authenticator([tokens("a")])) as client:
        assert (await client.get("/x", headers=[header])).text == "a"


async def test_header_that_no_provider_reads_may_be_anybodys() -> None:
    """A proxy with a password of its own sends it on; only the token counts here."""
    entries = [TokenEntry("a", digest_of(f"{TOKEN}-a".encode()), None)]
    provider = TokenProvider(FixedValue(entries), FixedValue(EVERYTHING), frozenset({"token"}))
    async with client_of(Authenticator([provider])) as client:
        headers = {"Authorization": "Basic eDp5", "X-Chroma-Token": f"{TOKEN}-a"}
        assert (await client.get("/x", headers=headers)).text == "a"
        assert (await client.get("/x", headers=bearer("a"))).status_code == 401


async def test_user_whose_name_and_password_are_not_ascii_gets_in(tmp_path: Path) -> None:
    file = write(tmp_path / "users", htpasswd_line("jürgen", "pä:ß 漢", 5))
    provider = BasicProvider(watched(file, parse_htpasswd, Hands()), FixedValue(EVERYTHING))
    async with client_of(Authenticator([provider])) as client:
        response = await client.get("/x", headers=as_user("jürgen", "pä:ß 漢"))
        assert response.content.decode() == "jürgen"
        assert (await client.get("/x", headers=as_user("jürgen", "pä:ß 字"))).status_code == 401


# ---- failing closed


class Broken:
    """A provider with a bug."""

    name = "broken"
    schemes: frozenset[Scheme] = frozenset({"bearer"})
    is_slow = False
    challenge: str | None = None
    generation: object = 0

    def __init__(self, *, slow: bool = False, in_prepare: bool = False) -> None:
        self.is_slow = slow
        self._in_prepare = in_prepare

    def slot(self, credential: Credential) -> str:
        return ""

    async def prepare(self, credential: Credential) -> None:
        if self._in_prepare:
            raise ZeroDivisionError

    def verify(self, credential: Credential) -> Verified:
        raise KeyError("secret detail")


@pytest.mark.parametrize("broken", [Broken(), Broken(slow=True), Broken(in_prepare=True)])
async def test_provider_that_fails_opens_nothing(broken: Provider, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(Authenticator([broken])) as client:
        response = await client.get("/x", headers=bearer("a"))
        assert (await client.get("/livez")).status_code == 200
    assert response.status_code == 503
    assert "secret detail" not in response.text
    assert any(record.exc_info for record in caplog.records)


async def test_other_providers_go_on_when_one_fails() -> None:
    async with client_of(Authenticator([Broken(), tokens("a")])) as client:
        assert (await client.get("/x", headers=bearer("a"))).text == "a"
        assert (await client.get("/x", headers=bearer("b"))).status_code == 503


async def test_file_that_becomes_unreadable_refuses_remembered_credentials_too(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    async with client_of(Authenticator([case.provider], now=case.clock)) as client:
        headers = {"Authorization": "Basic " + case.right.value.decode()}
        assert (await client.get("/x", headers=headers)).text == "alice"
        kept = case.files[0].read_bytes()
        case.files[0].unlink()
        case.clock.now += 2
        assert (await client.get("/x", headers=headers)).status_code == 503
        assert (await client.get("/x", headers=as_user("nobody"))).status_code == 503
        case.files[0].write_bytes(kept)
        case.clock.now += 2
        assert (await client.get("/x", headers=headers)).text == "alice"


async def test_user_who_was_removed_is_out_within_a_second(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    async with client_of(Authenticator([case.provider], now=case.clock)) as client:
        headers = {"Authorization": "Basic " + case.right.value.decode()}
        assert (await client.get("/x", headers=headers)).text == "alice"
        case.revoke()
        case.clock.now += 1.0
        assert (await client.get("/x", headers=headers)).status_code == 401


async def test_change_that_hides_its_time_counts_within_a_second(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    file = case.files[0]
    old = file.stat().st_mtime_ns - 10**9
    os.utime(file, ns=(old, old))
    await asyncio.sleep(0.15)  # by then it is settled
    async with client_of(Authenticator([case.provider], now=case.clock)) as client:
        headers = {"Authorization": "Basic " + case.right.value.decode()}
        assert (await client.get("/x", headers=headers)).text == "alice"
        with file.open("r+b") as opened:
            opened.write(b"alicf")
        os.utime(file, ns=(old, old))
        case.clock.now += 1.0
        assert (await client.get("/x", headers=headers)).status_code == 401


async def test_proxy_is_asked_for_its_address_each_time(tmp_path: Path) -> None:
    case = proxy_case(tmp_path)
    authenticator = Authenticator([case.provider], name_header="X-Forwarded-User")
    headers = {"X-Forwarded-User": "alice"}
    async with client_of(authenticator, "10.0.0.1") as trusted, client_of(authenticator, "192.0.2.1") as stranger:
        assert (await trusted.get("/x", headers=headers)).text == "alice"
        assert (await stranger.get("/x", headers=headers)).status_code == 401
        twice = [(b"X-Forwarded-User", b"alice"), (b"X-Forwarded-User", b"bob")]
        assert (await trusted.get("/x", headers=twice)).status_code == 401
        spoofed = {"X-Forwarded-User": "alice", "X-Forwarded-For": "10.0.0.1"}
        assert (await stranger.get("/x", headers=spoofed)).status_code == 401
    assert len(authenticator) == 0


# ---- what is kept


async def test_password_is_kept_nowhere(tmp_path: Path) -> None:
    authenticator = Authenticator([users(tmp_path, "alice")])
    async with client_of(authenticator) as client:
        assert (await client.get("/x", headers=as_user("alice"))).text == "alice"
    assert len(authenticator) == 1
    plain = (b"password of alice", basic_value("alice", "password of alice"))
    kept = reachable(authenticator)
    assert len(kept) > 50
    for item in kept:
        data = item.encode() if isinstance(item, str) else item
        assert not isinstance(data, bytes) or not any(secret in data for secret in plain)


def reachable(start: object) -> list[object]:
    """All values that an object holds, however deep; not modules, classes and functions."""
    seen: dict[int, object] = {}
    waiting = [start]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | type(gc)) or (callable(item) and not hasattr(item, "__dict__")):
            continue
        seen[id(item)] = item
        if type(item).__module__.startswith("chroma_async") or isinstance(item, dict | list | tuple | set | frozenset):
            waiting.extend(gc.get_referents(item))
    return list(seen.values())


async def test_idle_credential_is_verified_again_and_a_used_one_is_not(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    counted = Counting(case.provider)
    async with client_of(Authenticator([counted], now=case.clock)) as client:
        headers = {"Authorization": "Basic " + case.right.value.decode()}
        for _ in range(5):
            assert (await client.get("/x", headers=headers)).text == "alice"
            case.clock.now += 200
        assert counted.verified == 1
        case.clock.now += 200
        assert (await client.get("/x", headers=headers)).text == "alice"
        assert counted.verified == 2


class Counting:
    """A provider that counts how often it is asked."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.verified = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def verify(self, credential: Credential) -> Verified:
        self.verified += 1
        return self._provider.verify(credential)


async def test_credential_that_comes_many_times_at_once_is_verified_once(tmp_path: Path) -> None:
    counted = Counting(users(tmp_path, "alice"))
    async with client_of(Authenticator([counted])) as client:  # type: ignore[list-item]
        answers = await asyncio.gather(*(client.get("/x", headers=as_user("alice")) for _ in range(50)))
    assert {answer.text for answer in answers} == {"alice"}
    assert counted.verified == 1


async def test_what_decides_on_a_token_is_a_comparison_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def never(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr(hmac, "compare_digest", never)
    for name in ("a", "unknown"):
        with pytest.raises(Rejected):
            tokens("a").verify(Credential("bearer", f"{TOKEN}-{name}".encode()))
    assert [len(left) for left, _ in compared] == [32, 32]
    assert [len(right) for _, right in compared] == [32, 32]


# ---- guessers


async def test_ten_thousand_wrong_passwords_neither_fill_memory_nor_starve_right_ones(tmp_path: Path) -> None:
    """From the guesser's own address somebody known goes on. Others log in from elsewhere, and from there afterwards."""
    authenticator = Authenticator([users(tmp_path, "alice", "bob", "admin")])
    async with client_of(authenticator) as client, client_of(authenticator, "198.51.100.9") as elsewhere:
        assert (await client.get("/x", headers=as_user("alice"))).text == "alice"
        verified = Counting(authenticator._by_scheme["basic"][0])
        authenticator._by_scheme["basic"] = [verified]  # type: ignore[list-item]
        statuses: list[int] = []
        waits: set[str] = set()

        async def guess(numbers: range) -> None:
            for number in numbers:
                name = ("admin", f"nobody{number}")[number % 2]
                answer = await client.get("/x", headers=as_user(name, f"guess {number}"))
                statuses.append(answer.status_code)
                waits.add(answer.headers.get("retry-after", ""))

        guessers = [asyncio.create_task(guess(range(start, start + 625))) for start in range(0, 10_000, 625)]
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        slowest = 0.0
        for _ in range(20):
            started = loop.time()
            assert (await client.get("/x", headers=as_user("alice"))).text == "alice"
            slowest = max(slowest, loop.time() - started)
        assert (await elsewhere.get("/x", headers=as_user("admin"))).text == "admin"
        await asyncio.gather(*guessers)
        await asyncio.sleep(1.1)
        assert (await client.get("/x", headers=as_user("bob"))).text == "bob"
    assert set(statuses) == {401, 429}
    assert len(statuses) == 10_000
    assert statuses.count(401) == verified.verified - 2 <= 200
    assert waits >= {"1"}
    assert len(authenticator) == 3
    assert len(authenticator.throttle) <= BUCKETS + 1
    assert not authenticator._pending
    assert slowest < 2.0


async def test_who_guesses_names_does_not_see_which_there_are(tmp_path: Path) -> None:
    """Not even by what is left of an allowance: others have used it up before the one that there is."""
    authenticator = Authenticator([users(tmp_path, "alice")], now=Hands())
    async with client_of(authenticator) as client:
        bucket = authenticator._bucket("alice")
        others = [name for name in map("user{}".format, range(5_000)) if authenticator._bucket(name) == bucket]
        for name in others[:FREE_FAILURES]:
            assert (await client.get("/x", headers=as_user(name, "wrong"))).status_code == 401
        for name in ("alice", others[FREE_FAILURES]):
            answer = await client.get("/x", headers=as_user(name, "wrong"))
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        fresh = next(name for name in map("user{}".format, range(5_000)) if name not in others)
        assert (await client.get("/x", headers=as_user(fresh, "wrong"))).status_code == 401


async def test_wrong_passwords_from_everywhere_are_bounded_too() -> None:
    throttle = Throttle(slots_max=100)
    for number in range(5_000):
        slot = (f"192.0.2.{number}", 0)
        if not throttle.wait_seconds(slot, 0.0):
            throttle.begin(slot, 0.0)
    assert len(throttle) <= 100
    assert throttle.wait_seconds(("new", 0), 0.0) == 1
    assert throttle._pending == PENDING_MAX


async def test_wrong_passwords_from_one_address_leave_room_for_those_from_others() -> None:
    throttle = Throttle()
    for number in range(5_000):
        slot = ("192.0.2.1", number % BUCKETS)
        if not throttle.wait_seconds(slot, 0.0):
            throttle.begin(slot, 0.0)
    assert throttle._pending == PENDING_PER_SOURCE_MAX
    assert throttle.wait_seconds(("192.0.2.2", 0), 0.0) == 0
    for number in range(PENDING_PER_SOURCE_MAX):
        throttle.end(("192.0.2.1", number), 0.0, wrong=True)
    assert (throttle._pending, throttle._pending_of) == (0, {})


async def test_who_sprays_names_is_slowed_down_whatever_names_they_are() -> None:
    throttle = Throttle()
    tried = 0
    for step in range(10_000):
        slot, now = ("192.0.2.1", step % BUCKETS), step / 100
        if not throttle.wait_seconds(slot, now):
            throttle.begin(slot, now)
            throttle.end(slot, now, wrong=True)
            tried += 1
    assert tried <= SPRAYED_FREE + SPRAYED_PER_SECOND * 100
    assert throttle.wait_seconds(("192.0.2.1", 7), 100.0) == 1
    assert throttle.wait_seconds(("192.0.2.2", 7), 100.0) == 0


async def test_guesser_waits_longer_than_who_erred_once() -> None:
    throttle = Throttle()
    slot = ("192.0.2.1", 1)
    for _ in range(FREE_FAILURES - 1):
        throttle.fail(slot, 0.0)
    assert throttle.wait_seconds(slot, 0.0) == 0
    throttle.fail(slot, 0.0)
    assert throttle.wait_seconds(slot, 0.0) == 1
    assert throttle.wait_seconds(("192.0.2.1", 2), 0.0) == 0
    assert throttle.wait_seconds(slot, 1.0) == 0
    assert SLOTS_MAX >= 1000


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_source_is_an_address_or_a_network(address: str, source: str) -> None:
    assert source_of(address) == source


async def test_caller_who_leaves_is_counted_as_well(tmp_path: Path) -> None:
    """Else a guesser would only have to hang up before the answer."""
    started, release = asyncio.Event(), asyncio.Event()

    class Held(InlineWorkers):
        async def run(self, function: Callable[[], Any]) -> Any:
            started.set()
            await release.wait()
            return function()

    def workers(provider: Provider) -> Workers:
        return Held()

    authenticator = Authenticator([users(tmp_path, "alice")], workers=workers)
    async with client_of(authenticator) as client:
        request = asyncio.create_task(client.get("/x", headers=as_user("alice", "wrong")))
        await started.wait()
        request.cancel()
        release.set()
        await asyncio.gather(request, return_exceptions=True)
        while authenticator._pending:
            await asyncio.sleep(0.01)
    account = authenticator.throttle._accounts["192.0.2.7", authenticator._bucket("alice")]
    assert (account.pending, round(account.allowance)) == (0, FREE_FAILURES - 1)


async def test_wrong_tokens_are_answered_slowly_and_right_ones_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(layer, "WAITING_PER_SOURCE_MAX", 8)
    authenticator = Authenticator([tokens("a", "b", "c")])
    loop = asyncio.get_running_loop()
    async with client_of(authenticator) as client:
        assert (await client.get("/x", headers=bearer("a"))).text == "a"
        for number in range(FREE_FAILURES):
            assert (await client.get("/x", headers=bearer(f"wrong{number}"))).status_code == 401
        started = loop.time()
        assert (await client.get("/x", headers=bearer("wrong"))).status_code == 401
        assert loop.time() - started > 0.25
        started = loop.time()
        assert (await client.get("/x", headers=bearer("b"))).text == "b"
        assert loop.time() - started < 0.25
        crowd = [asyncio.create_task(client.get("/x", headers=bearer(f"wrong{number}"))) for number in range(50)]
        await asyncio.sleep(0.1)
        assert (await client.get("/x", headers=bearer("a"))).text == "a"
        assert (await client.get("/x", headers=bearer("c"))).text == "c", "it was never right before"
        async with client_of(authenticator, "198.51.100.9") as elsewhere:
            assert (await elsewhere.get("/x", headers=bearer("wrong"))).status_code == 401
        statuses = [answer.status_code for answer in await asyncio.gather(*crowd)]
    assert statuses.count(401) == 8
    assert statuses.count(429) == 42
    assert not authenticator._waiting


async def test_failures_are_logged_with_their_source_and_without_the_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(Authenticator([users(tmp_path, "alice"), tokens("a")])) as client:
        await client.get("/x", headers=as_user("alice", "hunter2"))
        await client.get("/x", headers=as_user("a mistyped password", "hunter2"))
        await client.get("/x", headers=bearer("hunter2"))
    text = caplog.text
    assert text.count("auth.fail source=192.0.2.7") == 3
    assert "user='alice'" in text
    assert "hunter2" not in text
    assert "mistyped" not in text


async def test_memory_of_right_credentials_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED_MAX", 5)
    names = [f"n{number}" for number in range(20)]
    authenticator = Authenticator([tokens(*names)])
    async with client_of(authenticator) as client:
        for name in names:
            assert (await client.get("/x", headers=bearer(name))).text == name
    assert len(authenticator) == 5


def test_identity_without_a_grant_may_nothing() -> None:
    nobody = Identity("x")
    assert nobody.reach("collection:get", "t", "d") == "none"
    assert not nobody.allows("collection:get", "t", "d", "c")
    assert not nobody.allows_everywhere("system:reset")


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_both_servers_hand_on_what_the_layer_needs(server: str, tmp_path: Path) -> None:
    """Raw headers of a socket: doubled, of another case, and not ASCII."""
    import socket

    from tests.compat.servers import our_server

    from chroma_async.server.auth.lines import token_line

    file = write(tmp_path / "tokens", token_line("a", TOKEN, "admin"))
    with our_server(tmp_path, "--auth-token-file", str(file), "--server", server, workers=1) as url:

        def status(*headers: bytes) -> bytes:
            host, _, port = url.removeprefix("http://").partition(":")
            head = b"GET /api/v2/auth/identity HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"".join(
                header + b"\r\n" for header in headers
            )
            with socket.create_connection((host, int(port)), 10) as connection:
                connection.sendall(head + b"\r\n")
                return connection.recv(12)[9:12]

        right = f"Bearer {TOKEN}".encode()
        assert status() == b"401"
        assert status(b"Authorization: " + right) == b"200"
        assert status(b"AUTHORIZATION:" + right) == b"200"
        assert status(b"authorization: " + right, b"Authorization: " + right) == b"401"
        assert status(b"authorization: " + right, b"X-Chroma-Token: x") == b"401"
        assert status(b"x-chroma-token: " + TOKEN.encode()) == b"200"
        assert status(b"x-chroma-token: \xff\xfe") in (b"401", b"400")
        assert status(b"Authorization : " + right) in (b"400", b"401")
        assert status(b"Authorization: Bearer\r\n " + TOKEN.encode()) in (b"400", b"401", b"200")


async def test_worker_that_starts_while_a_file_is_missing_refuses_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "users"
    access = build_access(AuthSettings(basic_file=str(path)))
    assert access is not None
    async with client_of(access.authenticator) as client:
        assert (await client.get("/x", headers=as_user("alice"))).status_code == 503
        write(path, htpasswd_line("alice", "password of alice", 5))
        await asyncio.sleep(1.05)
        assert (await client.get("/x", headers=as_user("alice"))).text == "alice"
