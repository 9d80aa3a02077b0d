"""Our files of tokens and roles: one JSON object a line; empty lines, and those that begin with `#`, are left out.

    {"name": "ingest", "sha256": "...", "role": "write", "tenants": ["acme"], "expires": "2027-01-01T00:00:00Z"}
    {"name": "alice", "role": "read", "collections": ["news-*"]}
    {"group": "search", "role": "read"}
    {"name": "*", "role": "read", "databases": ["public"]}

The first is a line of a token file, the others are of a roles file, where several lines of one name add up, and `*` is
everyone who was authenticated.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from chroma_async.protocol.validation import is_visible_ascii
from chroma_async.server.auth.identity import EVERY, Grant, matches
from chroma_async.server.auth.rules import ACTIONS, IMPLIED, ROLES, Role

T = TypeVar("T")

NAME_LENGTH_MAX: Final = 128
TOKEN_LENGTH_MIN: Final = 16
TOKEN_LENGTH_MAX: Final = 1024
_MADE_TOKEN_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MADE_TOKEN_LENGTH: Final = 43
"""Of 62 characters: 256 bits."""


class Roles(msgspec.Struct, frozen=True, eq=False):
    """What each name and each group may do."""

    names: Mapping[str, tuple[Grant, ...]]
    groups: Mapping[str, tuple[Grant, ...]]
    everyone: tuple[Grant, ...] = ()
    """What whoever was authenticated may do."""

    def of(self, name: str, groups: Sequence[str] = ()) -> tuple[Grant, ...]:
        found = [*self.everyone, *self.names.get(name, ())]
        for group in groups:
            found.extend(self.groups.get(group, ()))
        return tuple(found)


EVERYTHING: Final = Roles({}, {}, (Grant(ROLES["admin"]),))
"""Where there is one kind of user only: everyone who was authenticated may do everything."""


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    role: Role | None = None
    actions: list[str] | None = None
    tenants: tuple[str, ...] = (EVERY,)
    databases: tuple[str, ...] = (EVERY,)
    collections: tuple[str, ...] = (EVERY,)

    def grant(self) -> Grant:
        """Return what the line gives.

        Raises:
            ValueError: neither or both of role and actions, an action that there is not, or a list without a pattern.
        """
        for name in ("tenants", "databases", "collections"):
            patterns: tuple[str, ...] = getattr(self, name)
            if not patterns or "" in patterns:
                raise ValueError(f'{name} must name something; ["*"] means all, which is what leaving it out means too')
        return Grant(self._actions(), self.tenants, self.databases, self.collections)

    def _actions(self) -> frozenset[str]:
        if (self.role is None) == (self.actions is None):
            raise ValueError("give one of role (read, write or admin) and actions")
        if self.role is not None:
            return ROLES[self.role]
        return with_implied(self.actions or [])


def with_implied(actions: Sequence[str]) -> frozenset[str]:
    """Return actions with those that they imply.

    Raises:
        ValueError: one that there is not.
    """
    for action in actions:
        if action not in ACTIONS:
            raise ValueError(f"there is no action of that name; there are: {', '.join(sorted(ACTIONS))}. got={action!r}")
    return frozenset(actions).union(*(IMPLIED.get(action, ()) for action in actions))


class TokenLine(_Line, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token: its SHA-256 and what it gives."""

    name: str
    sha256: str
    expires: datetime | None = None


