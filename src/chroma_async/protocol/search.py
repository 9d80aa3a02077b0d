"""The body of `search`, as far as it can be wrong: a client learns about its own mistakes before it is refused.

Grammar: Chroma 1.5.9, `POST .../search`. Nothing is evaluated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast, get_args

import msgspec

from chroma_async.core.where import parse_where
from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.protocol.explain import PREFIX, converted, describe
from chroma_async.protocol.records import ReadLevel
from chroma_async.protocol.validation import check_unsigned

LISTS: Final = ("$sum", "$mul", "$max", "$min")
PAIRS: Final = ("$sub", "$div")
SINGLES: Final = ("$abs", "$exp", "$log")
VARIANTS: Final = sorted(["$val", "$knn", *LISTS, *PAIRS, *SINGLES])
DEPTH_MAX: Final = 64


class Page(msgspec.Struct, frozen=True):
    offset: int = 0
    limit: int | None = None


class Selection(msgspec.Struct, frozen=True):
    keys: list[str] = []


class Grouping(msgspec.Struct, frozen=True):
    keys: list[str] = []
    aggregate: dict[str, Any] | None = None


class SearchPayload(msgspec.Struct, frozen=True):
    filter: Any = None
    rank: dict[str, Any] | None = None
    group_by: Grouping | None = None
    limit: Page | None = None
    select: Selection | None = None


class Knn(msgspec.Struct, frozen=True):
    query: list[float] | dict[str, Any]
    key: str = "#embedding"
    limit: int = 16
    default: float | None = None
    return_rank: bool = False


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_PREPARED: Final = tuple(map(msgspec.json.Decoder, (SearchPayload, Knn)))


def check_read_level(level: str | None) -> None:
    """Refuse a level that there is not.

    Raises:
        MalformedRequestError: with the levels that there are.
    """
    levels = get_args(ReadLevel)
    if level is not None and level not in levels:
        allowed = ", ".join(f"`{name}`" for name in levels)
        raise MalformedRequestError(f"{PREFIX}read_level: unknown variant `{level}`, expected one of {allowed}")


def check_searches(searches: Sequence[Any]) -> None:
    """Check every search of a call.

    Raises:
        MalformedRequestError: a part is of the wrong type or unknown; a bad filter counts among these here.
        InvalidArgumentError: groups without a rank.
    """
    for number, raw in enumerate(searches):
        _check_search(raw, f"searches[{number}]")


def _check_search(raw: Any, path: str) -> None:
    search = converted(raw, SearchPayload, path)
    if search.filter:
        try:
            parse_where(search.filter)
        except InvalidArgumentError as error:
            raise MalformedRequestError(f"{PREFIX}{path}.filter: {error.message}") from error
    if search.limit is not None:
        check_unsigned(search.limit.offset, f"{path}.limit.offset")
        check_unsigned(search.limit.limit, f"{path}.limit.limit")
    if search.rank:
        _check_rank(search.rank, f"{path}.rank", 0)
    _check_groups(search, path)


def _check_groups(search: SearchPayload, path: str) -> None:
    groups = search.group_by
    if groups is None or not (groups.keys or groups.aggregate):
        return
    if not (groups.keys and groups.aggregate):
        raise InvalidArgumentError(f"Validation error: {path}.group_by: keys and aggregate must be specified together")
    if not search.rank:
        raise InvalidArgumentError(f"Validation error: {path}.__all__: group_by requires rank expression to be specified")


def _check_rank(raw: Any, path: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise MalformedRequestError(f"{PREFIX}{path}: nested deeper than {DEPTH_MAX} levels")
    expression = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    if len(expression) != 1:
        raise MalformedRequestError(f"{PREFIX}{path}: invalid value: {describe(raw)}, expected map with a single key")
    name, operand = next(iter(expression.items()))
    here = f"{path}.{name}"
    if name in LISTS:
        for number, item in enumerate(converted(operand, list[Any], here)):
            _check_rank(item, f"{here}[{number}]", depth + 1)
    elif name in PAIRS:
        sides = converted(operand, dict[str, Any], here)
        for side in ("left", "right"):
            if side not in sides:
                raise MalformedRequestError(f"{PREFIX}{here}: missing field `{side}`")
            _check_rank(sides[side], f"{here}.{side}", depth + 1)
    elif name in SINGLES:
        _check_rank(operand, here, depth + 1)
    elif name in ("$val", "$knn"):
        converted(operand, float if name == "$val" else Knn, here)
    else:
        allowed = ", ".join(f"`{variant}`" for variant in VARIANTS)
        raise MalformedRequestError(f"{PREFIX}{path}: unknown variant `{name}`, expected one of {allowed}")
