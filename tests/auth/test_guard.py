"""The engine as an identity may use it: by collection, by list, by UUID, and against advisories of Chroma."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.support.engines import PATH, TINY, as_batch

from chroma_async.core.events import author_of
from chroma_async.engine.engine import Engine, open_engine
from chroma_async.errors import AuthorizationError, ChromaAuthError, NotFoundError
from chroma_async.model import Collection
from chroma_async.protocol import (
    AddRecords,
    Call,
    CountCollections,
    CountRecords,
    CreateCollection,
    CreateDatabase,
    CreateTenant,
    DeleteCollection,
    DeleteRecords,
    GetCollection,
    GetCollectionById,
    GetDatabase,
    GetIdentity,
    GetTenant,
    Heartbeat,
    ListCollections,
    ListDatabases,
    ModifyCollection,
    Reset,
)
from chroma_async.protocol.v1 import FindCollection
from chroma_async.server.app import create_app
from chroma_async.server.auth.authentication import Authenticator
from chroma_async.server.auth.build import Access
from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.guard import Guard
from chroma_async.server.auth.identity import IDENTITY, Grant, Identity, matches
from chroma_async.server.auth.lines import EVERYTHING, make_token, parse_roles, parse_tokens, token_line
from chroma_async.server.auth.rules import ROLES, RULES
from chroma_async.server.auth.tokens import TokenProvider
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio

READ, WRITE, ADMIN = ROLES["read"], ROLES["write"], ROLES["admin"]
ROOT = Identity("root", (Grant(ADMIN),))
NEWS = Identity(
    "news",
    (
        Grant(WRITE, ("acme",), ("main",), ("news-*",)),
        Grant(READ, ("acme",), ("main",), ("shared",)),
        Grant(READ, ("acme",), ("archive",)),
    ),
)


class House:
    """An engine behind a guard, and what was noted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.notes: list[tuple[str, str]] = []
        self.guard = Guard(engine.dispatch, engine.dispatch, self._note)

    def _note(self, identity: Identity, call: Call[Any], result: Any) -> None:
        self.notes.append((identity.name, type(call).__name__))

    async def ask(self, identity: Identity | None, call: Call[Any]) -> Any:
        token = IDENTITY.set(identity)
        try:
            return await self.guard(call)
        finally:
            IDENTITY.reset(token)

    async def create(self, name: str, tenant: str = "acme", database: str = "main") -> Collection:
        return await self.engine.dispatch(CreateCollection(tenant=tenant, database=database, name=name))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_engine(tmp_path, TINY, compact=False) as engine:
        for tenant in ("acme", "rival"):
            await engine.dispatch(CreateTenant(name=tenant))
            for database in ("main", "archive", "hidden"):
                await engine.dispatch(CreateDatabase(tenant=tenant, name=database))
        yield House(engine)


def place(item: Collection, **changes: str) -> dict[str, str]:
    return {"tenant": item.tenant, "database": item.database, "collection_id": item.id, **changes}


async def test_without_an_identity_only_what_is_public_is_answered(house: House) -> None:
    """Whatever the layers in front forgot."""
    assert await house.ask(None, Heartbeat()) > 0
    for call in (GetIdentity(), GetTenant(tenant="acme"), ListDatabases(tenant="acme"), Reset()):
        with pytest.raises(AuthorizationError):
            await house.ask(None, call)


async def test_call_without_a_rule_is_denied(house: House) -> None:
    class Invented(Call[int], frozen=True, kw_only=True):
        pass

    with pytest.raises(ChromaAuthError, match="no rule"):
        await house.ask(ROOT, Invented())


async def test_collections_are_told_apart_by_pattern_whether_by_name_or_by_uuid(house: House) -> None:
    news, shared, secret = [await house.create(name) for name in ("news-1", "shared", "secret")]
    add = {"ids": ["a"], "embeddings": as_batch([[1.0, 2.0]])}
    await house.ask(NEWS, AddRecords(**place(news), **add))
    assert (await house.ask(NEWS, CountRecords(**place(shared)))).count == 0
    with pytest.raises(ChromaAuthError, match="collection='shared'"):
        await house.ask(NEWS, AddRecords(**place(shared), **add))
    for call in (
        CountRecords(**place(secret)),
        AddRecords(**place(secret), **add),
        DeleteRecords(**place(secret), ids=["a"]),
    ):
        with pytest.raises(NotFoundError, match=r"does not exist\."):
            await house.ask(NEWS, call)
    with pytest.raises(NotFoundError, match=r"does not exist$"):
        await house.ask(NEWS, GetCollectionById(**place(secret)))
    for name in ("secret", "there-is-none"):
        with pytest.raises(ChromaAuthError):
            await house.ask(NEWS, GetCollection(tenant="acme", database="main", name=name))


