"""How a credential is read from a request's headers, and for how long a right one is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.auth.providers import basic_case

from chroma_async.errors import AuthorizationError
from chroma_async.server.auth.credentials import CREDENTIAL_BYTES_MAX, CredentialHeaders
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.provider import CannotDecide, Credential
from chroma_async.server.auth.remembered import Known, Remembered

EVERY = CredentialHeaders({"basic", "bearer", "token"}, "X-Forwarded-User")
OTHER = (b"accept", b"*/*")


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        ((b"authorization", b"Basic  dTpw "), Credential("basic", b"dTpw", "peer")),
        ((b"authorization", b"BEARER abc"), Credential("bearer", b"abc", "peer")),
        ((b"x-chroma-token", b" abc "), Credential("token", b"abc", "peer")),
        ((b"x-forwarded-user", b" a b "), Credential("peer", b" a b ", "peer")),
    ],
)
def test_one_header_is_one_credential(header: tuple[bytes, bytes], credential: Credential) -> None:
    found = EVERY.find([OTHER, header, OTHER])
    assert found == header
    assert EVERY.read(found, "peer") == credential


@pytest.mark.parametrize("value", [b"", b"Basic", b"Bearerabc", b"Digest abc", b"abc"])
def test_authorization_has_a_scheme_that_is_known(value: bytes) -> None:
    if value == b"Basic":
        assert EVERY.read((b"authorization", value), "peer") == Credential("basic", b"", "peer")  # which nobody has
    else:
        with pytest.raises(AuthorizationError, match="Basic or Bearer"):
            EVERY.read((b"authorization", value), "peer")


def test_no_credential_more_than_one_or_an_endless_one_is_none() -> None:
    token = (b"x-chroma-token", b"abc")
    with pytest.raises(AuthorizationError, match="no credentials"):
        EVERY.find([OTHER])
    for second in (token, (b"authorization", b"Bearer abc"), (b"x-forwarded-user", b"a")):
        with pytest.raises(AuthorizationError, match="more than one"):
            EVERY.find([token, second])
    with pytest.raises(AuthorizationError, match="too long"):
        EVERY.find([(b"x-chroma-token", b"a" * (CREDENTIAL_BYTES_MAX + 1))])


def test_headers_that_no_provider_reads_are_somebody_elses() -> None:
    tokens = CredentialHeaders({"token"})
    token = (b"x-chroma-token", b"abc")
    assert tokens.find([(b"authorization", b"Basic of-a-proxy"), (b"x-forwarded-user", b"a"), token]) == token


def test_a_right_credential_counts_for_as_long_as_its_provider_says(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    remembered, identity = Remembered(), Identity("alice")
    key, other = remembered.key_of((b"authorization", b"Basic a")), remembered.key_of((b"authorization", b"Basic b"))
    assert key != other
    assert Remembered().key_of((b"authorization", b"Basic a")) != key  # the hash is of this process alone
    remembered.keep(key, Known(identity, case.provider, case.provider.generation, 10.0, 0.0), 5.0)
    assert remembered.recall(key, 9.9) is identity
    assert remembered.recall(other, 9.9) is None
    assert remembered.recall(key, 10.0) is None
    assert key in remembered  # it was right once
    remembered.forget(key)
    assert key not in remembered


def test_a_right_credential_that_slides_counts_from_its_last_use(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    remembered = Remembered()
    key = remembered.key_of((b"authorization", b"Basic a"))
    remembered.keep(key, Known(Identity("alice"), case.provider, case.provider.generation, 10.0, 8.0), 5.0)
    assert remembered.recall(key, 9.0) is not None
    assert remembered.recall(key, 16.9) is not None
    assert remembered.recall(key, 25.0) is None


def test_what_a_provider_does_not_vouch_for_any_more_is_not_recalled(tmp_path: Path) -> None:
    case = basic_case(tmp_path)
    remembered = Remembered()
    key = remembered.key_of((b"authorization", b"Basic a"))
    remembered.keep(key, Known(Identity("alice"), case.provider, case.provider.generation, 1e9, 0.0), 0.0)
    assert remembered.recall(key, 1.0) is not None
    case.revoke()
    case.clock.now += 2
    assert remembered.recall(key, 1.0) is None
    case.files[0].unlink()
    case.clock.now += 2
    with pytest.raises(CannotDecide):
        remembered.recall(key, 1.0)


def test_what_must_be_verified_each_time_is_not_kept(tmp_path: Path) -> None:
    remembered = Remembered()
    key = remembered.key_of((b"x-forwarded-user", b"alice"))
    remembered.keep(key, Known(Identity("alice"), basic_case(tmp_path).provider, 0, 5.0, 0.0), 5.0)
    assert len(remembered) == 0
