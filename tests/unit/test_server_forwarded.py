"""Which headers of a proxy count, and what they change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from chroma_async.server.forwarded import PEER, Forwarded
from chroma_async.server.peers import TrustedPeers
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio

PROXY = ("10.0.0.1", 40_000)
STRANGER = ("203.0.113.9", 40_000)


async def seen(
    headers: dict[str, str] | list[tuple[str, str]],
    *,
    client: tuple[str, int] | None = PROXY,
    path: str = "/api/v2",
    **settings: Any,
) -> Scope:
    """The scope of a request as the application gets it."""
    got: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(scope)

    pairs = headers.items() if isinstance(headers, dict) else headers
    scope: Scope = {
        "type": "http",
        "client": client,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "headers": [(b"host", b"inside"), *((name.lower().encode(), value.encode("latin-1")) for name, value in pairs)],
    }
    chosen = ServerSettings(**{"trusted_proxies": ("10.0.0.0/8", "::1", "unix"), **settings})
    await Forwarded(app, chosen)(scope, None, None)  # type: ignore[arg-type]
    return got[0]


def header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


async def test_trusted_proxy_names_client_scheme_host_and_prefix() -> None:
    said = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "db.example.org:8443",
        "X-Forwarded-Prefix": "/chroma/",
    }
    scope = await seen(said)
    assert scope["client"] == ("203.0.113.9", 0)
    assert scope["scheme"] == "https"
    assert header(scope, b"host") == [b"db.example.org:8443"]
    assert scope["root_path"] == "/chroma"
    assert scope[PEER] == "10.0.0.1"


async def test_strangers_headers_change_nothing() -> None:
    said = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "for=127.0.0.1;proto=https;host=evil",
    }
    for proxy_headers in ("x-forwarded", "forwarded"):
        scope = await seen(said, client=STRANGER, proxy_headers=proxy_headers)
        assert scope["client"] == STRANGER
        assert scope["scheme"] == "http"
        assert header(scope, b"host") == [b"inside"]
        assert scope["root_path"] == ""


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
        ("203.0.113.9:1234", "203.0.113.9"),
        ("[2001:db8::9]:1234", "2001:db8::9"),
        ("2001:db8::9", "2001:db8::9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("unknown", "10.0.0.1"),
        ("203.0.113.9, unknown, 10.0.0.7", "10.0.0.7"),
        ("localhost", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",".join(["10.0.0.2"] * 5000), "10.0.0.2"),
        ("127.0.0.1\tx", "10.0.0.1"),
    ],
)
async def test_client_is_the_last_address_that_is_not_trusted(value: str, client: str) -> None:
    assert (await seen({"X-Forwarded-For": value}))["client"][0] == client


async def test_repeated_headers_are_one_list_and_the_nearest_proxy_counts() -> None:
    said = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "http, https")]
    scope = await seen(said)
    assert scope["client"][0] == "203.0.113.9"
    assert scope["scheme"] == "https"


@pytest.mark.parametrize(
    ("value", "client", "scheme", "host"),
    [
        ("for=203.0.113.9;proto=https;host=db.example.org", "203.0.113.9", "https", b"db.example.org"),
        ('For="[2001:db8::9]:80" ; Proto=HTTPS', "2001:db8::9", "https", b"inside"),
        ("for=1.1.1.1, for=203.0.113.9;proto=https", "203.0.113.9", "https", b"inside"),
        ("for=_hidden;proto=https", "10.0.0.1", "https", b"inside"),
        ('for="203.0.113.9', "10.0.0.1", "http", b"inside"),
        ('for=203.0.113.9;host="a\\"b"', "203.0.113.9", "http", b"inside"),
        ("nonsense", "10.0.0.1", "http", b"inside"),
        (";;,,", "10.0.0.1", "http", b"inside"),
    ],
)
async def test_forwarded_header_of_rfc_7239(value: str, client: str, scheme: str, host: bytes) -> None:
    scope = await seen({"Forwarded": value}, proxy_headers="forwarded")
    assert (scope["client"][0], scope["scheme"], header(scope, b"host")) == (client, scheme, [host])


async def test_only_the_kind_counts_that_the_proxy_sets() -> None:
    """A proxy passes on what it does not know: a client behind it could invent the other kind."""
    said = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=127.0.0.1"}
    assert (await seen(said))["client"][0] == "203.0.113.9"
    assert (await seen(said, proxy_headers="forwarded"))["client"][0] == "127.0.0.1"


async def test_unix_socket_is_trusted_when_it_is_named() -> None:
    scope = await seen({"X-Forwarded-For": "203.0.113.9"}, client=None)
    assert (scope["client"], scope[PEER]) == (("203.0.113.9", 0), "unix")
    assert (await seen({"X-Forwarded-For": "203.0.113.9"}, client=None, trusted_proxies=("10.0.0.1",)))["client"] is None


async def test_prefix_of_a_header_never_changes_the_path() -> None:
    scope = await seen({"X-Forwarded-Prefix": "/public"}, path="/public/api/v2/reset")
    assert scope["raw_path"] == b"/public/api/v2/reset"


@pytest.mark.parametrize("prefix", ["//evil", "/a/../b", "/./a", "http://evil", "/a b", "/a\\b", "/a?b", "/a#b", "/a\x00"])
async def test_prefix_that_is_no_plain_path_is_ignored(prefix: str) -> None:
    assert (await seen({"X-Forwarded-Prefix": prefix}))["root_path"] == ""


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a\r\nb", "[::1", "a:b", ""])
async def test_host_that_is_none_is_ignored(host: str) -> None:
    assert header(await seen({"X-Forwarded-Host": host}), b"host") == [b"inside"]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/chroma/api/v2", "/api/v2"),
        ("/api/v2", "/api/v2"),
        ("/chroma/chroma/api/v2", "/chroma/api/v2"),
        ("/chromatic/api/v2", "/chromatic/api/v2"),
        ("/chroma", "/chroma"),
        ("/chroma/", "/"),
        ("//chroma/api/v2", "//chroma/api/v2"),
        ("/CHROMA/api/v2", "/CHROMA/api/v2"),
        ("/chr%6Fma/api/v2", "/chr%6Fma/api/v2"),
    ],
)
async def test_root_path_is_taken_off_once(path: str, left: str) -> None:
    scope = await seen({}, path=path, root_path="/chroma", client=STRANGER)
    assert scope["raw_path"] == left.encode()
    assert scope["path"] == left
    assert scope["root_path"] == "/chroma"


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=80))
async def test_no_header_breaks_anything(value: str) -> None:
    for proxy_headers in ("x-forwarded", "forwarded"):
        names = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "Forwarded")
        scope = await seen(dict.fromkeys(names, value), proxy_headers=proxy_headers)
        assert scope["scheme"] in ("http", "https")
        assert not set(scope["root_path"]) & set(' \r\n\t"<>\\?#')


def test_entries_are_addresses_networks_and_unix() -> None:
    peers = TrustedPeers(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix"])
    assert all(peer in peers for peer in ("10.9.9.9", "192.0.2.1", "2001:db8::1", "unix", "::ffff:10.1.1.1"))
    assert not any(peer in peers for peer in ("192.0.2.2", "11.0.0.1", "::1", "", "10.0.0.0/8", "unix "))
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        TrustedPeers(["10.0.0.1/8"])
