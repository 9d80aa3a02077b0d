"""TLS of the server itself: which protocols, whose certificates, and a renewed one."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from tests.support.waiting import eventually

from chroma_async.protocol import Heartbeat
from chroma_async.server import tls
from chroma_async.server.app import create_app
from chroma_async.server.life import Life
from chroma_async.server.tls import TlsError, tls_context
from chroma_async.server.worker import serve_by
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

SERVERS: tuple[HttpServer, ...] = ("hypercorn", "uvicorn")


class Files:
    """A CA, and certificates that it has signed, as files."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, name: str, *hosts: str) -> tuple[str, str]:
        issued = self.ca.issue_cert(*hosts)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return str(certificate), str(key)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def dispatch(call: Any) -> Any:
    assert isinstance(call, Heartbeat)
    return 1


@asynccontextmanager
async def serving(settings: ServerSettings, life: Life | None = None) -> AsyncIterator[str]:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(dispatch, settings)
        serve = serve_by(settings.http_server)
        running = asyncio.ensure_future(serve(app, settings, os.dup(listening.fileno()), stop, life))
        try:
            yield f"https://127.0.0.1:{listening.getsockname()[1]}/api/v2/heartbeat"
        finally:
            stop.set()
            await running


def settings_of(files: Files, **settings: Any) -> ServerSettings:
    certificate, key = files.issue("server", "127.0.0.1", "localhost")
    return ServerSettings(tls_certificate=certificate, tls_key=key, keep_alive_seconds=2.0, **settings)


@pytest.mark.parametrize("http_server", SERVERS)
async def test_best_common_protocol_is_spoken(files: Files, http_server: HttpServer) -> None:
    async with serving(settings_of(files, http_server=http_server)) as url:
        async with httpx.AsyncClient(http2=True, verify=files.trusting()) as client:
            answer = await client.get(url)
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http_server == "hypercorn" else "HTTP/1.1")
        async with httpx.AsyncClient(verify=files.trusting()) as client:
            assert (await client.get(url)).http_version == "HTTP/1.1"


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
async def test_curl_speaks_to_it(files: Files, option: str, version: str) -> None:
    async with serving(settings_of(files)) as url:
        command = [
            "curl",
            "-sS",
            option,
            "--cacert",
            str(files.ca_file),
            "-w",
            "%{http_version} %{http_code}",
            "-o",
            os.devnull,
        ]
        result = await asyncio.to_thread(subprocess.run, [*command, url], capture_output=True, text=True, check=False)
    assert result.stdout == f"{version} 200", result.stderr


@pytest.mark.parametrize("http_server", SERVERS)
async def test_client_must_show_a_certificate_where_a_ca_is_named(files: Files, http_server: HttpServer) -> None:
    async with serving(settings_of(files, http_server=http_server, tls_client_ca=str(files.ca_file))) as url:
        async with httpx.AsyncClient(verify=files.trusting()) as client:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                await client.get(url)
        known = files.trusting()
        known.load_cert_chain(*files.issue("client", "somebody@example.org"))
        async with httpx.AsyncClient(verify=known) as client:
            assert (await client.get(url)).status_code == 200
        (files.directory / "other").mkdir()
        stranger = files.trusting()
        stranger.load_cert_chain(*Files(files.directory / "other").issue("client", "somebody@example.org"))
        async with httpx.AsyncClient(verify=stranger) as client:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                await client.get(url)


@pytest.mark.parametrize("http_server", SERVERS)
async def test_who_speaks_something_else_keeps_nobody_waiting(files: Files, http_server: HttpServer) -> None:
    async with serving(settings_of(files, http_server=http_server)) as url:
        port = int(url.split(":")[2].partition("/")[0])
        _, silent = await asyncio.open_connection("127.0.0.1", port)
        plain, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not (await plain.read()).startswith(b"HTTP/1.1 2")
        async with httpx.AsyncClient(verify=files.trusting()) as client:
            assert (await client.get(url)).status_code == 200
        silent.close()
        writer.close()


@pytest.mark.parametrize("http_server", SERVERS)
async def test_connections_count_from_their_handshake_to_their_end(files: Files, http_server: HttpServer) -> None:
    """Else a worker would take a whole pool of a client before it seems to have anything to do."""
    life = Life()

    async def until(connections: int) -> None:
        await eventually(lambda: life.load.connections == connections, tell=lambda: life.load.connections)

    async with serving(settings_of(files, http_server=http_server), life) as url:
        silent = [socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) for _ in range(3)]
        await until(3)
        async with httpx.AsyncClient(verify=files.trusting()) as client:
            assert (await client.get(url)).status_code == 200
            await until(4)
            for connection in silent:
                connection.close()
            await until(1)
        await until(0)


@pytest.mark.parametrize("http_server", SERVERS)
async def test_renewed_certificate_is_taken_and_a_broken_one_is_not(
    files: Files, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    settings = settings_of(files, http_server=http_server)

    async def serial(url: str) -> int:
        host, port = url.removeprefix("https://").partition("/")[0].split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=files.trusting())
        shown: Any = writer.get_extra_info("peercert")
        writer.close()
        return int(shown["serialNumber"], 16)

    async with serving(settings) as url:
        first = await serial(url)
        files.issue("server", "127.0.0.1")
        second = await serial(url)
        assert second != first
        Path(str(settings.tls_key)).write_text("nonsense")
        assert await serial(url) == second


def test_old_versions_are_not_spoken(files: Files) -> None:
    context = tls_context(settings_of(files))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all("GCM" in cipher["name"] or "CHACHA20" in cipher["name"] for cipher in context.get_ciphers())


def test_files_that_are_none_are_told(files: Files, tmp_path: Path) -> None:
    certificate, key = files.issue("server", "localhost")
    _, other_key = files.issue("other", "localhost")
    assert tls_context(ServerSettings()) is None
    for wrong in (
        {"tls_certificate": certificate},
        {"tls_key": key},
        {"tls_client_ca": str(files.ca_file)},
        {"tls_certificate": certificate, "tls_key": other_key},
        {"tls_certificate": str(tmp_path / "missing"), "tls_key": key},
        {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": key},
    ):
        with pytest.raises(TlsError, match=r"tls[_-]"):
            tls_context(ServerSettings(**wrong))  # type: ignore[arg-type]