class RoleLine(_Line, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody of a name, or of a group that a JWT names, may do."""

    name: str | None = None
    group: str | None = None


class TokenEntry(msgspec.Struct, frozen=True):
    """A token that is known."""

    name: str
    digest: bytes
    grants: tuple[Grant, ...] | None
    """None: what the roles say of the name."""
    expires: datetime | None = None
    within: Grant | None = None
    """Where that counts, if not everywhere that the roles say."""


def parse_tokens(text: str) -> tuple[TokenEntry, ...]:
    """Return the tokens of a token file.

    Raises:
        ValueError: a line is wrong; the message says which, and why.
    """

    def entry(line: TokenLine) -> TokenEntry:
        check_name(line.name)
        if line.expires is not None and line.expires.tzinfo is None:
            raise ValueError("expires needs a time zone, as in 2027-01-01T00:00:00Z")
        try:
            digest = bytes.fromhex(line.sha256)
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ValueError("sha256 must have 64 hexadecimal digits; `chroma-async auth token NAME` prints such a line")
        return TokenEntry(line.name, digest, (line.grant(),), line.expires)

    found = tuple(_parsed(text, TokenLine, entry))
    if len({token.digest for token in found}) < len(found):
        raise ValueError("one token is on two lines; give each line its own")
    return found


def parse_roles(text: str) -> Roles:
    """Return what a roles file says.

    Raises:
        ValueError: a line is wrong; the message says which, and why.
    """

    def entry(line: RoleLine) -> tuple[str, bool, Grant]:
        if (line.name is None) == (line.group is None):
            raise ValueError("give one of name and group")
        found = line.name or line.group or ""
        check_name(found)
        return found, line.name is not None, line.grant()

    names: dict[str, tuple[Grant, ...]] = {}
    groups: dict[str, tuple[Grant, ...]] = {}
    for who, is_name, grant in _parsed(text, RoleLine, entry):
        kind = names if is_name else groups
        kind[who] = (*kind.get(who, ()), grant)
    return Roles(names, groups, names.pop(EVERY, ()))


L = TypeVar("L", TokenLine, RoleLine)


def _parsed(text: str, kind: type[L], entry: Callable[[L], T]) -> Iterator[T]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            yield entry(msgspec.json.decode(stripped, type=kind))
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from error


def confined(grant: Grant, place: Grant) -> Grant:
    """Return a grant that counts only in the tenants and databases of another one."""
    return replace(
        grant,
        tenants=_common(grant.tenants, place.tenants),
        databases=_common(grant.databases, place.databases),
    )


def _common(patterns: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    if EVERY in others:
        return patterns
    return tuple(other for other in others if matches(patterns, other))


def check_name(name: str) -> None:
    """Refuse a name that could not be told apart in a log.

    Raises:
        ValueError: it is empty, too long, or has characters that are not printed.
    """
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise ValueError(f"a name has 1 to {NAME_LENGTH_MAX} printable characters. got={name[:NAME_LENGTH_MAX]!r}")


def check_token(token: str) -> None:
    """Refuse what is no token: Chroma takes ASCII letters, digits and punctuation, without spaces.

    Raises:
        ValueError: what is wrong, without the token.
    """
    if not is_visible_ascii(token):
        raise ValueError("Invalid token. Must contain only ASCII letters, digits, and punctuation.")
    if len(token) > TOKEN_LENGTH_MAX:
        raise ValueError(f"a token has at most {TOKEN_LENGTH_MAX} characters")


def digest_of(token: bytes) -> bytes:
    """Return what is kept of a token. It is random and long, so one round of SHA-256 hides it."""
    return hashlib.sha256(token).digest()


def make_token() -> str:
    """Return a new token of 256 random bits, in letters and digits."""
    return "".join(secrets.choice(_MADE_TOKEN_CHARACTERS) for _ in range(_MADE_TOKEN_LENGTH))


def token_line(
    name: str,
    token: str,
    role: Role,
    *,
    tenants: Sequence[str] = (EVERY,),
    databases: Sequence[str] = (EVERY,),
    collections: Sequence[str] = (EVERY,),
    expires: datetime | None = None,
) -> str:
    """Return the line of a token file for a token.

    Raises:
        ValueError: a name or a token that can't be used.
    """
    check_name(name)
    check_token(token)
    line: dict[str, object] = {"name": name, "sha256": digest_of(token.encode()).hex(), "role": role}
    for key, patterns in (("tenants", tenants), ("databases", databases), ("collections", collections)):
        if tuple(patterns) != (EVERY,):
            line[key] = list(patterns)
    if expires is not None:
        line["expires"] = expires.astimezone(UTC)
    text = msgspec.json.encode(line).decode()
    parse_tokens(text)
    return text