async def test_uuid_of_another_tenant_or_database_is_nothing_by_whichever_path(house: House) -> None:
    """GHSA-2wm9-hf6c-p5cr: Chroma looks at the UUID alone."""
    await house.create("news-1")
    rivals = await house.create("news-1", "rival")
    hidden = await house.create("news-1", "acme", "hidden")
    unlimited = Identity("acme", (Grant(ADMIN, ("acme",)),))
    for item in (rivals, hidden):
        for identity in (NEWS, unlimited):
            with pytest.raises(NotFoundError):
                await house.ask(identity, CountRecords(**place(item, tenant="acme", database="main")))
        with pytest.raises(ChromaAuthError):
            await house.ask(NEWS, CountRecords(**place(item)))
    for item in (rivals, hidden):
        with pytest.raises(NotFoundError):
            await house.ask(NEWS, FindCollection(collection_id=item.id))
    with pytest.raises(NotFoundError):
        await house.ask(unlimited, FindCollection(collection_id=rivals.id))
    assert (await house.ask(unlimited, FindCollection(collection_id=hidden.id))).id == hidden.id


async def test_uuid_of_another_tenant_is_nothing_without_authentication_too(house: House) -> None:
    rivals = await house.create("news-1", "rival")
    with pytest.raises(NotFoundError):
        await house.engine.dispatch(CountRecords(**place(rivals, tenant="acme")))


async def test_lists_and_counts_show_what_may_be_seen(house: House) -> None:
    for name in ("news-1", "news-2", "shared", "secret"):
        await house.create(name)
    await house.create("old", "acme", "archive")
    where = {"tenant": "acme", "database": "main"}
    found = await house.ask(NEWS, ListCollections(**where))
    assert sorted(item.name for item in found) == ["news-1", "news-2", "shared"]
    assert await house.ask(NEWS, CountCollections(**where)) == 3
    assert await house.ask(ROOT, CountCollections(**where)) == 4
    pages = [await house.ask(NEWS, ListCollections(**where, limit=2, offset=offset)) for offset in (0, 2, 4)]
    assert [item.id for page in pages for item in page] == [item.id for item in found]
    databases = await house.ask(NEWS, ListDatabases(tenant="acme"))
    assert [item.name for item in databases] == ["archive", "main"]
    assert [item.name for item in await house.ask(NEWS, ListDatabases(tenant="acme", limit=1, offset=1))] == ["main"]
    assert len(await house.ask(ROOT, ListDatabases(tenant="acme"))) == 3
    for call in (
        ListDatabases(tenant="rival"),
        ListCollections(tenant="acme", database="hidden"),
        GetTenant(tenant="rival"),
    ):
        with pytest.raises(ChromaAuthError):
            await house.ask(NEWS, call)
    assert (await house.ask(NEWS, GetDatabase(tenant="acme", database="archive"))).name == "archive"


async def test_collections_are_not_renamed_out_of_reach_or_over_a_fence(house: House) -> None:
    news = await house.create("news-1")
    shared = await house.create("shared")
    await house.ask(NEWS, ModifyCollection(**place(news), new_name="news-2"))
    with pytest.raises(ChromaAuthError, match="collection='secret'"):
        await house.ask(NEWS, ModifyCollection(**place(news), new_name="secret"))
    with pytest.raises(ChromaAuthError):
        await house.ask(NEWS, ModifyCollection(**place(shared), new_name="news-3"))


async def test_creation_and_deletion_go_by_the_name(house: House) -> None:
    where = {"tenant": "acme", "database": "main"}
    await house.ask(NEWS, CreateCollection(**where, name="news-9"))
    await house.ask(NEWS, CreateCollection(**where, name="news-9", get_or_create=True))
    for name in ("secret", "shared", "newsletter"):
        for call in (CreateCollection(**where, name=name), DeleteCollection(**where, name=name)):
            with pytest.raises(ChromaAuthError):
                await house.ask(NEWS, call)
    await house.ask(NEWS, DeleteCollection(**where, name="news-9"))


