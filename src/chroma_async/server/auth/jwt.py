"""JSON Web Tokens (RFC 7519) of an identity provider, OpenID Connect's among them, against its published keys (RFC 7517)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from chroma_async.server.auth.files import Source, WatchedFile
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.lines import Roles, check_name
from chroma_async.server.auth.provider import AuthConfigError, CannotDecide, Credential, Provider, Rejected, Scheme, Verified

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What may be pinned: signatures by a private key. With HMAC whoever can verify could sign, and `none` is no signature."""

DEFAULT_ALGORITHMS: Final = ("RS256", "ES256")
LEEWAY_SECONDS: Final = 30.0
REMEMBER_SECONDS: Final = 60.0
TOKEN_BYTES_MAX: Final = 8192
KEYS_BYTES_MAX: Final = 2**20
KEYS_SECONDS: Final = 3600.0
"""How long keys of a URL are used before they are fetched again."""

RETRY_SECONDS: Final = 30.0
"""The least time between two fetches: unknown key ids are free to make up."""

FETCH_SECONDS: Final = 5.0
"""How long a fetch may take, from the beginning to the last byte."""

STALE_SECONDS: Final = 86_400.0
"""How long keys that can't be fetched again go on to count."""

_UNUSABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What is raised for a token of the wrong form, beside errors of the library's own."""


logger = logging.getLogger("chroma_async.auth")


