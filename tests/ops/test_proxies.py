"""Behind real proxies, as `ops` configures them: TLS, HTTP/2, a prefix, credentials, large bodies, everybody's clients."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api.fastapi import FastAPI
from chromadb.config import System
from tests.integrations.environments import SUITES, node_environment, python_environment
from tests.ops.processes import chroma_async
from tests.ops.proxies import Authority, Programs, Proxy, caddy, nginx
from tests.support.streams import streaming

from chroma_async import AsyncHttpClient, HttpClient, Settings
from chroma_async.errors import AuthorizationError

pytestmark = pytest.mark.timeout(300)

PREFIX = "/chroma"
USER, PASSWORD = "ann", "correct horse: battery"
MIB = 2**20
COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


@dataclass(frozen=True)
class Behind:
    """A proxy that offers the server below a path, and one of the same kind that offers it at the root."""

    below: Proxy
    root: Proxy
    server_log: Path


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def behind(
    request: pytest.FixtureRequest, programs: Programs, authority: Authority, directory: Path, server: Path
) -> Iterator[Behind]:
    start, upstream = {"nginx": (nginx, f"unix:{server}"), "caddy": (caddy, f"unix/{server}")}[request.param]
    below, root = directory / f"{request.param}-below", directory / f"{request.param}-root"
    below.mkdir()
    root.mkdir()
    with (
        start(programs, authority, below, upstream, PREFIX) as first,
        start(programs, authority, root, upstream) as second,
    ):
        yield Behind(first, second, directory / "server.log")


@pytest.fixture(scope="module")
def server(programs: Programs, directory: Path) -> Iterator[Path]:
    """The unix socket of a server with a user whose password `htpasswd` has written."""
    users, socket = directory / "users", directory / "socket"
    made = subprocess.run(
        [programs["htpasswd"], "-Bbn", USER, PASSWORD],
        stdout=subprocess.PIPE,
        env={**os.environ, **programs.environment},
        check=True,
    )
    users.write_bytes(made.stdout)
    options = ("--unix-socket", socket, "--trusted-proxy", "unix", "--root-path", PREFIX, "--auth-basic-file", users)
    with chroma_async(directory, *options, "--body-bytes-max", str(128 * MIB), "--access-log", "json"):
        yield socket


@pytest.fixture
def http(behind: Behind, authority: Authority) -> Iterator[httpx.Client]:
    """Raw HTTP below the path, with credentials."""
    with httpx.Client(base_url=behind.below.url, verify=authority.context(), auth=(USER, PASSWORD), timeout=60) as client:
        yield client


def trusting(authority: Authority) -> Settings:
    return Settings(chroma_server_ssl_verify=str(authority.root))


def test_tls_and_http_2_end_at_the_proxy(behind: Behind, authority: Authority) -> None:
    for http2, version in ((False, "HTTP/1.1"), (True, "HTTP/2")):
        with httpx.Client(verify=authority.context(), http1=not http2, http2=http2) as client:
            answer = client.get(behind.below.url + "/api/v2/heartbeat")
        assert (answer.status_code, answer.http_version) == (200, version)


def test_plain_http_gets_no_answer_of_the_server(behind: Behind) -> None:
    try:
        answer = httpx.get(f"http://localhost:{behind.below.port}{PREFIX}/api/v2/heartbeat")
    except httpx.TransportError:
        return
    assert answer.status_code == 400


def test_server_checks_the_credentials_that_the_proxy_passes_on(behind: Behind, authority: Authority) -> None:
    with httpx.Client(base_url=behind.below.url, verify=authority.context()) as client:
        assert client.get(COLLECTIONS, auth=(USER, PASSWORD)).status_code == 200
        for refused in (client.get(COLLECTIONS), client.get(COLLECTIONS, auth=(USER, "wrong"))):
            assert refused.status_code == 401
            assert set(refused.json()) == {"error", "message"}
        assert client.get("/api/v2/heartbeat").status_code == 200


def test_path_prefix_and_encoded_slashes_arrive_as_sent(http: httpx.Client) -> None:
    created = http.post(COLLECTIONS, json={"name": "a.b_c-d", "get_or_create": True})
    assert created.status_code == 200
    missing = http.get(COLLECTIONS + "/no%2Fsuch%20one")
    assert missing.status_code == 404
    assert "no/such one" in missing.json()["message"]
    assert http.get(COLLECTIONS + "/metrics").json()["error"] == "NotFoundError"
    http.delete(COLLECTIONS + "/a.b_c-d")


def test_nothing_outside_the_prefix_reaches_the_server(behind: Behind, authority: Authority) -> None:
    with httpx.Client(verify=authority.context()) as client:
        outside = client.get(f"https://localhost:{behind.below.port}/api/v2/heartbeat")
    assert "nanosecond heartbeat" not in outside.text


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"])
def test_metrics_are_not_for_everybody(behind: Behind, authority: Authority, path: str) -> None:
    for proxy in (behind.below, behind.root):
        with httpx.Client(verify=authority.context(), auth=(USER, PASSWORD)) as client:
            request = client.build_request("GET", proxy.url)
            request.url = request.url.copy_with(raw_path=(proxy.prefix + path).encode())
            answer = client.send(request)
        assert answer.status_code == 404
        assert "chroma_async" not in answer.text


def test_server_learns_the_clients_address_and_not_what_it_invents(behind: Behind, http: httpx.Client) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
        "X-Forwarded-Host": "evil.example.org",
        "X-Real-IP": "203.0.113.9",
    }
    mark = f"mark-{behind.below.port}"
    assert http.get(f"{COLLECTIONS}/{mark}", headers=forged).status_code == 404
    lines: list[str] = []
    deadline = time.monotonic() + 10
    while not lines and time.monotonic() < deadline:  # a line is written after its answer
        lines = [line for line in behind.server_log.read_text().splitlines() if mark in line]
        time.sleep(0.05)
    assert len(lines) == 1
    logged = json.loads(lines[0][lines[0].index("{") :])
    assert logged["client"] == "127.0.0.1"
    assert "203.0.113.9" not in lines[0]


def test_100_megabytes_are_taken_at_once_and_more_is_refused(http: httpx.Client) -> None:
    created = http.post(COLLECTIONS, json={"name": "large"}).json()
    rows, dimension = 20_000, 960
    vectors = np.random.default_rng(6).standard_normal((rows, dimension), dtype=np.float32)
    encoded = [base64.b64encode(vector).decode() for vector in vectors]
    body = json.dumps({"ids": [str(row) for row in range(rows)], "embeddings": encoded}).encode()
    assert len(body) > 100 * 10**6
    assert http.post(f"{COLLECTIONS}/{created['id']}/add", content=body).status_code in (200, 201)
    assert http.get(f"{COLLECTIONS}/{created['id']}/count").json() == rows
    nearest = http.post(
        f"{COLLECTIONS}/{created['id']}/query", json={"query_embeddings": [vectors[77].tolist()], "n_results": 1}
    )
    assert nearest.json()["ids"] == [["77"]]
    refused = http.post(f"{COLLECTIONS}/{created['id']}/add", content=bytes(129 * MIB))
    assert refused.status_code == 413
    assert str(128 * MIB) in refused.json()["message"]
    assert http.delete(f"{COLLECTIONS}/large").status_code == 200


def test_sync_client_ingests_100_megabytes_in_several_requests(behind: Behind, authority: Authority) -> None:
    rows, dimension = 25_000, 768
    vectors = np.random.default_rng(7).standard_normal((rows, dimension), dtype=np.float32)
    with HttpClient(behind.below.url, auth=(USER, PASSWORD), settings=trusting(authority)) as client:
        many = client.get_or_create_collection("many")
        many.add(ids=[str(row) for row in range(rows)], embeddings=vectors)
        assert many.count() == rows
        assert many.query(query_embeddings=vectors[:2], n_results=1)["ids"] == [["0"], ["1"]]
        client.delete_collection("many")


@pytest.mark.anyio
async def test_async_client_does_its_work(behind: Behind, authority: Authority) -> None:
    async with AsyncHttpClient(behind.below.url, auth=(USER, PASSWORD), settings=trusting(authority)) as client:
        films = await client.create_collection("films-async")
        await films.add(ids=["alien", "amelie"], embeddings=[[1.0, 0.0], [0.0, 1.0]])
        assert (await films.query(query_embeddings=[[0.9, 0.1]], n_results=1))["ids"] == [["alien"]]
        await client.delete_collection("films-async")


def test_sync_client_tells_a_wrong_password(behind: Behind, authority: Authority) -> None:
    with (
        pytest.raises(AuthorizationError),
        HttpClient(behind.below.url, auth=(USER, "wrong"), settings=trusting(authority)) as client,
    ):
        client.list_collections()


@pytest.mark.usefixtures("sessions_of_chroma")
@pytest.mark.filterwarnings("ignore:`verify=<str>`:DeprecationWarning")
def test_chromas_own_client_does_its_work(behind: Behind, authority: Authority) -> None:
    settings = chromadb.Settings(
        anonymized_telemetry=False,
        chroma_client_auth_provider="chromadb.auth.basic_authn.BasicAuthClientProvider",
        chroma_client_auth_credentials=f"{USER}:{PASSWORD}",
        chroma_server_ssl_verify=str(authority.root),
    )
    client = chromadb.HttpClient(behind.below.url, ssl=True, settings=settings)
    notes = client.create_collection("notes", embedding_function=None)
    notes.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]], documents=["first", "second"])
    assert notes.query(query_embeddings=[[0.9, 0.1]], n_results=1)["documents"] == [["first"]]
    assert notes.count() == 2
    client.delete_collection("notes")
    client.close()


@pytest.fixture
def sessions_of_chroma(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chroma's client leaves its connections open, also when it is closed."""
    sessions: list[httpx.Client] = []
    construct = FastAPI.__init__

    def construct_and_remember(self: FastAPI, system: System) -> None:
        construct(self, system)
        sessions.append(self._session)

    monkeypatch.setattr(FastAPI, "__init__", construct_and_remember)
    yield
    for session in sessions:
        session.close()


