"""The environment variables and files by which Chroma 0.4 and 0.5 were told about authentication.

Chroma 1.0 ignores them, and so serves everybody who asks. Here they mean what Chroma's documentation said, or the server
does not start: a name that looks like authentication and is not known is a mistake that must not be passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast

from chroma_async.server.auth.identity import EVERY, Grant
from chroma_async.server.auth.lines import Roles, TokenEntry, check_name, check_token, digest_of, with_implied
from chroma_async.server.auth.provider import AuthConfigError
from chroma_async.server.auth.rules import ROLES
from chroma_async.settings import AuthSettings, TokenHeader

Kind = Literal["basic", "token"]

PROVIDERS: Final[Mapping[str, Kind]] = {
    "basic": "basic",
    "chromadb.auth.basic.BasicAuthServerProvider": "basic",
    "chromadb.auth.basic_authn.BasicAuthenticationServerProvider": "basic",
    "token": "token",
    "chromadb.auth.token.TokenAuthServerProvider": "token",
    "chromadb.auth.token_authn.TokenAuthenticationServerProvider": "token",
}

CREDENTIALS_PROVIDERS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "htpasswd_file": ("basic", True),
    "chromadb.auth.providers.HtpasswdFileServerAuthCredentialsProvider": ("basic", True),
    "chromadb.auth.providers.HtpasswdConfigurationServerAuthCredentialsProvider": ("basic", False),
    "token_config": ("token", False),
    "chromadb.auth.token.TokenConfigServerAuthCredentialsProvider": ("token", False),
    "user_token_config": ("token", True),
    "chromadb.auth.token.UserTokenConfigServerAuthCredentialsProvider": ("token", True),
}
"""Of Chroma 0.4: the kind of credentials, and whether they may be in a file."""

AUTHORIZATION_PROVIDERS: Final = (
    "simple_rbac",
    "chromadb.auth.authz.SimpleRBACAuthorizationProvider",
    "chromadb.auth.simple_rbac_authz.SimpleRBACAuthorizationProvider",
)
AUTHORIZATION_CONFIG_PROVIDERS: Final = (
    "local_authz_config",
    "chromadb.auth.authz.LocalUserConfigAuthorizationConfigurationProvider",
)

_OLD: Final = "CHROMA_SERVER_AUTH_"
_NEW: Final = "CHROMA_SERVER_AUTHN_"
_ROLES: Final = "CHROMA_SERVER_AUTHZ_"

OLD_NAMES: Final = frozenset(
    _OLD + name
    for name in (
        "PROVIDER",
        "CREDENTIALS_PROVIDER",
        "CREDENTIALS_FILE",
        "CREDENTIALS",
        "TOKEN_TRANSPORT_HEADER",
        "IGNORE_PATHS",
    )
)
NEW_NAMES: Final = frozenset(
    {*(_NEW + name for name in ("PROVIDER", "CREDENTIALS_FILE", "CREDENTIALS")), "CHROMA_AUTH_TOKEN_TRANSPORT_HEADER"}
)
ROLES_NAMES: Final = frozenset(
    _ROLES + name for name in ("PROVIDER", "CONFIG_PROVIDER", "CONFIG_FILE", "CONFIG", "IGNORE_PATHS")
)
CLIENT_NAMES: Final = frozenset(
    {
        *(
            f"CHROMA_CLIENT_AUTH_{name}"
            for name in (
                "PROVIDER",
                "CREDENTIALS",
                "CREDENTIALS_FILE",
                "CREDENTIALS_PROVIDER",
                "PROTOCOL_ADAPTER",
                "TOKEN_TRANSPORT_HEADER",
            )
        ),
        "CHROMA_OVERWRITE_SINGLETON_TENANT_DATABASE_ACCESS_FROM_AUTH",
    }
)
"""What a client reads: a server has no use for it."""

WITHOUT_USE: Final = frozenset(_OLD + name for name in ("CONFIGURATION_PROVIDER", "CONFIGURATION_FILE"))
"""What Chroma 0.4 knew and never used."""

ALWAYS_PUBLIC: Final = re.compile(r"/api/v[12](/heartbeat|/version)?/?")

_LOOKS_LIKE_AUTH: Final = re.compile(r"CHROMA_.*AUTH")


def settings_from_environment(environment: Mapping[str, str], ours: Sequence[str] = ()) -> AuthSettings | None:
    """Return what the variables of Chroma ask for; None when none of them asks for anything.

    `ours` are the names that our own options have in the environment.

    Raises:
        AuthConfigError: a variable that is not known, or a value that can't be followed.
    """
    values = {name.upper(): value for name, value in environment.items() if value != ""}
    asked = {name: value for name, value in values.items() if _LOOKS_LIKE_AUTH.match(name) and name not in ours}
    _check_names(asked)
    server = {name: value for name, value in asked.items() if name not in CLIENT_NAMES}
    if not server:
        return None
    if server.keys() & OLD_NAMES and server.keys() & NEW_NAMES:
        raise AuthConfigError(
            f"variables of Chroma 0.4 ({_OLD}...) and of 0.5 ({_NEW}...) are set: keep those of one. "
            f"set={', '.join(sorted(server))}"
        )
    _check_public_paths(server)
    found = _old(server) if server.keys() & OLD_NAMES else _new(server)
    return _with_roles(found, server)


def _check_names(asked: Mapping[str, str]) -> None:
    for name in sorted(asked):
        if name in WITHOUT_USE:
            raise AuthConfigError(f"{name} never had an effect in Chroma: remove it, so that nobody relies on it")
        if name not in OLD_NAMES | NEW_NAMES | ROLES_NAMES | CLIENT_NAMES:
            raise AuthConfigError(
                f"{name} looks like a setting of authentication, and there is none of that name: correct or remove it"
            )


def _check_public_paths(values: Mapping[str, str]) -> None:
    for name in (_OLD + "IGNORE_PATHS", _ROLES + "IGNORE_PATHS"):
        if name not in values:
            continue
        try:
            paths = list(cast("dict[str, object]", json.loads(values[name])))
        except (ValueError, TypeError) as error:
            raise AuthConfigError(f"{name} must be a JSON object of paths. got={values[name]!r}") from error
        opened = [path for path in paths if not ALWAYS_PUBLIC.fullmatch(path)]
        if opened:
            raise AuthConfigError(f"{name} would open more than heartbeat and version, which is not done. paths={opened}")


def _kind(values: Mapping[str, str], name: str) -> Kind:
    if name not in values:
        raise AuthConfigError(
            f"{name} is missing, so nobody would be asked for credentials. set={', '.join(sorted(values))}"
        )
    return cast("Kind", _known(PROVIDERS, values, name))


def _known(table: Mapping[str, Any], values: Mapping[str, str], name: str) -> Any:
    value = values[name].strip()
    if value not in table:
        raise AuthConfigError(f"{name} must be one of {', '.join(table)}. got={value!r}")
    return table[value]


def _old(values: Mapping[str, str]) -> AuthSettings:
    """Chroma 0.4: a provider, and a provider of its credentials."""
    kind = _kind(values, _OLD + "PROVIDER")
    name = _OLD + "CREDENTIALS_PROVIDER"
    if name not in values:
        raise AuthConfigError(f"{name} is missing: it says where the credentials are")
    kind_of_credentials, in_file = _known(CREDENTIALS_PROVIDERS, values, name)
    if kind_of_credentials != kind:
        raise AuthConfigError(f"{name} is not for the provider of {_OLD}PROVIDER. got={values[name]!r}")
    file = values.get(_OLD + "CREDENTIALS_FILE")
    text = values.get(_OLD + "CREDENTIALS")
    if in_file and file is None and (kind == "basic" or text is None):
        raise AuthConfigError(f"{_OLD}CREDENTIALS_FILE is missing")
    if not in_file and text is None:
        raise AuthConfigError(f"{_OLD}CREDENTIALS is missing")
    chosen = file if in_file else None
    return _with_credentials(
        kind, chosen, text if chosen is None else None, _header(values, _OLD + "TOKEN_TRANSPORT_HEADER")
    )


def _new(values: Mapping[str, str]) -> AuthSettings:
    """Chroma 0.5."""
    kind = _kind(values, _NEW + "PROVIDER")
    file, text = values.get(_NEW + "CREDENTIALS_FILE"), values.get(_NEW + "CREDENTIALS")
    if (file is None) == (text is None):
        raise AuthConfigError(f"set one of {_NEW}CREDENTIALS_FILE and {_NEW}CREDENTIALS")
    return _with_credentials(kind, file, text, _header(values, "CHROMA_AUTH_TOKEN_TRANSPORT_HEADER"))


def _with_credentials(kind: Kind, file: str | None, text: str | None, header: TokenHeader) -> AuthSettings:
    if kind == "basic":
        return AuthSettings(basic_file=file, basic_lines=() if text is None else tuple(text.splitlines()))
    hidden = None if text is None else _hidden(text)
    return AuthSettings(chroma_tokens_file=file, chroma_tokens=hidden, token_header=header)


def _hidden(text: str) -> str:
    """The same credentials with hashes for tokens: settings may be shown."""
    return json.dumps(
        [
            {"id": user["id"], "tenant": user.get("tenant"), "databases": user.get("databases"), "sha256": digests}
            for user, digests in _users_of(text)
        ]
    )


def _header(values: Mapping[str, str], name: str) -> TokenHeader:
    """Chroma 0.4 wants the name of a constant here, 0.5 the header; both mean Authorization without it."""
    value = values.get(name, "Authorization").lower().replace("_", "-")
    if value not in ("authorization", "x-chroma-token"):
        raise AuthConfigError(f"{name} must be Authorization or X-Chroma-Token. got={values[name]!r}")
    return cast("TokenHeader", value)


def _with_roles(settings: AuthSettings, values: Mapping[str, str]) -> AuthSettings:
    file, text = values.get(_ROLES + "CONFIG_FILE"), values.get(_ROLES + "CONFIG")
    if _ROLES + "PROVIDER" not in values:
        if file is not None or text is not None:
            raise AuthConfigError(f"{_ROLES}PROVIDER is missing, so the roles would not be looked at")
        return settings
    _known(dict.fromkeys(AUTHORIZATION_PROVIDERS), values, _ROLES + "PROVIDER")
    if _ROLES + "CONFIG_PROVIDER" in values:
        _known(dict.fromkeys(AUTHORIZATION_CONFIG_PROVIDERS), values, _ROLES + "CONFIG_PROVIDER")
    if (file is None) == (text is None):
        raise AuthConfigError(f"set one of {_ROLES}CONFIG_FILE and {_ROLES}CONFIG")
    return replace(settings, chroma_roles_file=file, chroma_roles=text)


# ---- files


def parse_chroma_tokens(text: str, *, by_roles: bool) -> Sequence[TokenEntry]:
    """Return the tokens of Chroma's file of users, or of one line that is a token.

    `by_roles`: what they may do is said by roles elsewhere; else a user may do everything in its tenant and databases.

    Raises:
        ValueError: what is wrong, without a token.
    """
    found: dict[bytes, TokenEntry] = {}
    for user, digests in _users_of(text):
        name = user["id"]
        check_name(name)
        place = _grant(user, frozenset() if by_roles else ROLES["admin"])
        for digest in digests:
            entry = TokenEntry(name, bytes.fromhex(digest), None if by_roles else (place,), within=place)
            if found.setdefault(entry.digest, entry).name != name:
                raise ValueError(f"one token belongs to two users. users={found[entry.digest].name!r}, {name!r}")
    return tuple(found.values())


def _users_of(text: str) -> list[tuple[dict[str, Any], list[str]]]:
    """Users, each with the SHA-256 of its tokens."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and lines[0][0] not in "[{":
        check_token(lines[0])
        return [({"id": "anonymous"}, [digest_of(lines[0].encode()).hex()])]
    decoded = _yaml(text)
    users: object = cast("dict[str, object]", decoded).get("users") if isinstance(decoded, dict) else decoded
    if not isinstance(users, list) or not users:
        raise ValueError("there must be a list `users` of objects with `id` and `tokens`")
    found = [_user(user) for user in cast("list[object]", users)]
    return [(user, _digests(user)) for user in found]


def _user(user: object) -> dict[str, Any]:
    if not isinstance(user, dict) or not isinstance(cast("dict[str, object]", user).get("id"), str):
        raise ValueError("each user must be an object with a text `id`")
    return cast("dict[str, Any]", user)


def _grant(user: dict[str, Any], actions: frozenset[str]) -> Grant:
    """These actions in the tenant and the databases of a user."""
    tenant, databases = user.get("tenant") or EVERY, user.get("databases") or [EVERY]
    if not isinstance(tenant, str) or not _is_list_of_strings(databases):
        raise ValueError(f"tenant must be a name, databases a list of names. user={user['id']!r}")
    return Grant(actions, (tenant,), tuple(databases))


def _digests(user: dict[str, Any]) -> list[str]:
    if "sha256" in user:
        return list(user["sha256"])
    tokens = user.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"a user needs a list of tokens. user={user['id']!r}")
    found: list[str] = []
    for item in cast("list[object]", tokens):
        token = cast("dict[str, object]", item).get("token") if isinstance(item, dict) else item
        if not isinstance(token, str):
            raise ValueError(f"a token must be text: put it into quotes. user={user['id']!r}")
        check_token(token)
        found.append(digest_of(token.encode()).hex())
    return found


def parse_chroma_roles(text: str) -> Roles:
    """Return what Chroma's file of roles and users says.

    Raises:
        ValueError: what is wrong.
    """
    decoded = _yaml(text)
    config = cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}
    mapping, users = config.get("roles_mapping"), config.get("users")
    if not isinstance(mapping, dict) or not isinstance(users, list):
        raise ValueError("there must be an object `roles_mapping` and a list `users`")
    actions = {str(name): _actions(str(name), role) for name, role in cast("dict[object, Any]", mapping).items()}
    names: dict[str, tuple[Grant, ...]] = {}
    for item in cast("list[object]", users):
        user = _user(item)
        check_name(user["id"])
        role = str(user.get("role"))
        if role not in actions:
            raise ValueError(f"the user's role is not in roles_mapping. user={user['id']!r} role={role!r}")
        names[user["id"]] = (*names.get(user["id"], ()), _grant(user, actions[role]))
    return Roles(names, {})


def _actions(name: str, role: Any) -> frozenset[str]:
    actions: object = cast("dict[str, object]", role).get("actions") if isinstance(role, dict) else None
    if not _is_list_of_strings(actions):
        raise ValueError(f"a role must be an object with a list of `actions`. role={name!r}")
    return with_implied(cast("list[str]", actions))


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value))


def _yaml(text: str) -> object:
    import yaml

    try:
        return cast("object", cast("Any", yaml).safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" line={mark.line + 1}"
        raise ValueError(f"not YAML: {getattr(error, 'problem', None) or 'it can not be read'}{where}") from None