async def test_administrators_of_a_tenant_do_not_reach_beyond_it(house: House) -> None:
    admin = Identity("admin", (Grant(ADMIN, ("acme",)),))
    part = Identity("part", (Grant(ADMIN, ("acme",), ("main",)),))
    await house.ask(admin, CreateDatabase(tenant="acme", name="new"))
    for identity, call in (
        (admin, CreateDatabase(tenant="rival", name="new")),
        (admin, CreateTenant(name="third")),
        (admin, Reset()),
        (part, CreateDatabase(tenant="acme", name="newer")),
        (part, Reset()),
        (NEWS, CreateDatabase(tenant="acme", name="archive")),
    ):
        with pytest.raises(ChromaAuthError):
            await house.ask(identity, call)


async def test_identity_is_answered_truthfully(house: House) -> None:
    found = [
        await house.ask(identity, GetIdentity())
        for identity in (ROOT, NEWS, Identity("nobody"), Identity("two", (Grant(READ, ("a", "b"), ("c",)),)))
    ]
    assert [(item.user_id, item.tenant, item.databases) for item in found] == [
        ("root", "*", ["*"]),
        ("news", "acme", ["archive", "main"]),
        ("nobody", None, []),
        ("two", "*", ["c"]),
    ]


async def test_accepted_writes_are_noted_and_signed_and_others_are_not(house: House) -> None:
    news = await house.create("news-1")
    before = house.engine.follower.position
    await house.ask(NEWS, AddRecords(**place(news), ids=["a"], embeddings=as_batch([[1.0, 2.0]])))
    await house.ask(NEWS, CountRecords(**place(news)))
    with pytest.raises(ChromaAuthError):
        await house.ask(NEWS, CreateTenant(name="x-y-z"))
    assert house.notes == [("news", "AddRecords")]
    await house.create("unsigned")
    entries = [entry async for entry in house.engine.log.read(after=before)]
    assert [author_of(entry.payload or b"") for entry in entries] == ["news", None]


async def test_kinds_of_calls_that_are_never_allowed_are_refused_before_their_bodies_are_decoded(house: House) -> None:
    reader = Identity("reader", (Grant(READ, ("acme",)),))
    maker = Identity("maker", (Grant(frozenset({"db:get_or_create_collection"})),))

    def refused(identity: Identity | None, call: type[Call[Any]]) -> bool:
        token = IDENTITY.set(identity)
        try:
            return house.guard.refusal_of(call) is not None
        finally:
            IDENTITY.reset(token)

    assert [refused(reader, call) for call in (AddRecords, CreateCollection, Reset)] == [True] * 3
    assert [refused(reader, call) for call in (CountRecords, GetIdentity, Heartbeat, FindCollection)] == [False] * 4
    assert [refused(NEWS, call) for call in (AddRecords, CreateCollection, CreateTenant)] == [False, False, True]
    assert [refused(maker, call) for call in (CreateCollection, AddRecords)] == [False, True]
    assert not refused(None, AddRecords)  # the guard itself refuses what nobody sends


async def test_reader_is_refused_whatever_the_body_and_the_body_is_read(house: House) -> None:
    """A refusal that comes while a client still writes is often lost."""
    token = make_token()
    entries = parse_tokens(token_line("reader", token, "read"))
    provider = TokenProvider(FixedValue(entries), FixedValue(EVERYTHING))
    app = create_app(house.engine.dispatch, ServerSettings(), Access(Authenticator([provider])))
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"no JSON at all, and much of it " * 1000

    news = await house.create("news-1")
    path = f"/api/v2/tenants/acme/databases/main/collections/{news.id}"
    headers = {"X-Chroma-Token": token, "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server", headers=headers) as client:
        answer = await client.post(f"{path}/add", content=body())
        assert (answer.status_code, answer.json()["error"], read) == (403, "AuthError", 100)
        assert (await client.post(f"{path}/get", content=b"{")).status_code == 400
        assert (await client.post(f"{path}/search", content=b"{")).status_code == 400
        assert (await client.post(f"{path}/fork", content=b"{")).status_code == 403


async def test_nothing_is_made_from_a_stored_embedding_function(house: House) -> None:
    """Chroma's server built what a collection's configuration named, with its arguments, such as trust_remote_code."""
    import sys

    evil = {
        "name": "sentence_transformer",
        "type": "known",
        "config": {"model_name": "evil/model", "device": "cpu", "kwargs": {"trust_remote_code": True}},
    }
    configuration = {"embedding_function": evil}
    before = set(sys.modules)
    call = CreateCollection.from_fields({**PATH, "name": "trap", "configuration": configuration})
    await house.ask(ROOT, call)
    found = await house.ask(ROOT, GetCollection(**PATH, name="trap"))
    assert found.embedding_function == evil
    await house.ask(ROOT, AddRecords(**place(found), ids=["a"], embeddings=as_batch([[1.0, 2.0]])))
    new = set(sys.modules) - before
    assert not [
        name for name in new if "embedding" in name or "transformers" in name or name.startswith("chroma_async.client")
    ]


