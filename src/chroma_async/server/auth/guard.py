"""The engine as an identity may use it: calls are checked before they are answered, lists cut down to what may be seen.

A call names its tenant and database in its path, and a collection by name or UUID. By UUID, nothing is known but the number:
so where an identity may not use all of a database, the collection is looked up, and one that belongs to another tenant or
database, or that the identity may not see, does not exist. Whoever may use all of a database needs no look: the engine
itself answers for a collection only where it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from chroma_async.engine.author import AUTHOR
from chroma_async.errors import AuthorizationError, ChromaAuthError, ChromaError, NotFoundError
from chroma_async.model import Collection, Database
from chroma_async.protocol import (
    Call,
    CountCollections,
    CreateCollection,
    GetCollectionById,
    GetIdentity,
    GetIngestPosition,
    ListCollections,
    ListDatabases,
    ModifyCollection,
)
from chroma_async.protocol.results import page
from chroma_async.protocol.system import Identity as IdentityAnswer
from chroma_async.protocol.unsupported import AttachFunction, ForkCollection
from chroma_async.protocol.v1 import FindCollection
from chroma_async.server.auth.identity import IDENTITY, Identity
from chroma_async.server.auth.rules import GET_OR_CREATE, RULES, SEE, Rule
from chroma_async.server.endpoint import Dispatch

logger = logging.getLogger("chroma_async.auth")

Note = Callable[[Identity, Call[Any], Any], None]
"""Takes down that a write was accepted: by whom, which, and what came of it."""

Answer = Callable[[Any, Identity], Awaitable[Any]]


class Guard:
    """Answers calls by `answer` where the identity of the request (`IDENTITY`) may.

    `engine` is asked what a UUID stands for.
    """

    def __init__(self, answer: Dispatch, engine: Dispatch, note: Note | None = None) -> None:
        self._dispatch = answer
        self._engine = engine
        self._note = note
        self._answers: Final[Mapping[type[Call[Any]], Answer]] = {
            GetIdentity: self._identity,
            FindCollection: self._find,
            ListCollections: self._list_collections,
            CountCollections: self._count_collections,
            ListDatabases: self._list_databases,
        }

    async def __call__(self, call: Call[Any]) -> Any:
        """Answer a call.

        Raises:
            AuthorizationError: nobody was authenticated.
            ChromaAuthError: who was may not do this.
            NotFoundError: the collection is none that the identity may see.
            ChromaError: as the engine.
        """
        rule = RULES.get(type(call))
        if rule is not None and rule.place == "public":
            return await self._dispatch(call)
        identity = IDENTITY.get()
        if identity is None:
            raise AuthorizationError("no credentials")
        if rule is None:
            raise ChromaAuthError(f"nobody may do this: it has no rule. call={type(call).__name__}")
        await self._check(identity, rule, call)
        answer = self._answers.get(type(call))
        if answer is not None:
            return await answer(call, identity)
        if not rule.writes and type(call) is not GetIngestPosition:  # streams are their author's
            return await self._dispatch(call)
        return await self._answer_as(identity, call, noted=rule.writes)

    async def check(self, call: Call[Any]) -> None:
        """See that the identity of the request may make a call, which is not answered. Raises as for the call itself."""
        rule, identity = RULES[type(call)], IDENTITY.get()
        if identity is None:
            raise AuthorizationError("no credentials")
        await self._check(identity, rule, call)

    async def _check(self, identity: Identity, rule: Rule, call: Call[Any]) -> None:
        if rule.place == "id":
            await self._check_id(identity, rule, call)
        elif not _allows(identity, rule, call):
            raise _denied(identity, rule)

    def refusal_of(self, call: type[Call[Any]]) -> ChromaError | None:
        """Return why the identity of the request may make no call of this kind, whatever it says; None where some may be."""
        rule, identity = RULES.get(call), IDENTITY.get()
        if rule is None or identity is None or not rule.action or identity.performs(rule.action):
            return None  # some may be allowed, or it is refused later
        if call is CreateCollection and identity.performs(GET_OR_CREATE):
            return None
        return _denied(identity, rule)

    async def _answer_as(self, identity: Identity, call: Call[Any], *, noted: bool) -> Any:
        token = AUTHOR.set(identity.name)
        try:
            result = await self._dispatch(call)
        finally:
            AUTHOR.reset(token)
        if noted and self._note is not None:
            self._note(identity, call, result)
        return result

    # ---- collections by UUID

    async def _check_id(self, identity: Identity, rule: Rule, call: Any) -> None:
        """Refuse what the identity may not do to the collection of that UUID."""
        if type(call) is FindCollection:
            return
        reach = identity.reach(rule.action, call.tenant, call.database)
        if reach == "none":
            raise _denied(identity, rule)
        if reach == "some":
            await self._check_collection(identity, rule, call)
        for name in _other_names(call):
            if not identity.allows(rule.action, call.tenant, call.database, name):
                raise _denied(identity, rule, f"collection={name!r}")

    async def _check_collection(self, identity: Identity, rule: Rule, call: Any) -> None:
        call.validate()
        try:
            found: Collection = await self._engine(FindCollection(collection_id=call.collection_id))
        except NotFoundError:
            raise _unknown(call) from None
        if (found.tenant, found.database) != (call.tenant, call.database):
            raise _unknown(call)
        if not identity.allows(rule.action, found.tenant, found.database, found.name):
            if not identity.allows(SEE, found.tenant, found.database, found.name):
                raise _unknown(call)
            raise _denied(identity, rule, f"collection={found.name!r}")

    # ---- calls whose answers depend on who asks

    async def _identity(self, call: GetIdentity, identity: Identity) -> IdentityAnswer:
        tenant, databases = identity.home
        return IdentityAnswer(identity.name, tenant, databases)

    async def _find(self, call: FindCollection, identity: Identity) -> Collection:
        """Where a collection lives: the first API asks it for every UUID, before the call itself is checked."""
        found: Collection = await self._dispatch(call)
        if not identity.allows(SEE, found.tenant, found.database, found.name) and not any(
            identity.allows(rule.action, found.tenant, found.database, found.name) for rule in _BY_ID
        ):
            raise _unknown(call)
        return found

    async def _list_collections(self, call: ListCollections, identity: Identity) -> list[Collection]:
        if identity.reach(RULES[ListCollections].action, call.tenant, call.database) == "all":
            return cast("list[Collection]", await self._dispatch(call))
        call.validate()
        return (await self._seen(call, identity))[page(call.limit, call.offset)]

    async def _count_collections(self, call: CountCollections, identity: Identity) -> int:
        if identity.reach(RULES[CountCollections].action, call.tenant, call.database) == "all":
            return cast("int", await self._dispatch(call))
        call.validate()
        return len(await self._seen(call, identity))

    async def _seen(self, call: ListCollections | CountCollections, identity: Identity) -> list[Collection]:
        action = RULES[type(call)].action
        found: list[Collection] = await self._dispatch(ListCollections(tenant=call.tenant, database=call.database))
        return [item for item in found if identity.allows(action, item.tenant, item.database, item.name)]

    async def _list_databases(self, call: ListDatabases, identity: Identity) -> list[Database]:
        if identity.allows_in_tenant(RULES[ListDatabases].action, call.tenant):
            return cast("list[Database]", await self._dispatch(call))
        found: list[Database] = await self._dispatch(ListDatabases(tenant=call.tenant))
        action = RULES[ListDatabases].action
        seen = [item for item in found if identity.reach(action, item.tenant, item.name) != "none"]
        return seen[page(call.limit, call.offset)]


_BY_ID: Final = tuple(rule for rule in RULES.values() if rule.place == "id")


def _allows(identity: Identity, rule: Rule, call: Any) -> bool:
    """Whether a call is allowed that says by names what it is about."""
    match rule.place:
        case "known":
            return True
        case "server":
            return identity.allows_everywhere(rule.action)
        case "new tenant":
            return identity.allows_in_tenant(rule.action, call.name)
        case "tenant":
            return identity.allows_in_tenant(rule.action, call.tenant)
        case "in tenant":
            return identity.sees_tenant(rule.action, call.tenant)
        case "new database":
            return identity.reach(rule.action, call.tenant, call.name) == "all"
        case "database":
            return identity.reach(rule.action, call.tenant, call.database) == "all"
        case "in database" | "in collections":
            return identity.reach(rule.action, call.tenant, call.database) != "none"
        case "name":
            action = GET_OR_CREATE if isinstance(call, CreateCollection) and call.get_or_create else rule.action
            return identity.allows(action, call.tenant, call.database, call.name)
        case _:
            return False


def _other_names(call: Call[Any]) -> list[str]:
    """Names of collections that a call by UUID makes, beside the one that it is about."""
    match call:
        case ModifyCollection():
            return [] if call.new_name is None else [call.new_name]
        case ForkCollection():
            return [call.new_name]
        case AttachFunction():
            return [call.output_collection]
        case _:
            return []


def _unknown(call: Any) -> NotFoundError:
    """What the engine says of a collection that does not exist."""
    dot = "" if isinstance(call, GetCollectionById) else "."
    return NotFoundError(f"Collection [{call.collection_id}] does not exist{dot}")


def _denied(identity: Identity, rule: Rule, detail: str = "") -> ChromaAuthError:
    logger.info("auth.deny identity=%r action=%s%s", identity.name, rule.action, detail and " " + detail)
    return ChromaAuthError(
        f"not allowed: ask for a role that may {rule.action}. identity={identity.name!r}{detail and ' ' + detail}"
    )
