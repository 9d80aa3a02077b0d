"""The model's archive from a server that may break off, lie, or be away."""

from __future__ import annotations

import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.api.raw_server import RawServer, answer, raw

from chroma_async.client.embeddings import EmbeddingError
from chroma_async.client.embeddings.download import Archive, fetch

FILES = {"model.onnx": b"graph " * 5000, "tokenizer.json": b"{}", "vocab.txt": b"[PAD]"}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


CONTENT = packed({f"onnx/{name}": content for name, content in FILES.items()})


def archive_at(server: RawServer, content: bytes = CONTENT) -> Archive:
    return Archive(f"http://127.0.0.1:{server.port}/onnx.tar.gz", hashlib.sha256(content).hexdigest())


def rest(after: int) -> bytes:
    """A whole answer to a request for what follows the first `after` bytes."""
    head = f"HTTP/1.1 206 X\r\nContent-Length: {len(CONTENT) - after}\r\nConnection: close\r\n"
    return f"{head}Content-Range: bytes {after}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n\r\n".encode() + CONTENT[after:]


def broken_off(after: int) -> bytes:
    return f"HTTP/1.1 200 X\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT[:after]


def assert_complete(directory: Path) -> None:
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
    assert {path.name for path in directory.parent.iterdir()} == {"lock", "onnx"}


def test_the_archive_is_downloaded_checked_and_unpacked(tmp_path: Path) -> None:
    with RawServer(answer(200, CONTENT)) as server:
        assert_complete(fetch(archive_at(server), tmp_path / "cache"))
        assert_complete(fetch(archive_at(server), tmp_path / "cache"))
    assert len(server.requests) == 1


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    with RawServer(raw(broken_off(10_000)), raw(rest(10_000))) as server:
        assert_complete(fetch(archive_at(server), tmp_path))
    headers = [{name.lower(): value for name, value in request.headers.items()} for request in server.requests]
    assert [header.get("range") for header in headers] == [None, "bytes=10000-"]


def test_what_an_earlier_process_downloaded_is_kept(tmp_path: Path) -> None:
    (tmp_path / "onnx.tar.gz.part").write_bytes(CONTENT[:7000])
    with RawServer(raw(rest(7000))) as server:
        assert_complete(fetch(archive_at(server), tmp_path))


def test_a_server_that_cannot_resume_sends_all_of_it_again(tmp_path: Path) -> None:
    (tmp_path / "onnx.tar.gz.part").write_bytes(b"x" * 7000)
    with RawServer(answer(200, CONTENT)) as server:
        assert_complete(fetch(archive_at(server), tmp_path))


def test_a_file_that_lacks_nothing_but_the_check_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "onnx.tar.gz.part").write_bytes(CONTENT)
    with RawServer(answer(416)) as server:
        assert_complete(fetch(archive_at(server), tmp_path))


def test_a_resumed_file_with_other_bytes_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "onnx.tar.gz.part").write_bytes(b"x" * 7000)
    with RawServer(raw(rest(7000)), answer(200, CONTENT)) as server:
        assert_complete(fetch(archive_at(server), tmp_path))


def test_other_bytes_than_expected_are_refused_and_not_kept(tmp_path: Path) -> None:
    evil = packed({"onnx/model.onnx": b"evil"})
    with RawServer(answer(200, evil)) as server, pytest.raises(EmbeddingError, match="sha256 is not the expected one"):
        fetch(archive_at(server), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_paths_in_the_archive_do_not_lead_out_of_the_cache(tmp_path: Path) -> None:
    content = packed({"../../model.onnx": b"graph", "/tokenizer.json": b"{}"})
    with RawServer(answer(200, content)) as server:
        directory = fetch(archive_at(server, content), tmp_path / "a" / "cache")
    assert sorted(path.name for path in directory.iterdir()) == ["model.onnx", "tokenizer.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_archive_without_the_model_is_refused(tmp_path: Path) -> None:
    content = packed({"onnx/vocab.txt": b"[PAD]"})
    with RawServer(answer(200, content)) as server, pytest.raises(EmbeddingError, match=r"lacks model\.onnx or token"):
        fetch(archive_at(server, content), tmp_path)
    assert not (tmp_path / "onnx").exists()


def test_without_a_connection_one_line_says_what_to_put_where(tmp_path: Path) -> None:
    with RawServer(answer(200)) as server:
        archive = archive_at(server)
    with pytest.raises(EmbeddingError) as refusal:
        fetch(archive, tmp_path)
    message = str(refusal.value)
    assert "\n" not in message
    for part in ("model.onnx and tokenizer.json", "CHROMA_ASYNC_MODEL_DIR", archive.url, str(tmp_path), "ConnectError"):
        assert part in message


def test_a_refusal_is_reported_with_its_status(tmp_path: Path) -> None:
    with RawServer(answer(403, "no")) as server, pytest.raises(EmbeddingError, match="403"):
        fetch(archive_at(server), tmp_path)


def test_threads_that_want_it_together_download_it_once(tmp_path: Path) -> None:
    with RawServer(answer(200, CONTENT)) as server, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(archive_at(server), tmp_path), range(4)))
    assert len(server.requests) == 1
    assert set(found) == {tmp_path / "onnx"}
    assert_complete(tmp_path / "onnx")
