"""What `Provider` promises, of each kind of provider: see its docstring for the numbers."""

from __future__ import annotations

import logging
import os
import statistics
import time
from pathlib import Path

import pytest
from tests.auth.providers import CASES, Case

from chroma_async.server.auth.provider import CannotDecide, Credential, Rejected

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return CASES[request.param](tmp_path)


async def verified(case: Case, credential: Credential) -> str:
    await case.provider.prepare(credential)
    return case.provider.verify(credential).identity.name


async def test_right_credential_gives_the_identity_and_its_grants(case: Case) -> None:
    assert await verified(case, case.right) == case.name
    identity = case.provider.verify(case.right).identity
    assert identity.allows("collection:get", "acme", "any", "any")
    assert not identity.allows("collection:add", "acme", "any", "any")
    assert not identity.allows("collection:get", "other", "any", "any")
    assert identity.provider == case.provider.name


async def test_wrong_credentials_are_rejected_whatever_they_are(case: Case) -> None:
    assert case.wrong
    for credential in case.wrong:
        with pytest.raises(Rejected):
            await verified(case, credential)


async def test_scheme_is_one_of_its_own(case: Case) -> None:
    assert case.right.scheme in case.provider.schemes


async def test_what_was_revoked_counts_no_more_and_the_generation_says_so(case: Case) -> None:
    before = case.provider.generation
    await verified(case, case.right)
    assert case.provider.generation == before
    case.revoke()
    case.clock.now += 2
    assert case.provider.generation != before
    try:
        await case.provider.prepare(case.right)
        found = case.provider.verify(case.right)
    except Rejected:
        return
    assert not found.identity.grants


@pytest.mark.parametrize("spoil", ["gone", "nonsense", "binary", "unreadable", "pipe"])
async def test_file_that_cannot_be_read_refuses_what_was_right_before(case: Case, spoil: str) -> None:
    for file in case.files:
        before = case.provider.generation
        kept = file.read_bytes()
        if spoil == "gone":
            file.unlink()
        elif spoil == "nonsense":
            file.write_text("{nonsense")
        elif spoil == "binary":
            file.write_bytes(b"\xff\xfe\x00")
        elif spoil == "pipe":
            file.unlink()
            os.mkfifo(file)
        else:
            file.unlink()
            file.mkdir()
        case.clock.now += 2
        for ask in (lambda: case.provider.generation, lambda: case.provider.verify(case.right)):
            with pytest.raises(CannotDecide):
                ask()
        if file.is_dir():
            file.rmdir()
        elif spoil == "pipe":
            file.unlink()
        file.write_bytes(kept)
        case.clock.now += 2
        assert case.provider.generation != before
        assert await verified(case, case.right) == case.name


async def test_no_secret_is_logged_or_in_a_message(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for credential in (case.right, *case.wrong):
        try:
            await verified(case, credential)
        except (Rejected, CannotDecide) as error:
            said = str(error)
        else:
            said = ""
        if len(credential.value) > 8:
            text = credential.value.decode("utf-8", "replace")
            assert case.right.scheme == "peer" or text not in said + caplog.text
            assert case.right.scheme == "peer" or text not in repr(credential)


async def test_unknown_names_take_as_long_as_wrong_passwords(tmp_path: Path) -> None:
    """Of the one provider where somebody could learn from it which users there are."""
    from tests.auth.providers import basic_case, basic_value

    case = basic_case(tmp_path)

    def seconds(value: bytes) -> float:
        started = time.perf_counter()
        with pytest.raises(Rejected):
            case.provider.verify(Credential("basic", value))
        return time.perf_counter() - started

    known = [seconds(basic_value("alice", f"wrong{number}")) for number in range(15)]
    unknown = [seconds(basic_value("nobody", f"wrong{number}")) for number in range(15)]
    assert min(unknown) > min(known) / 3
    assert statistics.median(unknown) > statistics.median(known) / 3
