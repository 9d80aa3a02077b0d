"""Where the server is, and the URL of a call there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from chroma_async.protocol import Route, WireRequest

DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 8000
UNIX: Final = "unix://"
API_PATHS: Final = ("/api/v2", "/api/v1")


@dataclass(frozen=True, slots=True)
class Address:
    """`prefix` is the path before `/api/v2`, empty or with a leading and no trailing slash.

    `unix_socket` is the path of the socket to connect to; scheme, host and port are then only what the request says.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""
    unix_socket: str | None = None

    @property
    def where(self) -> str:
        """Where connections go, for messages."""
        return self.location if self.unix_socket is None else f"unix://{self.unix_socket}"

    @property
    def location(self) -> str:
        """host:port, for URLs; IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://{self.location}{self.prefix}"

    def url(self, route: Route, request: WireRequest) -> str:
        """Return the URL of a request; path values are percent-encoded wholly, also their slashes.

        Raises:
            ValueError: a path value is empty.
        """
        path = route.path
        for name, value in request.path.items():
            path = path.replace(f"{{{name}}}", _segment(name, value))
        query = f"?{urlencode(request.query)}" if request.query else ""
        return f"{self.base_url}{path}{query}"


def _segment(name: str, value: str) -> str:
    if not value:
        raise ValueError(f"{name} must not be empty")
    return value.replace(".", "%2E") if value in (".", "..") else quote(value, safe="")


def parse_address(host: str, port: int | str = DEFAULT_PORT, ssl: bool = False) -> Address:
    """Return the address that a client's `host`, `port` and `ssl` mean.

    `host` is a name or IP address, `name:port`, or a URL with scheme, and there with port and path prefix if wanted. A URL
    without a port means the scheme's own port (80 or 443) unless `port` says another one than the default.
    `unix:///run/chroma.sock` is a unix socket of this machine.

    Raises:
        ValueError: what is wrong with the host.
    """
    if host.startswith(UNIX):
        return _from_socket(host.removeprefix(UNIX), ssl)
    if "://" in host:
        return _from_url(host, int(port), ssl)
    if "/" in host:
        raise ValueError(f"add http:// or https:// to a host with a path. host={host!r}")
    if not host:
        raise ValueError("host must not be empty")
    scheme = "https" if ssl else "http"
    name, colon, number = host.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        return Address(scheme, name.strip("[]"), int(number))
    return Address(scheme, host.strip("[]"), int(port))


def _from_socket(path: str, ssl: bool) -> Address:
    if not path.startswith("/") or ssl:
        raise ValueError(
            f"a unix socket is an absolute path, without TLS: unix:///run/x.sock. host={UNIX + path!r} ssl={ssl}"
        )
    return Address("http", "localhost", 80, unix_socket=path)


def _from_url(url: str, port: int, ssl: bool) -> Address:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the host must be a name, or a URL such as https://db.example.org/prefix. host={url!r}")
    if parts.username or parts.password:
        raise ValueError("a host URL can't carry user and password; use headers=... or Settings(chroma_client_auth_...)")
    scheme = "https" if ssl else parts.scheme
    own_port = 443 if scheme == "https" else 80
    return Address(
        scheme=scheme,
        host=parts.hostname,
        port=parts.port or (port if port != DEFAULT_PORT else own_port),
        prefix=_prefix(parts.path),
    )


def _prefix(path: str) -> str:
    path = path.rstrip("/")
    for api in API_PATHS:
        path = path.removesuffix(api)
    return quote(path.rstrip("/"), safe="/%")
