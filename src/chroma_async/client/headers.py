"""What can travel in a header: checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from chroma_async.protocol.records import KEY_RULE, is_key

NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE: Final = re.compile(r"([!-~]([\t -~]*[!-~])?)?")


def checked_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return the headers of every request.

    Raises:
        ValueError: the name of one that can't be sent; its value may be a secret.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"a header's name has ASCII letters, digits and some marks such as '-'. got={name!r}")
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            raise ValueError(f"a header's value is one line of ASCII characters, without spaces around it. header={name!r}")
    return dict(headers)


def checked_key(key: Any) -> str | None:
    """Return what tells a write from others.

    Raises:
        ValueError: it could not travel in a header, or is too long.
    """
    if key is not None and not (isinstance(key, str) and is_key(key)):
        raise ValueError(f"idempotency_key must be a text of {KEY_RULE}. got={str(key)[:80]!r}")
    return key
