"""How much of the log is kept for feeds, as people write it: `7d`, `1GB`, both with a comma between, or `off`."""

from __future__ import annotations

import re
from typing import Any, Final

import click

_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BYTES: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40
}  # fmt: skip
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


DEFAULT: Final = "1MiB"
"""What `EngineSettings` have."""


def _checked(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        retention_settings(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def parse_retention(text: str) -> tuple[int | None, float | None]:
    """Return bytes and seconds, None for what is not limited.

    Raises:
        ValueError: what is wrong, and what is allowed.
    """
    if text.strip().lower() == "off":
        return 0, None
    size: int | None = None
    seconds: float | None = None
    for part in text.lower().split(","):
        match = _PART.fullmatch(part.strip())
        number, unit = (float(match[1]), match[2]) if match else (0.0, "")
        if unit in _SECONDS and seconds is None:
            seconds = number * _SECONDS[unit]
        elif unit in _BYTES and size is None:
            size = int(number * _BYTES[unit])
        else:
            raise ValueError(
                f"give a time (30m, 12h, 7d), a size (500MB, 1GiB), both with a comma between (7d,1GB), or off. got={text!r}"
            )
    return size, seconds


def retention_settings(text: str) -> dict[str, Any]:
    """Return what the option means for `EngineSettings`."""
    size, seconds = parse_retention(text)
    return {"log_retention_bytes": size, "log_retention_seconds": seconds}


retention_option = click.option(
    "--log-retention",
    default=DEFAULT,
    callback=_checked,
    help="How much of what was applied stays in the log for feeds of changes: a time, a size, both (7d,1GB), or off.",
)
