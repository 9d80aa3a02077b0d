"""Whatever stands in the headers, nobody gets in without the right credential, and nothing breaks."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_async.seams import InlineWorkers
from chroma_async.server.auth.authentication import Authentication, Authenticator
from chroma_async.server.auth.basic import BasicProvider, htpasswd_line, parse_htpasswd
from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.identity import Grant, Identity, matches
from chroma_async.server.auth.lines import EVERYTHING, TokenEntry, digest_of
from chroma_async.server.auth.rules import ROLES
from chroma_async.server.auth.tokens import TokenProvider

EXAMPLES = int(os.environ.get("CHROMA_ASYNC_EXAMPLES", "300"))

TOKEN, PASSWORD = b"the-right-token", b"the right password"
RIGHT = {
    (b"authorization", b"Bearer " + TOKEN),
    (b"x-chroma-token", TOKEN),
    (b"authorization", b"Basic " + base64.b64encode(b"alice:" + PASSWORD)),
}
PIECES = st.sampled_from(
    [
        b"Bearer ",
        b"Basic ",
        b"bearer\t",
        b" ",
        b",",
        b":",
        b"=",
        b"\0",
        b"\xff",
        b"alice",
        TOKEN,
        TOKEN[:-1],
        PASSWORD,
        b"{}",
    ]
)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.lists(PIECES, max_size=5).map(b"".join),
    st.lists(PIECES, max_size=4).map(lambda parts: b"Basic " + base64.b64encode(b"".join(parts))),
)
NAMES = st.sampled_from([b"authorization", b"x-chroma-token", b"cookie", b"x-forwarded-user", b"proxy-authorization"])
READ = {b"authorization", b"x-chroma-token"}


def make_layer() -> tuple[Authentication, list[Any]]:
    reached: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["chroma_async.identity"].name)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    tokens = TokenProvider(FixedValue([TokenEntry("t", digest_of(TOKEN), None)]), FixedValue(EVERYTHING))
    users = parse_htpasswd(htpasswd_line("alice", PASSWORD.decode(), 5))
    basic = BasicProvider(FixedValue(users), FixedValue(EVERYTHING))
    return Authentication(app, Authenticator([basic, tokens], workers=lambda provider: InlineWorkers()), 1.0), reached


async def ask(headers: list[tuple[bytes, bytes]]) -> tuple[int, list[Any]]:
    layer, reached = make_layer()
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "GET", "raw_path": b"/x", "headers": headers, "client": ("192.0.2.1", 1)}
    await layer(scope, receive, send)
    return statuses[0], reached


def normal(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """What counts of a header: spaces around it and the case of the scheme do not."""
    name, value = header
    value = value.strip()
    scheme, _, rest = value.partition(b" ")
    return (name, b"%s %s" % (scheme.capitalize(), rest.strip())) if name == b"authorization" else (name, value)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_only_one_right_credential_opens(headers: list[tuple[bytes, bytes]]) -> None:
    status, reached = asyncio.run(ask(headers))
    read = [header for header in headers if header[0] in READ]
    opens = len(read) == 1 and normal(read[0]) in RIGHT
    assert status == (200 if opens else 401)
    assert len(reached) == opens


NAME = st.text(alphabet="ab*", max_size=4)


@settings(max_examples=EXAMPLES, deadline=None)
@given(NAME, st.text(alphabet="ab", max_size=6))
def test_patterns_mean_what_regular_expressions_say(pattern: str, name: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
    assert matches((pattern,), name) is expected


GRANTS = st.builds(
    Grant,
    st.sampled_from(list(ROLES.values())),
    *[st.lists(NAME.filter(bool), min_size=1, max_size=2).map(tuple) for _ in range(3)],
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(GRANTS, max_size=3), *[st.text(alphabet="ab", min_size=1, max_size=3) for _ in range(3)])
def test_what_reaches_all_of_a_database_reaches_each_collection(
    grants: list[Grant], tenant: str, database: str, collection: str
) -> None:
    identity = Identity("x", tuple(grants))
    for action in ("collection:get", "collection:add", "system:reset"):
        reach = identity.reach(action, tenant, database)
        allowed = identity.allows(action, tenant, database, collection)
        assert not allowed or reach != "none"
        assert allowed or reach != "all"
        assert not identity.allows_everywhere(action) or (reach == "all" and identity.allows_in_tenant(action, tenant))
        assert not identity.allows_in_tenant(action, tenant) or reach == "all"
        assert reach == "none" or identity.sees_tenant(action, tenant)
        assert allowed == any(
            action in grant.actions
            and matches(grant.tenants, tenant)
            and matches(grant.databases, database)
            and matches(grant.collections, collection)
            for grant in grants
        )
