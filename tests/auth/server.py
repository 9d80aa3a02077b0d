"""A real server with two tenants and identities for one of them, for tests that ask who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from tests.compat.servers import our_server

from chroma_async.server.auth.lines import Role, make_token, token_line

OWN, OTHER = "own-tenant", "other-tenant"
DATABASE, SIDE = "main", "side"
COLLECTION, SECOND = "news", "secret"
ROLES: Final[tuple[Role, ...]] = ("read", "write", "admin")


@dataclass
class Tenants:
    """The server, the tokens of its identities, and what is in its tenants now."""

    url: str
    tokens: dict[str, str]
    client: httpx.Client
    ids: dict[tuple[str, str, str], str] = field(default_factory=dict)
    changed: bool = True

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}

    def request(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        if not path.partition("?")[0].endswith("/changes"):
            return self.client.request(method, path, json=body, headers=self.headers(who))
        with self.client.stream(method, path, headers=self.headers(who)) as response:  # which has no end where it succeeds
            if response.status_code >= 400:
                response.read()
            return response

    def restore(self) -> None:
        """Make what a test may have deleted: two databases in each tenant, two collections in each, one record."""
        if not self.changed:
            return
        for tenant in (OWN, OTHER):
            self.request("root", "POST", "/api/v2/tenants", {"name": tenant})
            for database in (DATABASE, SIDE):
                self.request("root", "POST", f"/api/v2/tenants/{tenant}/databases", {"name": database})
                place = f"/api/v2/tenants/{tenant}/databases/{database}/collections"
                for name in (COLLECTION, SECOND):
                    made = self.request("root", "POST", place, {"name": name, "get_or_create": True}).raise_for_status()
                    self.ids[tenant, database, name] = made.json()["id"]
                    record = {"ids": ["a"], "embeddings": [[1.0, 2.0]], "documents": [f"{tenant} {name}"]}
                    self.request("root", "POST", f"{place}/{made.json()['id']}/add", record).raise_for_status()
        self.changed = False


@contextmanager
def tenants_server(directory: Path, *options: str) -> Iterator[Tenants]:
    """A server that knows `root`, who may do everything, and `read`, `write` and `admin`, each of the own tenant alone."""
    tokens = {name: make_token() for name in ("root", *ROLES)}
    lines = [token_line("root", tokens["root"], "admin")]
    lines += [token_line(role, tokens[role], role, tenants=[OWN, "own-*"]) for role in ROLES]
    file = directory / "tokens.jsonl"
    file.write_text("\n".join(lines))
    tokens["wrong"] = make_token()
    with (
        our_server(directory, "--auth-token-file", str(file), *options, workers=1) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield Tenants(url, tokens, client)
