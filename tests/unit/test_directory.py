"""A data directory is made once, by whoever comes first, and nothing foreign is taken for one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from chroma_async.engine.directory import VERSION_FILE, prepare_directory
from chroma_async.errors import FormatError
from chroma_async.seams import SystemFiles

FILES = SystemFiles()


def test_empty_or_absent_directory_becomes_ours(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a" / "b"):
        prepare_directory(path, FILES)
        marker = (path / VERSION_FILE).read_bytes()
        prepare_directory(path, FILES)
        assert (path / VERSION_FILE).read_bytes() == marker
        assert [entry.name for entry in path.iterdir() if entry.is_file()] == [VERSION_FILE]


def test_harmless_files_of_others_may_stay(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".gitignore").write_text("*")
    prepare_directory(tmp_path, FILES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "not empty"),
        ("chroma.sqlite3", "", "Chroma itself"),
        (VERSION_FILE, '{"format": 99, "product": "chroma_async"}', "newer release"),
        (VERSION_FILE, '{"format": 1, "product": "other"}', "another product"),
        (VERSION_FILE, "", "can't be read"),
    ],
)
def test_foreign_directories_are_refused_and_left_alone(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        prepare_directory(tmp_path, FILES)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(name, content)]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="name a directory"):
        prepare_directory(tmp_path / "file", FILES)


@pytest.mark.parametrize("attempt", range(5))
def test_several_threads_may_be_the_first(attempt: int, tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    failures: list[Exception] = []

    def prepare() -> None:
        barrier.wait()
        try:
            prepare_directory(tmp_path / "data", FILES)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == [VERSION_FILE]


def test_a_network_file_system_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    data = tmp_path / "my share" / "data"
    share = str(data.parent.resolve()).replace(" ", "\\040")
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"48 22 0:44 / {share} rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2\n"
    )
    with pytest.raises(FormatError, match=r"network file system.*type=nfs4"):
        prepare_directory(data, FILES, mounts=mounts)
    prepare_directory(data, FILES, mounts=mounts, allow_network=True)
    prepare_directory(tmp_path / "local", FILES, mounts=mounts)
    prepare_directory(tmp_path / "unknown", FILES, mounts=tmp_path / "there is none")
