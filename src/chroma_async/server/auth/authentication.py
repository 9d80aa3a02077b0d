"""The layer that finds out who calls, in front of all but the probes. It fails closed: no answer without an identity."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Final

from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from chroma_async.errors import AuthorizationError, ChromaError, RateLimitError, UnavailableError
from chroma_async.protocol import WireResponse
from chroma_async.seams import ThreadWorkers, Workers
from chroma_async.server.answers import error_response, refuse
from chroma_async.server.auth.credentials import CredentialHeaders
from chroma_async.server.auth.identity import IDENTITY, Identity
from chroma_async.server.auth.provider import CannotDecide, Credential, Provider, Rejected, Scheme
from chroma_async.server.auth.remembered import Known, Remembered
from chroma_async.server.auth.rules import PUBLIC_PATHS
from chroma_async.server.auth.throttle import BUCKETS, Slot, Throttle
from chroma_async.server.forwarded import PEER
from chroma_async.server.observe import RENEW, REQUEST_ID, SENDER
from chroma_async.server.peers import client_of, source_of

VERIFYING_THREADS: Final = 2
SLOW_SECONDS: Final = 1.0
WAITING_MAX: Final = 256
WAITING_PER_SOURCE_MAX: Final = 64


logger = logging.getLogger("chroma_async.auth")


class Authenticator:
    """Finds out whose the credential of a request is.

    A right one is remembered. When it has to be verified again, that it was right once lets it pass the crowd of wrong ones.

    One that costs something to verify is verified in a thread: once, however often it comes at the same time, and to its end
    whether or not its sender waits. The throttle bounds how many there are. One that costs nothing is verified at once,
    whatever else comes, and who sends too many wrong ones waits for the answer.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        name_header: str | None = None,
        workers: Callable[[Provider], Workers] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._by_scheme: dict[Scheme, list[Provider]] = {}
        for provider in providers:
            for scheme in provider.schemes:
                self._by_scheme.setdefault(scheme, []).append(provider)
        self._headers = CredentialHeaders(self._by_scheme, name_header)
        self._make_workers = workers or _threads
        self._workers: dict[str, Workers] = {}
        self._now = now
        self._remembered = Remembered()
        self._pending: dict[bytes, asyncio.Task[Identity]] = {}
        self.throttle = Throttle()
        self._bucket_key = secrets.token_bytes(32)
        self._waiting: Counter[str] = Counter()
        """How many requests of each source wait for being refused."""
        challenges = dict.fromkeys(provider.challenge for provider in providers if provider.challenge)
        self._challenge = ", ".join(challenges)

    def __len__(self) -> int:
        """How many credentials are remembered."""
        return len(self._remembered)

    # ---- one request

    async def identify(self, scope: Scope) -> Identity:
        """Return who sent a request.

        Raises:
            AuthorizationError: no credential, more than one, or a wrong one.
            RateLimitError: too many wrong ones came from there.
            UnavailableError: it can't be told now.
        """
        header = self._headers.find(scope["headers"])
        key = self._remembered.key_of(header)
        try:
            known = self._remembered.recall(key, self._now())
        except CannotDecide as error:
            raise _cannot_decide(error) from error
        if known is not None:
            return known
        credential = self._headers.read(header, scope.get(PEER) or client_of(scope))
        return await self._verify(credential, key, source_of(client_of(scope)))

    # ---- verifying

    async def _verify(self, credential: Credential, key: bytes, source: str) -> Identity:
        was_right = key in self._remembered
        reasons: list[str] = []
        undecided: CannotDecide | None = None
        providers = self._by_scheme.get(credential.scheme, [])
        user = ""
        for provider in providers:
            try:
                if not provider.is_slow:
                    await self._prepare(provider, credential)
                    return self._keep(key, self._decide(provider, credential))
                slot = (source, self._bucket(provider.slot(credential)))
                return await self._verify_in_thread(provider, credential, key, slot, was_right)
            except Rejected as error:
                reasons.append(f"{provider.name}: {error}")
                user = user or error.user
            except CannotDecide as error:
                undecided = error
        if undecided is not None:
            raise _cannot_decide(undecided)
        self._remembered.forget(key)
        was_free = not any(provider.is_slow for provider in providers)
        if was_free and self._is_crowded(source):
            raise _too_many(1)
        reason = "; ".join(reasons) or f"no provider takes {credential.scheme}"
        logger.warning("auth.fail source=%s user=%r reason=%r", source, user, reason)
        if was_free:
            await self._slow_down(source)
        raise AuthorizationError("wrong credentials")

    def _bucket(self, name: str) -> int:
        return hashlib.blake2b(name.encode(), key=self._bucket_key, digest_size=1).digest()[0] % BUCKETS

    async def _verify_in_thread(
        self, provider: Provider, credential: Credential, key: bytes, slot: Slot, was_right: bool
    ) -> Identity:
        pending = self._pending.get(key)
        if pending is None:
            wait = 0 if was_right else self.throttle.wait_seconds(slot, self._now())
            if wait:
                logger.info("auth.slow source=%s wait_seconds=%d", slot[0], wait)
                raise _too_many(wait)
            self.throttle.begin(slot, self._now())
            pending = self._pending[key] = asyncio.create_task(self._attempt(provider, credential, key, slot))
            pending.add_done_callback(_look_at_outcome)
        return await asyncio.shield(pending)

    async def _attempt(self, provider: Provider, credential: Credential, key: bytes, slot: Slot) -> Identity:
        wrong = False
        try:
            workers = self._workers.get(provider.name)
            if workers is None:
                workers = self._workers[provider.name] = self._make_workers(provider)
            return self._keep(key, await workers.run(lambda: self._decide(provider, credential)))
        except Rejected:
            wrong = True
            raise
        finally:
            self.throttle.end(slot, self._now(), wrong=wrong)
            del self._pending[key]

    async def _prepare(self, provider: Provider, credential: Credential) -> None:
        try:
            await provider.prepare(credential)
        except (Rejected, CannotDecide):
            raise
        except Exception as error:
            raise _unforeseen(provider, error) from error

    def _decide(self, provider: Provider, credential: Credential) -> Known:
        """Ask the provider. What it can't foresee is not decided, and that opens nothing."""
        try:
            generation = provider.generation
            verified = provider.verify(credential)
        except (Rejected, CannotDecide):
            raise
        except Exception as error:
            raise _unforeseen(provider, error) from error
        slides = verified.seconds if verified.slides else 0.0
        return Known(verified.identity, provider, generation, self._now() + verified.seconds, slides)

    def _keep(self, key: bytes, known: Known) -> Identity:
        self._remembered.keep(key, known, self._now())
        return known.identity

    # ---- guessers of what costs nothing to verify

    def _is_crowded(self, source: str) -> bool:
        """Whether as many are kept waiting as may be: further ones are refused at once, and without a line in the log."""
        return self._waiting[source] >= WAITING_PER_SOURCE_MAX or self._waiting.total() >= WAITING_MAX

    async def _slow_down(self, source: str) -> None:
        """Keep who sends too many wrong credentials waiting for the answer."""
        slot: Slot = (source, None)
        wait = self.throttle.wait_seconds(slot, self._now())
        self.throttle.fail(slot, self._now())
        if wait:
            self._waiting[source] += 1
            try:
                await asyncio.sleep(SLOW_SECONDS)
            finally:
                self._waiting[source] -= 1
                if not self._waiting[source]:
                    del self._waiting[source]

    # ---- refusals

    def refusal(self, error: ChromaError, request_id: str | None = None) -> WireResponse:
        """Return the answer for who was not identified."""
        response = error_response(error, request_id)
        if isinstance(error, AuthorizationError) and self._challenge:
            return replace(response, headers={**response.headers, "www-authenticate": self._challenge})
        return response


