"""Lines that other programs made: Apache's htpasswd 2.4.68, OpenSSL 3, and argon2's own library."""

from __future__ import annotations

import bcrypt
import pytest
from argon2 import PasswordHasher
from tests.auth.providers import basic_value

from chroma_async.server.auth.basic import BasicProvider, htpasswd_line, parse_htpasswd
from chroma_async.server.auth.files import FixedValue
from chroma_async.server.auth.lines import EVERYTHING
from chroma_async.server.auth.provider import Credential, Rejected

PASSWORD = "admin pass"
LINES = {
    "htpasswd -Bbn": "admin:$2y$05$cHvmKcTZcSJkC/z82Yu79.krPiEq5SZ/fnCV9/LPAjVao.JEhunGC\n\n",
    "htpasswd -mbn": "admin:$apr1$PD/xWQwh$IQiwJx1SE.GZxjq3Xsfdx.\n\n",
    "htpasswd -2bn": "admin:$5$4kBw9uVARg9qSNI1$2NQWFpD92Jf9f5w0sbETVy0I/G56C.wi6o9qZbTvCq3\n\n",
    "htpasswd -5bn": "admin:$6$XpGIQGu73E6D5KcL$I8Iyz5Cren2mNmpSpwfsENs0dynsTOcExd103NsfsCyLKCcoxv3WF3ol/S9XElBZ7OANA0gio"
    "DMuqyU7U/zn21\n\n",
    "openssl passwd -5": "admin:$5$OPX2wfM4WuXwtgQe$R0yqBrSs7HwgzF2a7PCls25lO6KQP8eZydkkdzy85M6",
    "openssl passwd -6": "admin:$6$umlmJyjD4X8xyOH2$gRBBvaJqODelXEK1d0GsQ1J1nUlKR.cd8Z2MoZcTUGj9Wi970gCoIBTgUY1zgc3f4U/W"
    "gcrddYH/u68XedLIr.",
    "openssl passwd -apr1": "admin:$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1",
    "argon2": "admin:" + PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD),
    "bcrypt 2b": "admin:" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode(),
    "bcrypt 2a": "admin:" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5, prefix=b"2a")).decode(),
    "our own": htpasswd_line("admin", PASSWORD, 5),
    "with a comment and a remark": "# users\n\nadmin:$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1:Jane Doe\r\n",
}


def provider_of(text: str) -> BasicProvider:
    return BasicProvider(FixedValue(parse_htpasswd(text)), FixedValue(EVERYTHING))


@pytest.mark.parametrize("made_by", list(LINES))
def test_lines_of_other_programs_work_as_they_are(made_by: str) -> None:
    provider = provider_of(LINES[made_by])
    right = Credential("basic", basic_value("admin", PASSWORD))
    assert provider.verify(right).identity.name == "admin"
    for wrong in (PASSWORD[:-1], PASSWORD + "x", PASSWORD.upper(), ""):
        with pytest.raises(Rejected, match="wrong password"):
            provider.verify(Credential("basic", basic_value("admin", wrong)))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("admin:secret", "htpasswd -B"),
        ("admin:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", "htpasswd -B"),
        ("admin:rqXexS6ZhobKA", "htpasswd -B"),
        ("admin:$1$abcdefgh$irWbblnpmw.5z7wgBnprh0", "htpasswd -B"),
        ("admin:$2y$05$cHvmKcTZcSJkC/z82Yu79.", "damaged"),
        ("admin:$apr1$PD/xWQwh", "damaged"),
        ("admin:", "htpasswd -B"),
        ("admin", "colon"),
        (":$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1", "name"),
        ("a\x07b:$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1", "printable"),
        ("a:$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1\na:$apr1$JIHj10TG$wwL7dXEqJEwOjC/dSwYJN1", "twice"),
        ("# nobody\n", "no user"),
    ],
)
def test_lines_that_cannot_be_used_are_named_without_their_hash(line: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        parse_htpasswd(line)
    assert "secret" not in str(caught.value)
    assert "$" not in str(caught.value)


def test_passwords_beyond_what_bcrypt_looks_at_work_as_they_always_did() -> None:
    """Other programs cut them off silently when the hash was made; bcrypt 5 would refuse to compare."""
    long = "x" * 80
    provider = provider_of("a:" + bcrypt.hashpw(long[:72].encode(), bcrypt.gensalt(5)).decode())
    assert provider.verify(Credential("basic", basic_value("a", long))).identity.name == "a"
    with pytest.raises(Rejected):
        provider.verify(Credential("basic", basic_value("a", long[:71])))