_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""Of keys, by how the algorithms begin that use them."""


class Key(Struct, frozen=True):
    """A public key of a kind (`kty`). `algorithm` is the one that it was published for, if that is said."""

    value: Any
    kind: str
    algorithm: str | None

    def fits(self, algorithm: str) -> bool:
        """Whether it may have signed by an algorithm."""
        return self.kind == _KINDS[algorithm[:2]] and self.algorithm in (None, algorithm)


Keys = Mapping[str, Sequence[Key]]
"""Keys by their id, of which several may have the same; those without one are at the empty text."""


class UrlKeys:
    """Keys that are published at a URL.

    They are fetched when they are first needed, when they are old, and when a token names an unknown one, but no more often
    than every `RETRY_SECONDS`. While the URL does not answer, the last ones count for `STALE_SECONDS`.
    """

    def __init__(
        self, url: str, fetch: Callable[[str], Awaitable[bytes]] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch or fetch_keys
        self._now = now
        self._keys: Keys | None = None
        self._fetched_at = 0.0
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0

    def check(self) -> None:
        """Nothing: a server may start before its identity provider."""

    async def prepare(self, key_id: object) -> None:
        """Fetch the keys if that is needed and allowed; who comes while somebody else fetches goes on with what there is."""
        now = self._now()
        known = self._keys is not None and bool(_pick(self._keys, key_id))
        if known and now - self._fetched_at < KEYS_SECONDS:
            return
        if self._fetching is None and (self._tried_at is None or now - self._tried_at >= RETRY_SECONDS):
            self._tried_at = now
            self._fetching = asyncio.create_task(self._refresh(now))
        if self._fetching is not None and not known:
            await asyncio.shield(self._fetching)

    async def _refresh(self, now: float) -> None:
        try:
            self._keys = parse_keys((await self._fetch(self._url)).decode("utf-8"))
        except Exception as error:
            logger.error("auth.keys failed url=%s reason=%r", self._url, error)
        else:
            self._fetched_at = now
            self.generation += 1
        finally:
            self._fetching = None

    def find(self, key_id: object) -> Sequence[Key]:
        """Return the keys that may be meant.

        Raises:
            Rejected: there is none of that id.
            CannotDecide: the URL did not answer.
        """
        if self._keys is None or self._now() - self._fetched_at > STALE_SECONDS:
            raise CannotDecide(f"the keys of the identity provider can't be fetched. url={self._url}")
        return _required(self._keys, key_id)


class FileKeys:
    """Keys of a file, read again when it changes."""

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, parse_keys)

    def check(self) -> None:
        self._file.check()

    @property
    def generation(self) -> int:
        self._file.current()
        return self._file.generation

    async def prepare(self, key_id: object) -> None:
        return

    def find(self, key_id: object) -> Sequence[Key]:
        return _required(self._file.current(), key_id)


class JwtProvider(Provider):
    """Bearer tokens that an identity provider signed."""

    name = "jwt"
    schemes: frozenset[Scheme] = frozenset({"bearer"})
    is_slow = False
    challenge: str | None = 'Bearer realm="chroma_async"'

    def __init__(
        self,
        keys: UrlKeys | FileKeys,
        roles: Source[Roles],
        *,
        issuer: str,
        audience: str,
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        name_claim: str = "sub",
        groups_claim: str = "groups",
    ) -> None:
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown or not algorithms:
            raise AuthConfigError(f"--auth-jwt-algorithm must be among {', '.join(ALGORITHMS)}. got={', '.join(unknown)!r}")
        self._keys = keys
        self._roles = roles
        self._issuer = issuer
        self._audience = audience
        self._algorithms = list(algorithms)
        self._name_claim = name_claim
        self._groups_claim = groups_claim

    @property
    def generation(self) -> object:
        self._roles.current()
        return self._keys.generation, self._roles.generation

    async def prepare(self, credential: Credential) -> None:
        await self._keys.prepare(self._header(credential.value).get("kid"))

    def verify(self, credential: Credential) -> Verified:
        claims = self._claims(credential.value)
        name = claims.get(self._name_claim)
        groups = claims.get(self._groups_claim, [])
        try:
            check_name(name if isinstance(name, str) else "")
        except ValueError:
            raise Rejected(f"no name in the claim {self._name_claim!r}") from None
        known = [item for item in cast("list[object]", groups) if isinstance(item, str)] if isinstance(groups, list) else []
        identity = Identity(cast("str", name), self._roles.current().of(cast("str", name), known), self.name)
        return Verified(identity, min(REMEMBER_SECONDS, max(0.0, claims["exp"] - time.time())))

    def _header(self, value: bytes) -> dict[str, Any]:
        """What a token says of how it was signed; nothing of it is believed before the signature was verified."""
        import jwt

        if len(value) > TOKEN_BYTES_MAX:
            raise Rejected("the token is too long")
        try:
            header = jwt.get_unverified_header(value.decode("ascii"))
        except (jwt.PyJWTError, *_UNUSABLE) as error:
            raise Rejected(type(error).__name__) from None
        if header.get("alg") not in self._algorithms:
            raise Rejected("signed with another algorithm than the pinned ones")
        return header

    def _claims(self, value: bytes) -> dict[str, Any]:
        import jwt

        header = self._header(value)
        reason = "the key is for another algorithm"
        for key in self._keys.find(header.get("kid")):
            if not key.fits(header["alg"]):
                continue
            try:
                claims = jwt.decode(
                    value.decode("ascii"),
                    key=key.value,
                    algorithms=[header["alg"]],
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iss", "aud"]},
                )
                return {**claims, "exp": float(claims["exp"])}
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError) as error:
                reason = type(error).__name__  # another one may be meant
            except (jwt.PyJWTError, *_UNUSABLE) as error:
                raise Rejected(type(error).__name__) from None
        raise Rejected(reason)


def _pick(keys: Keys, key_id: object) -> Sequence[Key]:
    """The keys of an id; without an id those that have none, or the only one that there is."""
    if key_id is None:
        return next(iter(keys.values())) if len(keys) == 1 else keys.get("", ())
    return keys.get(key_id, ()) if isinstance(key_id, str) else ()


def _required(keys: Keys, key_id: object) -> Sequence[Key]:
    found = _pick(keys, key_id)
    if not found:
        raise Rejected("signed with an unknown key")
    return found


def parse_keys(text: str) -> Keys:
    """Return the public keys of a JWKS document (RFC 7517, section 5) that sign.

    Raises:
        ValueError: it is none, has no such key, or has private ones.
    """
    import jwt

    private = False
    try:
        decoded = json.loads(text)
        listed = cast("list[dict[str, Any]]", decoded["keys"])
        usable = [item for item in listed if item.get("kty") != "oct" and item.get("use", "sig") == "sig"]
        found: dict[str, list[Key]] = {}
        for item in usable:
            private = private or "d" in item
            try:
                key = Key(jwt.PyJWK.from_dict(item).key, item["kty"], item.get("alg"))
                found.setdefault(str(item.get("kid", "")), []).append(key)
            except jwt.PyJWTError:
                continue  # of a kind that is not known here
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a JWKS document ({type(error).__name__})") from error
    if private:
        raise ValueError("a private key in the JWKS document: whoever reads it can sign; leave only what is public of keys")
    if not any(found.values()):
        raise ValueError("no public key for signatures in the JWKS document")
    return found


async def fetch_keys(url: str) -> bytes:
    """Fetch a JWKS document, without following a redirect.

    Raises:
        ValueError: an answer that is none, or too large.
        TimeoutError: one that does not come to its end in time.
        httpx.HTTPError: no answer.
    """
    import httpx

    async with (
        asyncio.timeout(FETCH_SECONDS),
        httpx.AsyncClient(timeout=FETCH_SECONDS) as client,
        client.stream("GET", url) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > KEYS_BYTES_MAX:
                raise ValueError(f"more than {KEYS_BYTES_MAX} bytes")
            parts.append(part)
    return b"".join(parts)