def test_npm_client_does_its_work(behind: Behind, authority: Authority) -> None:
    node = python_environment(SUITES / "node.txt")
    packages = node_environment(SUITES / "npm", node)
    # A module finds packages beside itself.
    journey = shutil.copy(Path(__file__).with_name("journey.mjs"), packages / "proxy.mjs")
    variables = {
        "NODE_EXTRA_CA_CERTS": str(authority.root),
        "CHROMA_ASYNC_TEST_URL": behind.root.url,
        "CHROMA_ASYNC_TEST_USER": f"{USER}:{PASSWORD}",
    }
    done = subprocess.run(
        [node / "node", journey], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "done"


@pytest.mark.parametrize("http2", [False, True])
def test_changes_arrive_while_the_answer_goes_on_and_so_do_signs_of_life(
    behind: Behind, authority: Authority, http2: bool
) -> None:
    """Each change alone, at once: nothing on the way collects an answer that has no end."""
    context = authority.context()
    with httpx.Client(
        base_url=behind.below.url, verify=context, auth=(USER, PASSWORD), timeout=20, http1=not http2, http2=http2
    ) as client:
        made = client.post(COLLECTIONS, json={"name": f"followed-{http2}", "get_or_create": True}).json()["id"]
        path = f"{COLLECTIONS}/{made}"
        with client.stream("GET", f"{path}/changes?heartbeat=0.5") as feed:
            assert feed.headers["content-type"] == "text/event-stream"
            lines = feed.iter_lines()
            assert next(lines) == "retry: 1000"
            waits: list[float] = []
            for number in range(5):
                added = client.post(f"{path}/add", json={"ids": [f"{number}"], "embeddings": [[1, 2]]})
                assert added.status_code == 201
                began = time.monotonic()
                data = next(line for line in lines if line.startswith("data: "))
                waits.append(time.monotonic() - began)
                assert json.loads(data[6:])["ids"] == [f"{number}"]
            assert sorted(waits)[2] < 0.3, waits
            assert next(line for line in lines if line.startswith(":")) == ": heartbeat"
        client.delete(f"{COLLECTIONS}/followed-{http2}")


def test_our_client_follows_changes_through_a_proxy(behind: Behind, authority: Authority) -> None:
    with HttpClient(behind.below.url, settings=trusting(authority), auth=(USER, PASSWORD)) as client:
        collection = client.get_or_create_collection("followed", embedding_function=None)
        with collection.watch() as watch:
            for number in range(3):
                collection.upsert(ids=[f"{number}"], embeddings=[[1.0, 2.0]])
                assert next(watch).ids == [f"{number}"]
        client.delete_collection("followed")


@pytest.mark.anyio
@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_is_acknowledged_while_its_body_flows(
    programs: Programs, authority: Authority, server: Path, tmp_path: Path, http2: bool
) -> None:
    """Nothing waits in the proxy: not the first line, not the acknowledgement of it, not the 30 MB that follow."""
    with (
        nginx(programs, authority, tmp_path, f"unix:{server}", PREFIX) as proxy,
        httpx.Client(base_url=proxy.url, verify=authority.context(), auth=(USER, PASSWORD), timeout=60) as http,
    ):
        await stream_through(proxy, authority, http, http2)


async def stream_through(proxy: Proxy, authority: Authority, http: httpx.Client, http2: bool) -> None:
    place = http.post(COLLECTIONS, json={"name": f"stream-{http2}"}).raise_for_status().json()["id"]
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    async with streaming(
        proxy.port,
        place,
        http2=http2,
        tls=authority.context(),
        prefix=PREFIX,
        headers={"authorization": f"Basic {credentials}"},
    ) as stream:
        for number in range(1, 4):
            began = time.monotonic()
            await stream.send(b'{"id": "%d", "embedding": [1, 2]}\n' % number)
            while (line := await stream.line()) is not None and line["position"] < number:
                pass
            assert line is not None
            assert time.monotonic() - began < 5
        text = b"x" * 10_000
        for number in range(4, 3_004):
            await stream.send(b'{"id": "%d", "embedding": [1, 2], "document": "%b"}\n' % (number, text))
        while (line := await stream.line()) is not None and line["position"] < 1_000:
            pass
        await stream.end()
        last = await stream.last()
        assert (last["position"], last["done"], last["errors"]) == (3_003, True, [])
    assert http.get(f"{COLLECTIONS}/{place}/count").json() == 3_003
    http.delete(f"{COLLECTIONS}/stream-{http2}")