# ---- values


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (("*",), "", True),
        (("a",), "a", True),
        (("a",), "A", False),
        (("a",), "ab", False),
        (("a*",), "ab", True),
        (("*a",), "ba", True),
        (("a*c",), "abbc", True),
        (("a*c",), "abcd", False),
        (("a.c",), "abc", False),
        (("[ab]",), "a", False),
        (("a?",), "ab", False),
        (("a**b",), "axb", True),
        (("a*",), "a\nb", True),
        ((), "a", False),
        (("x", "a*"), "ab", True),
        (("ab*ba",), "aba", False),
        (("ab*ba",), "abba", True),
        (("*b*",), "abc", True),
        (("a*b*b",), "ab", False),
        (("a*b*b",), "abb", True),
    ],
)
def test_patterns_know_one_wildcard(patterns: tuple[str, ...], name: str, expected: bool) -> None:
    assert matches(patterns, name) is expected


def test_pattern_with_many_wildcards_is_fast() -> None:
    """As a regular expression it took minutes."""
    assert not matches(("a*" * 12 + "b",), "a" * 60)


def test_every_action_of_a_rule_belongs_to_its_role_and_those_above() -> None:
    for rule in RULES.values():
        if rule.action:
            assert next(role for role in ROLES if rule.action in ROLES[role]) == rule.role
    assert READ < WRITE < ADMIN
    assert not [rule for rule in RULES.values() if rule.writes and rule.role == "read"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "line 1"),
        ('{"name": "a"}', "sha256"),
        ('{"name": "a", "sha256": "00", "role": "read"}', "64 hexadecimal"),
        ('{"name": "a", "sha256": "%s", "role": "reader"}' % ("0" * 64), "role"),
        ('{"name": "a", "sha256": "%s"}' % ("0" * 64), "one of role"),
        ('{"name": "a", "sha256": "%s", "role": "read", "actions": []}' % ("0" * 64), "one of role"),
        ('{"name": "a", "sha256": "%s", "role": "read", "tenant": ["x"]}' % ("0" * 64), "tenant"),
        ('{"name": "a", "sha256": "%s", "role": "read", "tenants": []}' % ("0" * 64), "tenants must name"),
        ('{"name": "", "sha256": "%s", "role": "read"}' % ("0" * 64), "name"),
        ('{"name": "a\\nb", "sha256": "%s", "role": "read"}' % ("0" * 64), "printable"),
        ('{"name": "a", "sha256": "%s", "role": "read", "expires": "2030-01-01T00:00:00"}' % ("0" * 64), "time zone"),
        ('{"name": "a", "sha256": "%s", "role": "read", "expires": "soon"}' % ("0" * 64), "expires"),
        ('{"name": "a", "sha256": "%s", "actions": ["db:fly"]}' % ("0" * 64), "db:fly"),
    ],
)
def test_lines_of_tokens_that_cannot_be_used_say_why(line: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_tokens(line)


def test_token_that_is_there_twice_is_refused() -> None:
    line = token_line("a", "a-token-of-some-length", "read")
    with pytest.raises(ValueError, match="two lines"):
        parse_tokens(f"{line}\n{line}")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"role": "read"}', "name and group"),
        ('{"name": "a", "group": "b", "role": "read"}', "name and group"),
        ('{"name": "a", "role": "read", "sha256": "x"}', "sha256"),
        ("[]", "line 1"),
    ],
)
def test_lines_of_roles_that_cannot_be_used_say_why(line: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_roles(line)


def test_roles_add_up_and_a_star_is_everyone() -> None:
    roles = parse_roles(
        '{"name": "a", "role": "read"}\n{"name": "a", "role": "write", "tenants": ["t"]}\n'
        '{"group": "g", "role": "admin"}\n{"name": "*", "actions": ["collection:count"]}\n'
    )
    assert [len(roles.of(*who)) for who in (("a",), ("a", ["g"]), ("b", ["g", "h"]), ("b",))] == [3, 4, 2, 1]
    assert "collection:indexing_status" in roles.of("b")[0].actions


def test_rules_are_of_calls_that_exist() -> None:
    assert all(issubclass(call, msgspec.Struct) for call in RULES)
