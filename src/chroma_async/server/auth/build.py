"""From settings to the parts that find out who calls and note what was written."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from chroma_async.server.auth.audit import AuditTrail, check_audit_file
from chroma_async.server.auth.authentication import Authenticator
from chroma_async.server.auth.basic import BasicProvider, parse_htpasswd
from chroma_async.server.auth.chroma import parse_chroma_roles, parse_chroma_tokens
from chroma_async.server.auth.credentials import AUTHORIZATION, TOKEN_HEADER
from chroma_async.server.auth.files import FixedValue, Source, WatchedFile, looks_private
from chroma_async.server.auth.forwarded import ForwardedProvider
from chroma_async.server.auth.guard import Note
from chroma_async.server.auth.jwt import FileKeys, JwtProvider, UrlKeys
from chroma_async.server.auth.lines import EVERYTHING, Roles, TokenEntry, parse_roles, parse_tokens
from chroma_async.server.auth.provider import AuthConfigError, Provider, Scheme
from chroma_async.server.auth.tokens import TokenProvider
from chroma_async.server.peers import TrustedPeers
from chroma_async.settings import AuthSettings

T = TypeVar("T")

logger = logging.getLogger("chroma_async.auth")

SINGLE_TOKEN_NAME = "token"
"""Who presents a token that is given by itself, not in a file with names."""

_URLS = ("http://", "https://")
_SCHEMES_OF_HEADER: dict[str, frozenset[Scheme]] = {
    "any": frozenset({"bearer", "token"}),
    "authorization": frozenset({"bearer"}),
    "x-chroma-token": frozenset({"token"}),
}


class Access(Struct, frozen=True):
    """What an application needs to let nobody in whom it does not know."""

    authenticator: Authenticator
    note: Note | None = None


def build_access(settings: AuthSettings, trusted_proxies: Sequence[str] = (), *, check: bool = False) -> Access | None:
    """Return the parts that the settings ask for; None when they ask for no provider.

    With `check` every file is read now. Without it a file that can't be read refuses its credentials until it can: a worker
    that is started again while somebody edits the file must not stop the server.

    Raises:
        AuthConfigError: settings that don't go together, or with `check` a file that can't be used.
    """
    parts = _Parts(check)
    providers = parts.providers(settings, trusted_proxies)
    if not providers:
        if settings.audit_log is not None:
            raise AuthConfigError("--audit-log says who wrote, so it needs a provider: give one of the --auth-... options")
        if settings.roles_file is not None:
            raise AuthConfigError("--auth-roles-file needs a provider: give one of the other --auth-... options")
        return None
    note = None if settings.audit_log is None else parts.audit(settings.audit_log)
    for path in parts.open_files:
        logger.warning("auth.file path=%s reason='everybody on this machine may read it: chmod o-r'", path)
    return Access(Authenticator(providers, name_header=settings.proxy_header), note)


class _Parts:
    def __init__(self, check: bool) -> None:
        self._check = check
        self.open_files: list[str] = []

    def providers(self, settings: AuthSettings, trusted_proxies: Sequence[str]) -> list[Provider]:
        roles = self._roles(settings)
        found: list[Provider] = []
        if settings.basic_file is not None:
            found.append(BasicProvider(self._file(settings.basic_file, parse_htpasswd), roles))
        if settings.basic_lines:
            found.append(BasicProvider(self._fixed("\n".join(settings.basic_lines), parse_htpasswd), roles))
        schemes = _SCHEMES_OF_HEADER[settings.token_header]
        found.extend(TokenProvider(tokens, roles, schemes) for tokens in self._tokens(settings))
        if settings.jwt_jwks is not None:
            found.append(self._jwt(settings, settings.jwt_jwks, roles))
        if settings.proxy_header is not None:
            found.append(self._forwarded(settings.proxy_header, trusted_proxies, roles, settings))
        return found

    def _roles(self, settings: AuthSettings) -> Source[Roles]:
        if settings.roles_file is not None:
            return self._file(settings.roles_file, parse_roles)
        if settings.chroma_roles_file is not None:
            return self._file(settings.chroma_roles_file, parse_chroma_roles)
        if settings.chroma_roles is not None:
            return self._fixed(settings.chroma_roles, parse_chroma_roles)
        return FixedValue(EVERYTHING)

    def _tokens(self, settings: AuthSettings) -> list[Source[Sequence[TokenEntry]]]:
        found: list[Source[Sequence[TokenEntry]]] = []
        if settings.token_file is not None:
            found.append(self._file(settings.token_file, parse_tokens))
        if settings.chroma_tokens_file is not None:
            found.append(self._file(settings.chroma_tokens_file, _chroma_tokens(settings)))
        if settings.token_digests:
            entries = [TokenEntry(SINGLE_TOKEN_NAME, bytes.fromhex(digest), None) for digest in settings.token_digests]
            found.append(FixedValue(entries))
        if settings.chroma_tokens is not None:
            found.append(self._fixed(settings.chroma_tokens, _chroma_tokens(settings)))
        return found

    def _jwt(self, settings: AuthSettings, place: str, roles: Source[Roles]) -> Provider:
        if not importlib.util.find_spec("jwt") or not importlib.util.find_spec("cryptography"):
            raise AuthConfigError("JWTs need a library: pip install 'chroma-async[jwt]'")
        if not settings.jwt_issuer or not settings.jwt_audience:
            raise AuthConfigError("--auth-jwt-jwks needs --auth-jwt-issuer and --auth-jwt-audience")
        _require_roles(settings, "--auth-jwt-jwks")
        if place.startswith("http://") and not place.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
            raise AuthConfigError(
                f"--auth-jwt-jwks must be a file or an https URL: who changes the keys gets in. got={place!r}"
            )
        keys = UrlKeys(place) if place.startswith(_URLS) else FileKeys(place)
        if self._check:
            keys.check()
        return JwtProvider(
            keys,
            roles,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            algorithms=settings.jwt_algorithms,
            name_claim=settings.jwt_name_claim,
            groups_claim=settings.jwt_groups_claim,
        )

    def _forwarded(
        self, header: str, trusted_proxies: Sequence[str], roles: Source[Roles], settings: AuthSettings
    ) -> Provider:
        name = header.lower()
        if not name.isascii() or not name.replace("-", "").isalnum():
            raise AuthConfigError(f"--auth-proxy-header must be the name of a header. got={header!r}")
        if name.encode() in (AUTHORIZATION, TOKEN_HEADER):
            raise AuthConfigError(
                f"--auth-proxy-header must be a header of its own, such as X-Forwarded-User. got={header!r}"
            )
        try:
            trusted = TrustedPeers(trusted_proxies)
        except ValueError as error:
            raise AuthConfigError(f"--trusted-proxy: {error}") from error
        if not trusted:
            raise AuthConfigError("--auth-proxy-header needs --trusted-proxy: the addresses whose word counts")
        _require_roles(settings, "--auth-proxy-header")
        return ForwardedProvider(trusted, roles)

    def audit(self, path: str) -> Note:
        try:
            if self._check:
                check_audit_file(path)
            return AuditTrail(path).note
        except OSError as error:
            raise AuthConfigError(f"can't write the audit log: {error.strerror or error}. path={path!r}") from error

    def _file(self, path: str, parse: Callable[[str], T]) -> WatchedFile[T]:
        found = WatchedFile(path, parse)
        if self._check:
            found.check()
            if not looks_private(Path(path)):
                self.open_files.append(path)
        return found

    def _fixed(self, text: str, parse: Callable[[str], T]) -> FixedValue[T]:
        try:
            return FixedValue(parse(text))
        except ValueError as error:
            raise AuthConfigError(f"credentials or roles in the environment can't be used: {error}") from error


def _chroma_tokens(settings: AuthSettings) -> Callable[[str], Sequence[TokenEntry]]:
    by_roles = settings.chroma_roles is not None or settings.chroma_roles_file is not None or settings.roles_file is not None
    return lambda text: parse_chroma_tokens(text, by_roles=by_roles)


def _require_roles(settings: AuthSettings, option: str) -> None:
    if settings.roles_file is None:
        raise AuthConfigError(f"{option} lets in whomever others vouch for, so it needs --auth-roles-file")
