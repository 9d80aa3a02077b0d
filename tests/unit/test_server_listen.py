"""The unix socket: who may connect, what becomes of an old one; and a socket that systemd hands over."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chroma_async.engine.lock import is_compacted
from chroma_async.server.life import ABSENCE_SECONDS, CompactorWatch
from chroma_async.server.listen import ListenError, listen_unix, url_of


def test_owner_and_group_may_connect_and_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        with listen_unix(path) as bound:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert url_of(bound) == f"unix://{path}"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert not path.exists()


def test_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()
    assert path.exists()
    with listen_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_of_another_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_unix(path):
        with pytest.raises(ListenError, match="another server listens"), listen_unix(path):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="something else"), listen_unix(path):
        pass
    assert path.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ListenError, match="something else"), listen_unix(link):
        pass


def test_socket_that_replaced_ours_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_unix(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


def test_socket_that_was_made_when_ours_was_closed_is_not_removed(tmp_path: Path) -> None:
    """Nobody listens any more while a server answers its last requests, and its successor may begin."""
    path = tmp_path / "s"
    with listen_unix(path) as bound:
        bound.close()
        path.unlink()
        time.sleep(0.02)  # for a later time of the next one, which may get the same inode
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


@pytest.mark.parametrize("name", ["missing/s", "x" * 200])
def test_path_that_takes_no_socket_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ListenError, match="choose another --unix-socket"), listen_unix(tmp_path / name):
        pass


TAKING = """
import os, sys
from chroma_async.server.listen import ListenError, inherited, url_of
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    taken = inherited()
    print(url_of(taken), inherited(), sorted(name for name in os.environ if name.startswith("LISTEN_")))
except ListenError as error:
    print(error)
"""


def take(descriptor: int, count: str) -> str:
    """What a process says that gets a descriptor as number 3, as systemd hands it over."""

    command = f"exec 3<&{descriptor}; exec {sys.executable} -c '{TAKING}'".replace("'" + TAKING + "'", '"$0"')
    environment = {**os.environ, "LISTEN_FDS": count}
    return subprocess.run(
        ["bash", "-c", command, TAKING], env=environment, pass_fds=[descriptor], capture_output=True, text=True, check=True
    ).stdout


def test_socket_that_was_handed_over_is_taken_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert take(listening.fileno(), "1") == f"http://127.0.0.1:{port} None []\n"
        assert "one listening socket" in take(listening.fileno(), "2")
    with socket.socket() as idle:
        assert "does not listen" in take(idle.fileno(), "1")
    with open(os.devnull) as file:
        assert "no socket" in take(file.fileno(), "1")


def test_watch_tells_a_compactor_that_never_was_from_one_that_is_gone(tmp_path: Path) -> None:
    from chroma_async.engine.lock import FileCompactorLock

    now = 0.0
    watch = CompactorWatch(tmp_path, lambda: now)
    assert watch() == "the compactor has not begun"
    lock = FileCompactorLock(tmp_path)
    assert lock.try_acquire()
    assert is_compacted(tmp_path)
    assert watch() is None
    lock.release()
    now = ABSENCE_SECONDS
    assert watch() is None
    now += 1.5
    assert watch() == "the compactor is gone"
    assert lock.try_acquire()
    now += 1.5
    assert watch() is None
    lock.release()
