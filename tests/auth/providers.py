"""Each kind of provider with credentials for it, as `tests/contract` and the attack tests need them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chroma_async.server.auth.basic import BasicProvider, htpasswd_line, parse_htpasswd
from chroma_async.server.auth.files import WatchedFile
from chroma_async.server.auth.forwarded import ForwardedProvider
from chroma_async.server.auth.jwt import FileKeys, JwtProvider
from chroma_async.server.auth.lines import parse_roles, parse_tokens, token_line
from chroma_async.server.auth.provider import Credential, Provider
from chroma_async.server.auth.tokens import TokenProvider
from chroma_async.server.peers import TrustedPeers

ISSUER, AUDIENCE = "https://issuer.example.org", "chroma"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


class Hands:
    """A clock that is moved by hand: files are looked at once a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Case:
    """A provider, right credentials, wrong ones, and the files that it reads with how to spoil them."""

    provider: Provider
    right: Credential
    wrong: list[Credential]
    clock: Hands
    files: list[Path]
    revoke: Callable[[], None]
    name: str = "alice"
    secrets: list[bytes] = field(default_factory=list)


def basic_value(name: str, password: str) -> bytes:
    return base64.b64encode(f"{name}:{password}".encode())


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def roles_file(directory: Path) -> Path:
    return write(directory / "roles.jsonl", '# who may what\n\n{"name": "alice", "role": "read", "tenants": ["acme"]}\n')


def watched(path: Path, parse: Callable[[str], Any], clock: Hands) -> WatchedFile[Any]:
    return WatchedFile(str(path), parse, now=clock)


def basic_case(directory: Path) -> Case:
    clock = Hands()
    users = write(directory / "users", f"{htpasswd_line('alice', 'pass:wörd', 5)}\n{htpasswd_line('bob', 'b', 5)}\n")
    roles = roles_file(directory)
    provider = BasicProvider(watched(users, parse_htpasswd, clock), watched(roles, parse_roles, clock))

    def credential(value: bytes) -> Credential:
        return Credential("basic", value)

    wrong = [
        basic_value("alice", "pass:word"),
        basic_value("alice", ""),
        basic_value("", ""),
        basic_value("bob", "pass:wörd"),
        basic_value("nobody", "pass:wörd"),
        basic_value("alice", "pass:wörd\0"),
        basic_value("alice", "x" * 5000),
        base64.b64encode(b"alice"),
        base64.b64encode(b"\xff\xfe:\xff"),
        b"alice:pass",
        b"",
        b"=",
    ]

    def revoke() -> None:
        write(users, htpasswd_line("bob", "b", 5))

    right = credential(basic_value("alice", "pass:wörd"))
    return Case(provider, right, [credential(value) for value in wrong], clock, [users, roles], revoke)


def token_case(directory: Path) -> Case:
    clock = Hands()
    good, old = "Right-token_0123456789", "Expired-token_0123456789"
    past = datetime.now(UTC) - timedelta(seconds=5)
    lines = [token_line("alice", good, "read", tenants=["acme"]), token_line("old", old, "admin", expires=past)]
    tokens = write(directory / "tokens.jsonl", "\n".join(lines))
    provider = TokenProvider(watched(tokens, parse_tokens, clock), watched(roles_file(directory), parse_roles, clock))

    def revoke() -> None:
        write(tokens, token_line("bob", "another-token_0123456789", "admin"))

    values = [good[:-1], good + "x", good.lower(), "", old, "x" * 5000, "tökén-tökén-tökén", '{"token": 1}', "\0" * 20]
    wrong = [Credential("bearer", value.encode()) for value in values]
    return Case(provider, Credential("bearer", good.encode()), wrong, clock, [tokens], revoke)


