"""Heads of HTTP/1 requests that two parties could read in two ways: refused, whoever parsed them.

A proxy and a server that disagree on where a body ends take a part of it for a request of its own, which the proxy has never
looked at (RFC 9112, 11.2). The parsers refuse most of these; what they let pass is refused here: a length beside a coding
(6.1), any coding but `chunked` (6.3), repeated lengths, no host or several (3.2), and versions that are none. h11 joins
repeated lengths and lines that go on in the next one (5.2), and takes lines without a carriage return (2.2): these are
looked for in the head as it came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

VERSIONS: Final = frozenset({"1.0", "1.1", "2"})
AMBIGUOUS: Final = b"the head of the request can be read in two ways"

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_UNCLEAR: Final = re.compile(
    rb"(?<!\r)\n | \n[ \t] | \ncontent-length: [^\r\n]*, | \ncontent-length: (?s:.*) \ncontent-length:",
    re.VERBOSE | re.IGNORECASE,
)


def is_unclear(data: bytes) -> bool:
    """Whether data begins with a whole head that must be refused, before h11 has read it."""
    end = _BLANK_LINE.search(data)
    return end is not None and _UNCLEAR.search(data, 0, end.end()) is not None


def is_ambiguous(version: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a head must be refused, with status 400 and the end of its connection. Names are in lower case."""
    if version == "2":
        return False  # frames say where a body ends
    found = dict(headers)
    if b"host" in found and len(found) == len(headers) and b"transfer-encoding" not in found and version == "1.1":
        return b" " in found[b"host"]
    return version not in VERSIONS or _is_ambiguous(version, headers)


def _is_ambiguous(version: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    hosts = [value for name, value in headers if name == b"host"]
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if len(hosts) > 1 or (not hosts and version == "1.1") or any(b" " in host for host in hosts):
        return True
    return len(lengths) > 1 or bool(codings and lengths) or codings not in ([], [b"chunked"])
