"""What a person sees who starts the command line wrongly: one line, an exit code, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from chroma_async.server.run import check_directory

NEWER = '{"format": 999999, "product": "chroma_async"}'
COMMAND = [sys.executable, "-c", "from chroma_async.cli import main; main()"]


def chroma_async(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert result.returncode == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("chroma-async: ")
    for part in parts:
        assert part in line


def test_taken_port_is_one_line_and_touches_no_directory(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = chroma_async("run", "--path", tmp_path / "data", "--port", str(port))
    waiting, _, told = result.stderr.partition("\n")
    assert "address.wait" in waiting  # workers of one that was killed are gone soon
    result.stderr = told
    assert_one_line(result, 2, "choose another --port", str(port))
    assert not (tmp_path / "data").exists()


def test_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = chroma_async("run", "--path", tmp_path / "file" / "data", "--port", "0")
    assert_one_line(result, 2, "choose another --path", "file/data")


def test_directory_of_somebody_else_is_one_line_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    result = chroma_async("run", "--path", tmp_path, "--port", "0")
    assert_one_line(result, 2, str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.jpg"]


def test_directory_of_a_newer_version_is_one_line(tmp_path: Path) -> None:
    version = make_directory(tmp_path / "data") / "VERSION"
    version.write_text(NEWER)
    result = chroma_async("run", "--path", tmp_path / "data", "--port", "0")
    assert_one_line(result, 2, "data directory", str(tmp_path))


def make_directory(path: Path) -> Path:
    check_directory(path)
    return path


def test_directory_that_was_checked_is_there_and_opens_again(tmp_path: Path) -> None:
    data = make_directory(tmp_path / "data")
    assert (data / "VERSION").is_file()
    check_directory(data)


def test_wrong_option_is_told_with_exit_code_2() -> None:
    result = chroma_async("run", "--workers", "0")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_server_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['httptools'] = None; from chroma_async.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "--path", str(tmp_path / "data"), "--server", "uvicorn"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert_one_line(result, 2, "pip install 'chroma-async[server,uvicorn]'")
    assert not (tmp_path / "data").exists()
