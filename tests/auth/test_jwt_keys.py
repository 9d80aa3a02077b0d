"""Keys of an identity provider at a URL: fetched when they are needed, and not by whoever makes up a key id."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.auth.providers import AUDIENCE, EC_KEY, ISSUER, OTHER_RSA_KEY, RSA_KEY, Hands, jwks, signed

from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.jwt import (
    KEYS_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    JwtProvider,
    UrlKeys,
    fetch_keys,
    parse_keys,
)
from chroma_async.server.auth.lines import EVERYTHING
from chroma_async.server.auth.provider import AuthConfigError, CannotDecide, Credential, Rejected

pytestmark = pytest.mark.anyio


class Publisher:
    """What answers at the URL: keys, or a failure."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.fetched = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, url: str) -> bytes:
        self.fetched += 1
        if self.hold is not None:
            await asyncio.wait_for(self.hold.wait(), 5)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.encode()


class Setup:
    def __init__(self, answer: str | Exception) -> None:
        self.publisher = Publisher(answer)
        self.clock = Hands()
        keys = UrlKeys("https://issuer.example.org/jwks", self.publisher, self.clock)
        self.provider = JwtProvider(keys, FixedValue(EVERYTHING), issuer=ISSUER, audience=AUDIENCE)

    async def ask(self, token: bytes) -> str:
        credential = Credential("bearer", token)
        await self.provider.prepare(credential)
        return self.provider.verify(credential).identity.name


async def test_keys_are_fetched_once_and_again_when_they_are_old() -> None:
    setup = Setup(jwks(("one", RSA_KEY)))
    for _ in range(3):
        assert await setup.ask(signed()) == "alice"
    assert setup.publisher.fetched == 1
    setup.clock.now += KEYS_SECONDS + 1
    assert await setup.ask(signed()) == "alice"
    await asyncio.sleep(0.05)
    assert setup.publisher.fetched == 2


async def test_rotated_key_is_found_at_once_and_invented_ones_fetch_rarely() -> None:
    setup = Setup(jwks(("one", RSA_KEY)))
    assert await setup.ask(signed()) == "alice"
    setup.publisher.answer = jwks(("two", OTHER_RSA_KEY))
    setup.clock.now += RETRY_SECONDS
    generation = setup.provider.generation
    assert await setup.ask(signed(OTHER_RSA_KEY, key_id="two")) == "alice"
    assert setup.provider.generation != generation
    with pytest.raises(Rejected, match="unknown key"):
        await setup.ask(signed())
    for number in range(100):
        with pytest.raises(Rejected):
            await setup.ask(signed(EC_KEY, "ES256", key_id=f"made-up-{number}"))
    assert setup.publisher.fetched == 2
    setup.clock.now += RETRY_SECONDS
    with pytest.raises(Rejected):
        await setup.ask(signed(EC_KEY, "ES256", key_id="made-up"))
    assert setup.publisher.fetched == 3


async def test_while_nobody_answers_old_keys_count_for_a_day_and_no_longer() -> None:
    setup = Setup(OSError("no route"))
    with pytest.raises(CannotDecide):
        await setup.ask(signed())
    with pytest.raises(CannotDecide):
        await setup.ask(signed())
    assert setup.publisher.fetched == 1
    setup.clock.now += RETRY_SECONDS
    setup.publisher.answer = jwks(("one", RSA_KEY))
    assert await setup.ask(signed()) == "alice"
    setup.publisher.answer = "<html>oops"
    setup.clock.now += STALE_SECONDS - 1
    assert await setup.ask(signed()) == "alice"
    await asyncio.sleep(0.05)
    setup.clock.now += 2
    with pytest.raises(CannotDecide):
        await setup.ask(signed())


async def test_known_keys_do_not_wait_for_a_slow_publisher() -> None:
    setup = Setup(jwks(("one", RSA_KEY)))
    assert await setup.ask(signed()) == "alice"
    setup.clock.now += RETRY_SECONDS
    setup.publisher.hold = asyncio.Event()
    waiting = asyncio.create_task(setup.ask(signed(key_id="unknown")))
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(setup.ask(signed()), 1.0) == "alice"
    setup.publisher.hold.set()
    with pytest.raises(Rejected):
        await waiting


async def test_header_without_a_pinned_algorithm_fetches_nothing() -> None:
    setup = Setup(jwks(("one", RSA_KEY)))
    for token in (signed(algorithm="PS384"), b"a.b.c", b""):
        with pytest.raises(Rejected):
            await setup.ask(token)
    assert setup.publisher.fetched == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}', '{"keys": [7]}']
)
def test_documents_without_a_public_key_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        parse_keys(text)


@pytest.mark.parametrize("algorithms", [(), ("HS256",), ("none",), ("RS256", "HS512")])
def test_algorithms_by_which_whoever_verifies_could_sign_cannot_be_pinned(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(AuthConfigError, match="--auth-jwt-algorithm"):
        JwtProvider(UrlKeys("https://x"), FixedValue(EVERYTHING), issuer="i", audience="a", algorithms=algorithms)


@contextmanager
def publishing(status: int, body: bytes, seconds_per_byte: float = 0.0, **headers: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not seconds_per_byte:
                self.wfile.write(body)
                return
            with suppress(ConnectionError):  # the client goes
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(seconds_per_byte)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks"
        finally:
            server.shutdown()
            thread.join()


async def test_keys_are_fetched_over_http_without_following_redirects() -> None:
    with publishing(200, jwks(("one", RSA_KEY)).encode()) as url:
        assert set(parse_keys((await fetch_keys(url)).decode())) == {"one"}
    with publishing(302, b"", Location="http://127.0.0.1:1/") as url, pytest.raises(ValueError, match="302"):
        await fetch_keys(url)
    with publishing(200, b"x" * 1_100_000) as url, pytest.raises(ValueError, match="more than"):
        await fetch_keys(url)


async def test_keys_that_drip_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_async.server.auth.jwt.FETCH_SECONDS", 0.5)
    with publishing(200, b" " * 50, seconds_per_byte=0.05) as url, pytest.raises(TimeoutError):
        await fetch_keys(url)


@pytest.mark.parametrize("key_id", ["", "same"])
async def test_of_keys_that_share_an_id_or_have_none_each_counts(key_id: str) -> None:
    keys = [json.loads(jwks((key_id, key)))["keys"][0] for key in (RSA_KEY, OTHER_RSA_KEY, EC_KEY)]
    for item in keys:
        item.pop("alg", None)
        if not key_id:
            del item["kid"]
    setup = Setup(json.dumps({"keys": keys}))
    named = key_id or None
    for token in (signed(key_id=named), signed(OTHER_RSA_KEY, key_id=named), signed(EC_KEY, "ES256", key_id=named)):
        assert await setup.ask(token) == "alice"
    body, _, _ = signed(key_id=named).rpartition(b".")
    _, _, signature = signed(key_id=named, sub="bob").rpartition(b".")
    with pytest.raises(Rejected, match="InvalidSignatureError"):
        await setup.ask(body + b"." + signature)
    with pytest.raises(Rejected, match="ExpiredSignatureError"):
        await setup.ask(signed(OTHER_RSA_KEY, key_id=named, exp=1))


def test_a_document_with_a_private_key_is_refused() -> None:
    document = json.loads(jwks(("one", RSA_KEY)))
    document["keys"][0]["d"] = "AQAB"
    with pytest.raises(ValueError, match="a private key in the JWKS document"):
        parse_keys(json.dumps(document))
