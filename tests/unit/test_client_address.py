"""Hosts as users write them, and the URLs of calls."""

from __future__ import annotations

import pytest

from chroma_async import Settings
from chroma_async.client.address import Address, parse_address
from chroma_async.client.options import server_address
from chroma_async.protocol import CountRecords, GetTenant


@pytest.mark.parametrize(
    ("host", "port", "ssl", "base_url"),
    [
        ("localhost", 8000, False, "http://localhost:8000"),
        ("db.example.org", 9000, True, "https://db.example.org:9000"),
        ("db:9001", 8000, False, "http://db:9001"),
        ("::1", 8000, False, "http://[::1]:8000"),
        ("[::1]:7000", 8000, False, "http://[::1]:7000"),
        ("http://db", 8000, False, "http://db:80"),
        ("http://db", 9000, False, "http://db:9000"),
        ("https://db", 8000, False, "https://db:443"),
        ("http://db", 8000, True, "https://db:443"),
        ("https://db:8443/", 8000, False, "https://db:8443"),
        ("https://db/vectors/a b/", 8000, False, "https://db:443/vectors/a%20b"),
        ("http://db:1/prefix/api/v2", 8000, False, "http://db:1/prefix"),
        ("http://[::1]:5/x", 8000, False, "http://[::1]:5/x"),
    ],
)
def test_a_host_means_a_base_url(host: str, port: int, ssl: bool, base_url: str) -> None:
    assert parse_address(host, port, ssl).base_url == base_url


@pytest.mark.parametrize("host", ["", "db/path", "ftp://db", "http://", "http://user:pw@db"])
def test_a_host_that_means_nothing_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        parse_address(host)


def test_path_values_and_query_values_are_encoded() -> None:
    call = CountRecords(tenant="a/b", database="d b", collection_id="c?", read_level="index_only")
    url = Address("http", "db", 80, "/x").url(call.route, call.encode())
    assert url == "http://db:80/x/api/v2/tenants/a%2Fb/databases/d%20b/collections/c%3F/count?read_level=index_only"


def test_an_empty_path_value_is_refused_before_it_means_another_route() -> None:
    call = GetTenant(tenant="")
    with pytest.raises(ValueError, match="tenant must not be empty"):
        Address("http", "db", 80).url(call.route, call.encode())


def test_settings_count_where_an_argument_was_left_out() -> None:
    settings = Settings(chroma_server_host="db", chroma_server_http_port=9, chroma_server_ssl_enabled=True)
    assert server_address("localhost", 8000, False, settings).base_url == "https://db:9"
    assert server_address("other", 7, False, settings).base_url == "https://other:7"
    with pytest.raises(ValueError, match="/api/v2"):
        server_address("localhost", 8000, False, Settings(chroma_server_api_default_path="/api/v1"))


def test_unix_socket_is_a_host() -> None:
    address = parse_address("unix:///run/chroma async.sock")
    assert address.unix_socket == "/run/chroma async.sock"
    assert address.base_url == "http://localhost:80"
    assert address.where == "unix:///run/chroma async.sock"
    for wrong in ("unix://", "unix://relative.sock"):
        with pytest.raises(ValueError, match="absolute path"):
            parse_address(wrong)
    with pytest.raises(ValueError, match="without TLS"):
        parse_address("unix:///run/x.sock", ssl=True)