def _threads(provider: Provider) -> Workers:
    return ThreadWorkers(VERIFYING_THREADS, f"chroma_async.auth.{provider.name}")


def _too_many(wait_seconds: int) -> RateLimitError:
    message = "too many wrong credentials from there: wait, then try again"
    return RateLimitError(message, retry_after_seconds=wait_seconds)


def _unforeseen(provider: Provider, error: Exception) -> CannotDecide:
    logger.error("auth.error provider=%s", provider.name, exc_info=error)
    return CannotDecide(f"the provider {provider.name} failed")


def _cannot_decide(error: CannotDecide) -> UnavailableError:
    logger.error("auth.undecided reason=%s", error)
    return UnavailableError("credentials can't be verified now; the server's log says why")


def _look_at_outcome(task: asyncio.Task[Identity]) -> None:
    """Nobody may be waiting any more; then an error is not lost but meant for nobody."""
    if not task.cancelled():
        task.exception()


class Authentication:
    """Lets requests through that say who sends them: with the identity in the scope, and in `IDENTITY`.

    Of those to public paths it asks nothing. All others, to whatever path, are answered here when they have no identity.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, timeout_seconds: float) -> None:
        self._app = app
        self._authenticator = authenticator
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["raw_path"] in PUBLIC_PATHS and scope["method"] in ("GET", "HEAD")):
            await self._app(scope, receive, send)  # what is not HTTP has no routes
            return
        try:
            identity = await self._authenticator.identify(scope)
        except ChromaError as error:
            response = self._authenticator.refusal(error, scope.get(REQUEST_ID))
            await refuse(scope, receive, send, response, timeout_seconds=self._timeout_seconds)
            return
        scope[SENDER] = identity
        scope[RENEW] = partial(self._renew, scope)
        token = IDENTITY.set(identity)
        try:
            await self._app(scope, receive, send)
        finally:
            IDENTITY.reset(token)

    async def _renew(self, scope: Scope, context: Context) -> None:
        scope[SENDER] = identity = await self._authenticator.identify(scope)
        context.run(IDENTITY.set, identity)
