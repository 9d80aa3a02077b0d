"""The description of an embedding function, which clients store with a collection; nothing named in it is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

from chroma_async.errors import MalformedRequestError
from chroma_async.model import JsonObject
from chroma_async.protocol.explain import PREFIX, describe

CONFIG_LEVELS_MAX: Final = 64


def check_embedding_function(value: Mapping[str, Any] | None, path: str = "configuration") -> None:
    """Refuse a description that no client could read back.

    Raises:
        MalformedRequestError: its type is not known, or a known one lacks its name or config, or these can't be stored.
    """
    if value is None:
        return
    place = f"{PREFIX}{path}.embedding_function"
    kind = value.get("type")
    if kind is None:
        raise MalformedRequestError(f"{place}: missing field `type`")
    if kind not in ("legacy", "known", "unknown"):
        raise MalformedRequestError(f"{place}.type: unknown variant `{kind}`, expected one of `legacy`, `known`, `unknown`")
    if kind != "known":
        return
    for name in ("name", "config"):
        if name not in value:
            raise MalformedRequestError(f"{place}: missing field `{name}`")
    if not isinstance(value["name"], str):
        raise MalformedRequestError(f"{place}.name: invalid type: {describe(value['name'])}, expected a string")
    if _nests_deeper(value["config"], CONFIG_LEVELS_MAX):
        raise MalformedRequestError(f"{place}.config: nested too deeply, expected {CONFIG_LEVELS_MAX} levels at most")
    try:
        orjson.dumps([value["name"], value["config"]])
    except TypeError as error:
        raise MalformedRequestError(f"{place}: can't be stored as JSON: {error}") from error


def _nests_deeper(value: object, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(cast("Mapping[str, object]", value).values())
    if not isinstance(value, list):
        return False
    return not levels or any(_nests_deeper(item, levels - 1) for item in cast("list[object]", value))


_PARTS: Final[Mapping[str, tuple[str, ...]]] = {"known": ("type", "name", "config")}


def kept_function(value: Mapping[str, Any] | None) -> JsonObject | None:
    """Return the description as it is stored and shown, after it was checked: without what is no part of it."""
    if value is None:
        return None
    return {part: value[part] for part in _PARTS.get(value["type"], ("type",))}


def is_default_function(value: Mapping[str, Any] | None) -> bool:
    """Whether a description says nothing: none, an unknown one, or the one that clients take when nobody chose."""
    return value is None or value.get("type") == "unknown" or value.get("name") == "default"
