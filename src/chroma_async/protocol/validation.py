"""Checks of names, ids and numbers, with Chroma's messages."""

from __future__ import annotations

import ipaddress
import math
import re
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

from msgspec import Struct, structs

from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import CollectionId
from chroma_async.protocol.explain import PREFIX

NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
WAIT_SECONDS_MAX: Final = 3600.0
LSN_MAX: Final = 2**63 - 1
U32_MAX: Final = 2**32 - 1
TENANT_NAME_LENGTH_MIN: Final = 3
DATABASE_NAME_LENGTH_MIN: Final = 3

_VISIBLE: Final = re.compile("[!-~]+")


def is_visible_ascii(text: str) -> bool:
    """Whether a text has characters, and only such as headers and URLs take as they are."""
    return _VISIBLE.fullmatch(text) is not None


def check_finite(value: Any, place: str) -> None:
    """Refuse numbers that JSON can't say, for which it has null: in a value of dicts, lists and structs without cycles."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"{place} must be a finite number. got={value}")
    given: Any = structs.asdict(value) if isinstance(value, Struct) else value
    if isinstance(given, Mapping):
        for key, item in cast("Any", given).items():
            check_finite(item, f"{place}.{key}")
    elif isinstance(given, list | tuple):
        for position, item in enumerate(cast("Any", given)):
            check_finite(item, f"{place}[{position}]")


def check_name(name: str, prefix: str = "") -> None:
    """Refuse a collection or database name outside Chroma's rule (contract: 3-512 of [a-zA-Z0-9._-])."""
    for part in _topology_parts(name, prefix):
        if NAME.fullmatch(part) is None:
            raise InvalidArgumentError(
                f"{prefix}Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and ending with a "
                f"character in [a-zA-Z0-9]. Got: {part}"
            )
        if ".." in part:
            raise InvalidArgumentError(
                f"{prefix}Expected a name that does not contains two consecutive periods (..). Got {part}"
            )
        if _is_ipv4(part):
            raise InvalidArgumentError(f"{prefix}Expected a name that is not a valid ip address. Got {part}")


def _topology_parts(name: str, prefix: str) -> list[str]:
    parts = name.split("+")
    if len(parts) > 2:
        raise InvalidArgumentError(f"{prefix}Expected a name to contain at most one topology:  Got two `+` characters.")
    return parts


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def check_tenant_name(name: str) -> None:
    if len(name) < TENANT_NAME_LENGTH_MIN:
        raise InvalidArgumentError(
            "Validation error: name: Validation error: length "
            f'[{{"min": Number({TENANT_NAME_LENGTH_MIN}), "value": String("{name}")}}]'
        )


def check_database_in_path(name: str) -> None:
    if len(name) < DATABASE_NAME_LENGTH_MIN:
        raise InvalidArgumentError(f"database name must be at least {DATABASE_NAME_LENGTH_MIN} characters")


@lru_cache(maxsize=4096)
def parse_collection_id(text: str) -> CollectionId:
    """Return the id in its one canonical form; upper case, bare hex, braces and `urn:uuid:` are accepted.

    Raises:
        InvalidArgumentError: it is not a UUID.
    """
    try:
        return CollectionId(str(uuid.UUID(text)))
    except ValueError as error:
        raise InvalidArgumentError("Collection ID is not a valid UUIDv4") from error


def check_unsigned(value: int | None, name: str) -> None:
    """Limits, offsets and numbers of results are u32 on the wire."""
    if value is not None and not 0 <= value <= U32_MAX:
        raise MalformedRequestError(f"{PREFIX}{name}: invalid value: integer `{value}`, expected u32")


def check_lsn(lsn: int | None) -> None:
    """Check an LSN that a caller names.

    Raises:
        InvalidArgumentError: it is none.
    """
    if lsn is not None and not 0 <= lsn <= LSN_MAX:
        raise InvalidArgumentError(f"an LSN is a number from 0 to 2^63 - 1. got={lsn}")


def check_wait_seconds(seconds: float | None) -> None:
    """Refuse a time to wait that is none, or too long."""
    if seconds is not None and not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise InvalidArgumentError(f"wait_seconds must be from 0 to {WAIT_SECONDS_MAX:g}. got={seconds}")
