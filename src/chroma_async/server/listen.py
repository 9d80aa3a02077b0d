"""The listening socket, bound once by the parent and inherited by every worker."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from chroma_async.server.start_error import StartError

LISTEN_BACKLOG: Final = 2048

SOCKET_MASK: Final = 0o117
"""Owner and group may connect to a unix socket, nobody else."""

FIRST_INHERITED: Final = 3
"""Descriptor of the first socket that systemd hands over, `SD_LISTEN_FDS_START` of sd_listen_fds(3)."""


class ListenError(StartError):
    """The address can't be listened on; the message says why and what to change."""


class AddressTaken(ListenError):
    """Somebody listens there, which may be over soon."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`; port 0 takes a free one.

    Raises:
        AddressTaken: the port is taken.
        ListenError: the host is unknown, or listening is not permitted.
    """
    try:
        family, kind, protocol, _, address = _resolve(host, port)
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"unknown host; name an address of this machine. host={host!r} ({error})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
        bound.listen(LISTEN_BACKLOG)
    except OSError as error:
        bound.close()
        kind_of_error = AddressTaken if error.errno == errno.EADDRINUSE else ListenError
        raise kind_of_error(f"{_reason(error)} host={host!r} port={port} ({error.strerror})") from error
    return bound


@contextmanager
def listen_unix(path: Path) -> Generator[socket.socket]:
    """A unix socket that owner and group may connect to. It is removed at the end; one that nobody listens on, before.

    Raises:
        AddressTaken: another server listens there.
        ListenError: something else is there, or it can't be made.
    """
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(SOCKET_MASK)
    try:
        bound.bind(str(path))
        bound.listen(LISTEN_BACKLOG)
        made = _identity(path)
    except OSError as error:
        bound.close()
        reason = error.strerror or error
        raise ListenError(f"can't make the socket; choose another --unix-socket. path={str(path)!r} ({reason})") from error
    finally:
        os.umask(before)
    with bound:
        try:
            yield bound
        finally:
            if _identity(path) == made:  # not one that somebody else has put in its place
                with suppress(FileNotFoundError):
                    path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # there is nothing, or binding says what is wrong
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"something else is there; choose another --unix-socket. path={str(path)!r}")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise ListenError(f"can't tell whose socket it is; remove it. path={str(path)!r} ({error})") from error
        else:
            raise AddressTaken(f"another server listens there; choose another --unix-socket. path={str(path)!r}")
    path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What no other socket at the path has, even if it has the same inode: that of one that was removed is used again."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def inherited() -> socket.socket | None:
    """Return the listening socket that systemd has handed over to this process, None when it has not.

    Raises:
        ListenError: it is several, or none that listens.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # nor do children take them for theirs
    if count != "1":
        raise ListenError(f"one listening socket can be taken over; name one in the socket unit. LISTEN_FDS={count!r}")
    try:
        taken = socket.socket(fileno=os.dup(FIRST_INHERITED))
        os.close(FIRST_INHERITED)
        if not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError("the socket that was handed over does not listen; use ListenStream= and Accept=no")
    except OSError as error:
        raise ListenError(f"descriptor 3 is no socket, though LISTEN_FDS says so ({error.strerror})") from error
    return taken


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """Return the URL at which a client on this machine reaches the socket: `unix:///run/...` for a unix socket."""
    if bound.family == socket.AF_UNIX:
        return f"unix://{os.path.abspath(bound.getsockname())}"
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]:
    """Return the address to bind; of a name with several the IPv4 one, which more clients try."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(found, key=lambda entry: entry[0] != socket.AF_INET)  # type: ignore[return-value]


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "not permitted to listen there; ports below 1024 need privileges: choose another --port."
    return "can't listen there; choose another --port or --host, or stop the program that uses it."
