"""Real servers with files of credentials: started wrongly, changed while they run, and what they write down."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from tests.auth.providers import jwks, signed
from tests.auth.start import COMMAND, start_server
from tests.compat.servers import our_server
from tests.support.engines import Records, create_collection, delete_collection, engine_at
from tests.support.streams import streaming, target
from tests.support.waiting import wait_until
from tests.unit.test_server_start import assert_one_line

from chroma_async.engine.author import AUTHOR
from chroma_async.server.auth.basic import htpasswd_line
from chroma_async.server.auth.lines import make_token, token_line
from chroma_async.server.run import _check_access
from chroma_async.settings import AuthSettings, ServerSettings

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


def command(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=given, capture_output=True, text=True, timeout=60, check=False
    )


def file(directory: Path, text: str | bytes = "", name: str = "file") -> str:
    path = directory / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("--auth-basic-file", None, ["can't read the file", "No such file"]),
        ("--auth-basic-file", "", ["no user"]),
        ("--auth-basic-file", "alice", ["line 1", "colon"]),
        ("--auth-basic-file", "a:b\n", ["line 1", "htpasswd -B"]),
        ("--auth-basic-file", "a:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", ["htpasswd -B"]),
        ("--auth-basic-file", "a:rqXexS6ZhobKA", ["htpasswd -B"]),
        ("--auth-basic-file", "a:$2y$05$cutoff", ["cut off"]),
        ("--auth-basic-file", b"a:\xff", ["UTF-8"]),
        ("--auth-token-file", None, ["can't read the file"]),
        ("--auth-token-file", "{}", ["line 1"]),
        ("--auth-token", "two words", ["--auth-token", "ASCII"]),
        ("--auth-proxy-header", "X-User", ["--trusted-proxy"]),
        ("--auth-jwt-jwks", "jwks.json", ["--auth-jwt-issuer"]),
        ("--auth-roles-file", "", ["needs a provider"]),
        ("--audit-log", "", ["needs a provider"]),
    ],
)
def test_server_does_not_start_with_what_it_cannot_follow(
    tmp_path: Path, option: str, text: str | bytes | None, words: list[str]
) -> None:
    as_file = option.endswith(("-file", "-log"))
    value = str(tmp_path / "missing") if text is None else file(tmp_path, text) if as_file else str(text)
    result = start_server(tmp_path, option, value)
    assert_one_line(result, 2, *words)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--auth-basic-file",
        "--auth-token-file",
        "--auth-token",
        "--auth-proxy-header",
        "--auth-jwt-jwks",
        "--auth-roles-file",
        "--audit-log",
    ],
)
def test_an_empty_value_as_of_an_unset_variable_lets_nobody_in(tmp_path: Path, option: str) -> None:
    assert_one_line(start_server(tmp_path, option, ""), 2)


def test_identity_that_others_vouch_for_needs_roles(tmp_path: Path) -> None:
    result = start_server(tmp_path, "--auth-proxy-header", "X-User", "--trusted-proxy", "127.0.0.1")
    assert_one_line(result, 2, "--auth-roles-file")
    jwt = ["--auth-jwt-issuer", "i", "--auth-jwt-audience", "a"]
    result = start_server(tmp_path, "--auth-jwt-jwks", "http://keys.example.org/jwks.json", *jwt)
    assert_one_line(result, 2, "--auth-roles-file")
    roles = file(tmp_path, '{"name": "a", "role": "read"}')
    result = start_server(tmp_path, "--auth-jwt-jwks", "http://keys.example.org/jwks.json", *jwt, "--auth-roles-file", roles)
    assert_one_line(result, 2, "https")


@pytest.mark.parametrize("address", ["10.0.0.0/33", "10.0.0.1/8", "proxy.example.org", ""])
def test_trusted_proxies_are_addresses(tmp_path: Path, address: str) -> None:
    result = start_server(tmp_path, "--auth-proxy-header", "X-User", "--trusted-proxy", address)
    assert_one_line(result, 2, "--trusted-proxy", repr(address))


def test_htpasswd_file_is_followed_while_the_server_runs(tmp_path: Path) -> None:
    """Lines as `htpasswd -Bbn` prints them; replaced, spoiled, removed and brought back."""
    users = Path(file(tmp_path, htpasswd_line("alice", "one", 5), "users"))

    def status(user: str, password: str) -> int:
        return httpx.get(f"{url}/api/v2/auth/identity", auth=(user, password)).status_code

    def until(user: str, password: str, expected: int) -> None:
        wait_until(lambda: status(user, password) == expected, tell=lambda: f"{user} {password} {expected}")

    with our_server(tmp_path, "--auth-basic-file", str(users), workers=2) as url:
        assert status("alice", "one") == 200
        assert status("alice", "two") == 401
        users.write_text(htpasswd_line("alice", "two", 5) + "\n" + htpasswd_line("bob", "three", 5))
        until("alice", "two", 200)
        until("alice", "one", 401)
        until("bob", "three", 200)
        users.write_text("nonsense")
        until("alice", "two", 503)
        until("bob", "three", 503)
        users.unlink()
        until("nobody", "two", 503)
        assert httpx.get(f"{url}/api/v2/heartbeat").status_code == 200
        users.write_text(htpasswd_line("bob", "three", 5))
        until("bob", "three", 200)
        until("alice", "two", 401)


def test_commands_make_what_a_server_takes(tmp_path: Path) -> None:
    user = command("auth", "user", "alice", "--stdin", "--cost", "5", given="pass word\n")
    assert user.stdout.startswith("alice:$2y$05$")
    made = command("auth", "token", "ingest", "--role", "write", "--tenant", "default_tenant", "--days", "1")
    token = made.stderr.strip()
    assert token not in made.stdout
    assert len(token) == 43
    given = command("auth", "token", "given", "--role", "read", "--stdin", given="a-token-of-my-own\n")
    assert given.stderr == ""
    options = [
        "--auth-basic-file",
        file(tmp_path, user.stdout, "users"),
        "--auth-token-file",
        file(tmp_path, made.stdout + given.stdout, "tokens"),
    ]
    environment = {"CHROMA_ASYNC_AUTH_TOKEN": "another-token-of-mine"}
    with our_server(tmp_path, *options, workers=1, environment=environment) as url:
        identity = f"{url}/api/v2/auth/identity"
        assert httpx.get(identity, auth=("alice", "pass word")).json()["user_id"] == "alice"
        found = httpx.get(identity, headers={"X-Chroma-Token": token}).json()
        assert found == {"user_id": "ingest", "tenant": "default_tenant", "databases": ["*"]}
        for own, name in (("a-token-of-my-own", "given"), ("another-token-of-mine", "token")):
            answer = httpx.get(identity, headers={"Authorization": f"Bearer {own}"})
            assert answer.json()["user_id"] == name


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("token", "a", "--role", "read", "--stdin"), "short\n", ["16 characters"]),
        (("token", "a", "--role", "read", "--stdin"), "sixteen characters with spaces\n", ["ASCII"]),
        (("token", "a\nb", "--role", "read"), "", ["printable"]),
        (("token", "a", "--role", "read", "--tenant", ""), "", ["tenants"]),
        (("user", "a:b", "--stdin"), "x\n", ["colon"]),
        (("user", "a", "--stdin"), "\n", ["72 bytes"]),
        (("user", "a", "--stdin"), "x" * 73 + "\n", ["72 bytes"]),
    ],
)
def test_commands_refuse_what_a_server_would(arguments: tuple[str, ...], given: str, words: list[str]) -> None:
    result = command("auth", *arguments, given=given)
    assert_one_line(result, 2, *words)
    assert len(given) < 10 or given.strip() not in result.stderr


def test_jwts_and_a_trusted_proxys_word_open_what_the_roles_say(tmp_path: Path) -> None:
    roles = file(tmp_path, '{"name": "alice", "role": "read"}\n{"group": "writers", "role": "write"}\n', "roles")
    from tests.auth.providers import AUDIENCE, ISSUER, RSA_KEY

    options = ["--auth-jwt-jwks", file(tmp_path, jwks(("one", RSA_KEY)), "jwks.json")]
    options += ["--auth-jwt-issuer", ISSUER, "--auth-jwt-audience", AUDIENCE, "--auth-roles-file", roles]
    options += ["--auth-proxy-header", "X-Forwarded-User", "--trusted-proxy", "127.0.0.0/8"]
    with our_server(tmp_path, *options, workers=1) as url, httpx.Client(base_url=url) as client:

        def create(headers: dict[str, str], name: str) -> int:
            return client.post(COLLECTIONS, json={"name": name}, headers=headers).status_code

        reader = {"Authorization": f"Bearer {signed().decode()}"}
        writer = {"Authorization": f"Bearer {signed(sub='bob', groups=['writers']).decode()}"}
        stranger = {"Authorization": f"Bearer {signed(sub='eve').decode()}"}
        assert client.get("/api/v2/auth/identity", headers=reader).json()["user_id"] == "alice"
        assert [create(headers, "films") for headers in (reader, stranger, writer)] == [403, 403, 200]
        assert client.get(f"{COLLECTIONS}/films", headers={"X-Forwarded-User": "alice"}).status_code == 200
        assert create({"X-Forwarded-User": "alice"}, "books") == 403
        assert create({**writer, "X-Forwarded-User": "alice"}, "books") == 401


def test_accepted_writes_are_kept_in_the_audit_log_which_may_be_rotated(tmp_path: Path) -> None:
    token = make_token()
    tokens = file(tmp_path, token_line("ingest", token, "admin"), "tokens")
    trail = tmp_path / "audit.jsonl"
    body = {"ids": ["a", "b"], "embeddings": [[1.0, 2.0], [2.0, 1.0]]}
    with (
        our_server(tmp_path, "--auth-token-file", tokens, "--audit-log", str(trail), workers=2) as url,
        httpx.Client(base_url=url, headers={"X-Chroma-Token": token}) as client,
    ):
        made = client.post(COLLECTIONS, json={"name": "films"}).json()["id"]
        added = client.post(f"{COLLECTIONS}/{made}/add", json=body).raise_for_status()
        client.post(f"{COLLECTIONS}/{made}/delete", json={"ids": ["a"]}).raise_for_status()
        client.post(f"{COLLECTIONS}/{made}/get", json={}).raise_for_status()
        assert client.post(f"{COLLECTIONS}/{made}/delete", json={"ids": []}).status_code == 400
        trail.rename(tmp_path / "rotated.jsonl")
        client.post(f"{COLLECTIONS}/{made}/upsert", json=body).raise_for_status()
    kept = [json.loads(line) for line in (tmp_path / "rotated.jsonl").read_text().splitlines()]
    assert [line["call"] for line in kept] == ["CreateCollection", "AddRecords", "DeleteRecords"]
    assert {line["identity"] for line in kept} == {"ingest"}
    lsn = int(added.headers["chroma-async-lsn"])
    assert (kept[1]["ids"], kept[1]["lsn"], kept[1]["collection_id"]) == (2, lsn, made)
    assert kept[2]["deleted"] == 1
    assert [json.loads(line)["call"] for line in trail.read_text().splitlines()] == ["UpsertRecords"]


async def write_as(directory: Path) -> tuple[str, str]:
    """Two authors and nobody write to two collections, and nothing is applied."""
    async with engine_at(directory) as engine:
        ids: list[str] = []
        for author in ("alice", "bob"):
            AUTHOR.set(author)
            ids.append((await create_collection(engine, author)).id)
            await Records(engine, ids[-1]).upsert(["a", "b", "c"], [[1.0, 2.0]] * 3)
            AUTHOR.set(None)
            await Records(engine, ids[-1]).delete(["a", "b"])
        AUTHOR.set("bob")
        await delete_collection(engine, "bob")
        AUTHOR.set(None)
        return ids[0], ids[1]


def test_who_wrote_what_is_printed_from_the_log(tmp_path: Path) -> None:
    alices, bobs = asyncio.run(write_as(tmp_path / "data"))

    def printed(*arguments: str) -> list[dict[str, Any]]:
        result = command("audit", tmp_path / "data", "--json", *arguments)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def short(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(line["lsn"], line["author"], line["event"], line["records"]) for line in lines]

    alice = [
        (3, "alice", "CollectionCreated", None),
        (4, "alice", "RecordsWritten.upsert", 3),
        (5, None, "RecordsDeleted", 2),
    ]
    bob = [
        (6, "bob", "CollectionCreated", None),
        (7, "bob", "RecordsWritten.upsert", 3),
        (8, None, "RecordsDeleted", 2),
        (9, "bob", "CollectionDeleted", None),
    ]
    first = [(1, None, "TenantCreated", None), (2, None, "DatabaseCreated", None)]
    assert short(printed()) == [*first, *alice, *bob]
    assert short(printed("--collection", "alice")) == alice
    assert short(printed("--collection", alices)) == alice
    assert short(printed("--collection", bobs, "--after", "6")) == bob[1:]
    assert all(line["time"].endswith("Z") and len(line["time"]) == 27 for line in printed())
    table = command("audit", tmp_path / "data").stdout
    for word in ("alice", "RecordsWritten.upsert", bobs, "9"):
        assert word in table


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--after", "999999"), "ends before"), (("--collection", "nothing"), "no collection of that name")],
)
def test_audit_of_what_is_not_there_says_so(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    asyncio.run(write_as(tmp_path / "data"))
    assert_one_line(command("audit", tmp_path / "data", *arguments), 2, word)
    assert_one_line(command("audit", tmp_path), 2, "not a data directory")


def test_server_that_lets_everybody_in_loads_nothing_of_this() -> None:
    code = """
