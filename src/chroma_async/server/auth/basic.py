"""Names and passwords (RFC 7617) against the lines of an htpasswd file."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, cast

from passlib.context import CryptContext

from chroma_async.server.auth.files import Source
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.lines import Roles, check_name
from chroma_async.server.auth.provider import Credential, Provider, Rejected, Scheme, Verified

SCHEMES: Final = ("bcrypt", "apr_md5_crypt", "sha256_crypt", "sha512_crypt", "argon2")
"""Kinds of hashes, under passlib's names. argon2 works where its library is installed (the extra `argon2`)."""

REMEMBER_SECONDS: Final = 300.0
BCRYPT_BYTES_MAX: Final = 72
PASSWORD_BYTES_MAX: Final = 1024


class BasicProvider(Provider):
    """Users of an htpasswd file."""

    name = "basic"
    schemes: frozenset[Scheme] = frozenset({"basic"})
    is_slow = True
    challenge: str | None = 'Basic realm="chroma_async", charset="UTF-8"'

    def __init__(self, users: Source[Mapping[str, str]], roles: Source[Roles]) -> None:
        self._users = users
        self._roles = roles

    @property
    def generation(self) -> object:
        self._users.current()
        self._roles.current()
        return self._users.generation, self._roles.generation

    def slot(self, credential: Credential) -> str:
        try:
            return _parts(credential.value)[0]
        except Rejected:
            return ""

    def verify(self, credential: Credential) -> Verified:
        users = self._users.current()
        name, password = _parts(credential.value)
        stored = users.get(name)
        if not _matches(password, stored or _anothers(users)) or stored is None:
            raise Rejected("unknown user") if stored is None else Rejected("wrong password", name)
        return Verified(Identity(name, self._roles.current().of(name), self.name), REMEMBER_SECONDS, slides=True)


def _anothers(users: Mapping[str, str]) -> str:
    """The hash to compare with when there is no such user, so that this takes as long as if there were."""
    return next(iter(users.values()), "")


def _parts(value: bytes) -> tuple[str, bytes]:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Rejected("not base64") from None
    raw, colon, password = decoded.partition(b":")
    if not colon:
        raise Rejected("no colon between name and password")
    if len(password) > PASSWORD_BYTES_MAX:
        raise Rejected("the password is too long")
    try:
        return raw.decode("utf-8"), password
    except UnicodeDecodeError:
        return raw.decode("latin-1"), password


def _matches(password: bytes, stored: str) -> bool:
    if not stored or b"\0" in password:
        return False
    if stored.startswith("$2"):
        password = password[:BCRYPT_BYTES_MAX]  # bcrypt never looked at more; its library now refuses it instead
    return bool(_context().verify(password, stored))


@cache
def _context() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a library's own, about libraries underneath
        return cast("Any", CryptContext)(schemes=list(SCHEMES))


def parse_htpasswd(text: str) -> Mapping[str, str]:
    """Return the hash of each user.

    Raises:
        ValueError: a line that can't be used; the message says which, and why, without the hash.
    """
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, stored = line.strip().partition(":")
        try:
            if not colon:
                raise ValueError("no colon between name and hash")
            check_name(name)
            if name in users:
                raise ValueError(f"the user is there twice. name={name!r}")
            users[name] = _checked(stored.partition(":")[0])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    if not users:
        raise ValueError("there is no user in the file; htpasswd -B FILE NAME adds one")
    return users


def _checked(stored: str) -> str:
    kind = _context().identify(stored)
    if kind is None:
        raise ValueError(
            "not a hash of a kind that is taken (bcrypt, apr1, SHA-crypt, argon2): make it with htpasswd -B, or with "
            "chroma-async auth user"
        )
    try:
        is_whole = bool(_context().handler(kind).from_string(stored).checksum)
    except (ValueError, TypeError):
        is_whole = False
    if not is_whole:
        raise ValueError("the hash is cut off or damaged")
    _check_backend(kind)
    return stored


@cache
def _check_backend(kind: str) -> None:
    """Find out whether a kind of hash can be computed here, before somebody depends on it."""
    if kind == "argon2" and importlib.util.find_spec("argon2") is None:
        raise ValueError("argon2 is not installed: pip install 'chroma-async[argon2]'")
    try:
        _context().verify(b"x", _context().handler(kind).using(**_CHEAP.get(kind, {})).hash("x"))
    except Exception as error:
        raise ValueError(f"hashes of this kind can't be computed here: {type(error).__name__}. kind={kind}") from error


_CHEAP: Final[Mapping[str, Mapping[str, int]]] = {
    "bcrypt": {"rounds": 4},
    "sha256_crypt": {"rounds": 1000},
    "sha512_crypt": {"rounds": 1000},
    "argon2": {"rounds": 1, "memory_cost": 8, "parallelism": 1},
}


def htpasswd_line(name: str, password: str, rounds: int = 12) -> str:
    """Return the line of an htpasswd file for a user, with bcrypt, as `htpasswd -nB` makes it.

    Raises:
        ValueError: a name with a colon, or a password that bcrypt would cut off.
    """
    check_name(name)
    if ":" in name:
        raise ValueError(f"a user's name must not have a colon. got={name!r}")
    if not 0 < len(password.encode()) <= BCRYPT_BYTES_MAX or "\0" in password:
        raise ValueError(f"a password has 1 to {BCRYPT_BYTES_MAX} bytes, none of them zero: bcrypt takes no more")
    hashed: str = _context().handler("bcrypt").using(rounds=rounds, ident="2y").hash(password)
    return f"{name}:{hashed}"