def jwks(*keys: tuple[str, Any]) -> str:
    listed = []
    for key_id, key in keys:
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        make = jwt.get_algorithm_by_name(algorithm).to_jwk  # type: ignore[attr-defined]
        listed.append({**json.loads(make(key.public_key())), "kid": key_id, "alg": algorithm, "use": "sig"})
    return json.dumps({"keys": listed})


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "iat": now, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def signed(key: Any = RSA_KEY, algorithm: str = "RS256", key_id: str | None = "one", **changes: Any) -> bytes:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**changes), key, algorithm, headers=headers).encode()


def forged(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def hmac_with_public_key() -> bytes:
    """The confusion of old libraries: the public key, which everybody has, as the secret of an HMAC."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = forged({"alg": "HS256", "kid": "one", "typ": "JWT"}, claims()).rpartition(b".")[0]
    signature = hmac.new(pem, unsigned, hashlib.sha256).digest()
    return unsigned + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def jwt_case(directory: Path) -> Case:
    clock = Hands()
    keys = write(directory / "jwks.json", jwks(("one", RSA_KEY), ("two", EC_KEY)))
    roles = roles_file(directory)
    source = FileKeys(str(keys))
    source._file = watched(keys, source._file._parse, clock)
    provider = JwtProvider(source, watched(roles, parse_roles, clock), issuer=ISSUER, audience=AUDIENCE)
    now = int(time.time())
    wrong = [
        forged({"alg": "none"}, claims()),
        forged({"alg": "none", "kid": "one"}, claims()),
        forged({"alg": "RS256", "kid": "one"}, claims()),
        forged({"alg": ["RS256"], "kid": "one"}, claims(), b"x"),
        hmac_with_public_key(),
        signed(exp=now - 120),
        signed(exp=None),
        signed(nbf=now + 3600),
        signed(aud="somebody-else"),
        signed(aud=None),
        signed(iss="https://evil.example.org"),
        signed(iss=None),
        signed(sub=None),
        signed(sub=""),
        signed(sub=7),
        signed(sub="a\nb"),
        *(signed(exp=number) for number in (10**400, 1e400, float("nan"), "soon", [], {})),
        *(signed(**{claim: 1e400}) for claim in ("nbf", "iat")),
        base64.urlsafe_b64encode(b'{"alg":"RS256","x":' + b"[" * 2_000 + b"]" * 2_000 + b"}").rstrip(b"=") + b".e30.AAAA",
        signed(key_id="unknown"),
        signed(key_id=None),
        signed(key_id="two"),
        signed(OTHER_RSA_KEY),
        signed(algorithm="PS256"),
        signed(algorithm="RS512"),
        signed()[:-6] + b"AAAAAA",
        b"a.b.c",
        b"",
        b"\xff.\xff.\xff",
        b"x" * 20_000,
        "ä.ö.ü".encode(),
    ]

    def revoke() -> None:
        write(keys, jwks(("one", OTHER_RSA_KEY)))

    right = Credential("bearer", signed())
    return Case(provider, right, [Credential("bearer", value) for value in wrong], clock, [keys, roles], revoke)


def proxy_case(directory: Path) -> Case:
    clock = Hands()
    roles = roles_file(directory)
    trusted = TrustedPeers(["10.0.0.0/8", "unix"])
    provider = ForwardedProvider(trusted, watched(roles, parse_roles, clock))
    peers = ["192.0.2.1", "", "11.0.0.1", "10.0.0.1, 192.0.2.1", "::1", "localhost", "10.0.0.1:99"]
    wrong = [Credential("peer", b"alice", peer) for peer in peers]
    wrong += [Credential("peer", value, "10.0.0.1") for value in (b"", b"a\nb", b"\xff\xfe", b"x" * 500)]

    def revoke() -> None:
        write(roles, "")

    return Case(provider, Credential("peer", b"alice", "10.1.2.3"), wrong, clock, [roles], revoke)


CASES: dict[str, Callable[[Path], Case]] = {
    "basic": basic_case,
    "token": token_case,
    "jwt": jwt_case,
    "proxy": proxy_case,
}