import os, sys
from chroma_async.cli.auth import auth_settings
from chroma_async.cli.commands import run as command
from chroma_async.server import app, run, worker, child
from chroma_async.settings import AuthSettings, EngineSettings, ServerSettings

async def dispatch(call): ...

with command.make_context("run", []) as context:
    found = auth_settings(context, {"PATH": "x", "CHROMA_SERVER_HOST": "x"})
assert found == AuthSettings()
run._check_access(found, ServerSettings())
orders = child.Orders("worker", "x", 0, 0, 0)
application = app.create_app(dispatch, ServerSettings())
assert worker._access(orders) is None
assert type(application).__name__ == "Application"
print([name for name in sys.modules if name.startswith("chroma_async.server.auth") or name == "passlib"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_server_that_everybody_reaches_and_that_asks_nobody_says_so(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def said(host: str, auth: AuthSettings | None = None) -> bool:
        caplog.clear()
        _check_access(auth or AuthSettings(), ServerSettings(host=host))
        return "auth.none" in caplog.text

    assert [said(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "db.example.org")] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert not said("0.0.0.0", AuthSettings(basic_file=file(tmp_path, htpasswd_line("a", "b", 5))))


def test_a_refusal_has_the_id_of_its_request(tmp_path: Path) -> None:
    users = file(tmp_path, htpasswd_line("alice", "secret", rounds=4))
    with our_server(tmp_path, "--auth-basic-file", users, "--request-ids") as url:
        for credentials, status in ((None, 401), (("alice", "wrong"), 401), (("alice", "secret"), 404)):
            path = url + COLLECTIONS + "/missing"
            answer = httpx.get(path, auth=credentials, headers={"X-Request-Id": "mine"})
            found = (answer.status_code, answer.headers["x-request-id"], answer.headers["chroma-trace-id"])
            assert found == (status, "mine", "mine")


@pytest.mark.anyio
async def test_a_stream_is_refused_at_once_and_ends_when_its_credential_is_withdrawn(tmp_path: Path) -> None:
    token, other = make_token(), make_token()
    known = tmp_path / "tokens.jsonl"
    known.write_text("\n".join([token_line("loader", token, "write"), token_line("root", other, "admin")]))
    options = ("--auth-token-file", str(known), "--ingest-idle-seconds", "4", "--metrics")
    with our_server(tmp_path, *options, workers=1) as url:
        port = int(url.rpartition(":")[2])
        root = {"authorization": f"Bearer {other}"}
        place = httpx.post(url + COLLECTIONS, json={"name": "docs"}, headers=root).json()["id"]
        async with streaming(port, place, headers={"authorization": "Bearer wrong"}) as stream:
            await stream.line()  # though its body has no end
            assert stream.status == 401
        async with streaming(port, place, headers={"authorization": f"Bearer {token}"}, stream_id="s") as stream:
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    await stream.send(b'{"id": "%d", "embedding": [1]}\n' % sent)
                    sent += 1
                    await asyncio.sleep(0.1)

            sending = asyncio.create_task(send())
            while (line := await stream.line()) is not None and line["position"] < 3:
                pass
            scrape = httpx.get(url + "/metrics", headers=root).text
            assert "chroma_async_http_ingest_streams 1.0" in scrape
            assert re.search(r"chroma_async_ingest_lines_total [1-9]", scrape)
            known.write_text(token_line("root", other, "admin"))
            last = await stream.last()
            assert (last["status"], last["error"]) == (401, "AuthorizationError")
            sending.cancel()
        path, names = target(place), {"stream_id": "s"}
        assert httpx.get(url + path, params=names, headers=root).json()["position"] == 0  # a stream is its author's
        known.write_text(token_line("loader", token, "write"))
        await asyncio.sleep(1.5)
        answer = httpx.get(url + path, params=names, headers={"authorization": f"Bearer {token}"})
        assert last["position"] <= answer.json()["position"] <= sent  # what was under way then is kept, or is not


def test_a_feed_ends_when_its_credential_is_withdrawn_or_allows_it_no_more(tmp_path: Path) -> None:
    gone, moved, kept, root = (make_token() for _ in range(4))
    known = tmp_path / "tokens.jsonl"
    stay = [token_line("kept", kept, "read"), token_line("root", root, "admin")]
    known.write_text("\n".join([token_line("gone", gone, "read"), token_line("moved", moved, "read"), *stay]))
    with our_server(tmp_path, "--auth-token-file", str(known), workers=1) as url, ExitStack() as stack:
        as_root = {"authorization": f"Bearer {root}"}
        place = httpx.post(url + COLLECTIONS, json={"name": "docs"}, headers=as_root).json()["id"]

        def feed(token: str) -> Iterator[str]:
            headers = {"authorization": f"Bearer {token}", "accept": "application/x-ndjson"}
            answer = stack.enter_context(
                httpx.stream("GET", f"{url}{COLLECTIONS}/{place}/changes", headers=headers, timeout=60)
            )
            assert answer.status_code == 200
            return answer.iter_lines()

        feeds = {token: feed(token) for token in (gone, moved, kept)}
        elsewhere = token_line("moved", moved, "read", collections=["another"])
        known.write_text("\n".join([elsewhere, *stay]))
        for token, error in ((gone, "AuthorizationError"), (moved, "NotFoundError")):
            *_, last = feeds[token]
            assert (orjson.loads(last)["kind"], orjson.loads(last)["error"]) == ("error", error)
        body = {"ids": ["a"], "embeddings": [[1.0]]}
        assert httpx.post(f"{url}{COLLECTIONS}/{place}/add", json=body, headers=as_root).status_code == 201
        assert any(orjson.loads(line).get("ids") == ["a"] for line in feeds[kept])
