"""Commands beside a server: they read and write a data directory themselves, and fail in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import click
import pytest
from click.testing import CliRunner, Result

from chroma_async import cli
from chroma_async.cli.commands import app, version
from chroma_async.engine.verify import compacting_alone
from chroma_async.server.run import check_directory


def chroma_async(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("chroma-async: ")
    for part in parts:
        assert part in line


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory without collections."""
    path = tmp_path / "data"
    check_directory(path)
    return path


def test_every_command_is_where_the_list_of_commands_says() -> None:
    context = click.Context(app)
    names = app.list_commands(context)
    assert {"auth", "import", "import-chroma", "run", "verify"} <= set(names)
    assert [getattr(app.get_command(context, name), "name", None) for name in names] == names
    assert app.get_command(context, "verfy") is None


def test_a_misspelt_command_is_told_the_one_that_may_have_been_meant() -> None:
    code = "from chroma_async.cli import main; import sys; sys.argv = ['chroma-async', 'verfy']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'verfy'" in done.stderr
    assert "'verify'" in done.stderr


def test_a_server_imports_no_other_command() -> None:
    code = "import sys; from chroma_async.cli.commands import app; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "chroma_async.cli.commands" in modules
    assert not {f"chroma_async.cli.{name}" for name in ("backup", "import_chroma", "load", "verify")} & set(modules)


def test_a_server_imports_usearch_with_its_first_graph_only() -> None:
    code = "import sys; import chroma_async.server.run; from chroma_async.server.begin import preload; "
    code += "preload('hypercorn'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "chroma_async.index.hnsw" in modules
    assert "usearch" not in modules


def test_version_is_printed() -> None:
    result = chroma_async("version")
    assert result.exit_code == 0
    assert result.stdout.startswith("chroma-async ")


def test_the_version_is_an_option_too() -> None:
    assert chroma_async("--version").stdout == chroma_async("version").stdout


@pytest.mark.parametrize("group", [[], ["auth"]])
def test_no_summary_is_cut_off(group: list[str]) -> None:
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*group, "--help"], terminal_width=80).stdout
    assert not [line for line in listed.partition("Commands:")[2].splitlines() if line.endswith("...")]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, click.Abort])
def test_an_interruption_is_one_line(interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(version, "callback", interrupt)
    assert_one_line(chroma_async("version"), 130, "interrupted")


def test_an_interruption_while_things_are_imported_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130


def test_without_a_terminal_a_password_is_not_asked_for() -> None:
    assert_one_line(chroma_async("auth", "user", "alice"), 2, "--stdin")


@pytest.mark.parametrize(("writes", "code"), [(True, 0), (False, 1)])
def test_a_server_that_refuses_writes_is_not_healthy(writes: bool, code: int) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"is_executor_ready": True, "is_log_client_ready": writes}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        Thread(target=server.handle_request).start()
        done = chroma_async("healthcheck", "--url", f"http://127.0.0.1:{server.server_port}")
    assert done.exit_code == code
    assert "refuses writes" in done.stderr or done.stdout == "healthy\n"


def test_health_of_nobody_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert_one_line(chroma_async("healthcheck", "--url", f"http://127.0.0.1:{port}"), 1, "no answer", str(port))


@pytest.mark.parametrize(
    "command",
    [
        "inspect {}",
        "count {} docs",
        "get {} docs",
        "add {} docs --id a --embedding [1]",
        "flush {}",
        "backup {} {}-2",
        "export {} docs docs.ndjson",
        "audit {}",
        "verify {}",
        "rebuild {}",
        "purge {}",
        "reindex {} docs",
    ],
)
def test_a_directory_that_is_not_there_is_not_created_and_told_alike_by_all(command: str, tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    arguments = [word.format(path) for word in command.split()]
    assert_one_line(chroma_async(*arguments), 2, f"no data directory there. path={path!r}")
    assert not (tmp_path / "data").exists()


def test_adding_makes_the_directory_if_asked_to_create(tmp_path: Path) -> None:
    add = ["add", tmp_path / "new", "docs", "--create", "--id", "a", "--embedding", "[1]"]
    assert chroma_async(*add).exit_code == 0
    assert chroma_async("count", tmp_path / "new", "docs").stdout == "1\n"


def test_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    assert_one_line(chroma_async("inspect", tmp_path), 2, "data directory", str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.jpg"]


def test_added_records_are_counted_and_read_back(data: Path) -> None:
    first = ["add", data, "docs", "--create", "--id", "a", "--embedding", "[1, 2.5]", "--document", "h\u00e9llo"]
    assert chroma_async(*first, "--metadata", '{"n": 1}').exit_code == 0
    assert chroma_async("add", data, "docs", "--id", "b", "--embedding", "[0, 1]").exit_code == 0
    assert chroma_async("count", data, "docs").stdout == "2\n"
    printed = chroma_async("get", data, "docs").stdout.splitlines()
    assert [json.loads(line) for line in printed] == [
        {"id": "a", "document": "h\u00e9llo", "metadata": {"n": 1}},
        {"id": "b", "document": None, "metadata": None},
    ]
    page = chroma_async("get", data, "docs", "--limit", "1", "--offset", "1").stdout
    assert json.loads(page)["id"] == "b"


def test_inspection_shows_collections_with_their_size(data: Path) -> None:
    chroma_async("add", data, "docs", "--create", "--id", "a", "--embedding", "[1, 2, 3]")
    (row,) = [line for line in chroma_async("inspect", data).stdout.splitlines() if "docs" in line]
    cells = [cell.strip() for cell in row.strip("\u2502").split("\u2502")]
    assert cells[:6] == ["default_tenant", "default_database", "docs", "1", "3", "l2"]


def test_inspection_shows_how_far_everything_has_come(data: Path) -> None:
    chroma_async("add", data, "docs", "--create", "--id", "a", "--embedding", "[1, 2, 3]")
    chroma_async("add", data, "docs", "--id", "b", "--embedding", "[1, 2, 3]")
    before = json.loads(chroma_async("inspect", data, "--json").stdout)
    (docs,) = before["collections"]
    assert (docs["name"], docs["records"], docs["waiting_entries"], docs["applied"]) == ("docs", 2, 2, 0)
    assert docs["committed"] == before["committed"]
    assert before["applied"] == docs["committed"] - 2
    flushed = chroma_async("flush", data, "docs", "--wait", "indexed")
    assert (flushed.exit_code, flushed.stdout) == (0, f"{data}: indexed lsn={before['committed']}\n")
    assert chroma_async("flush", data).exit_code == 0
    after = json.loads(chroma_async("inspect", data, "--json").stdout)
    (docs,) = after["collections"]
    assert (docs["waiting_entries"], docs["waiting_bytes"], docs["applied"]) == (0, 0, after["committed"])
    assert after["applied"] == after["committed"]
    assert docs["vectors"] == 2
    assert docs["size_bytes"] > 0
    assert f"applied_lsn={after['committed']}" in chroma_async("inspect", data).stdout


def test_inspection_names_a_damaged_collection_and_shows_the_others(data: Path) -> None:
    for name in ("good", "damaged"):
        chroma_async("add", data, name, "--create", "--id", "a", "--embedding", "[1, 2, 3]")
    chroma_async("flush", data)
    states = json.loads(chroma_async("inspect", data, "--json").stdout)["collections"]
    path = next(data / "collections" / item["id"] for item in states if item["name"] == "damaged")
    (path / "records.sqlite3").write_bytes(b"x" * 8192)
    result = chroma_async("inspect", data)
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if line.startswith("damaged: damaged: ")]
    assert "good" in result.stdout
    flushed = chroma_async("flush", data)
    assert (flushed.exit_code, flushed.stdout.splitlines()[1]) == (1, "not yet applied: damaged")


def test_a_stage_that_does_not_exist_is_refused(data: Path) -> None:
    result = chroma_async("flush", data, "--wait", "soon")
    assert (result.exit_code, "applied" in result.stderr) == (2, True)


def test_inspection_shows_a_database_without_collections(data: Path) -> None:
    assert "default_database" in chroma_async("inspect", data).stdout


def test_a_reindex_that_nobody_gets_done_ends_and_says_so(data: Path) -> None:
    assert chroma_async("add", data, "docs", "--create", "--id", "a", "--embedding", "[1, 2]").exit_code == 0
    reindex = ["reindex", data, "docs", "--max-neighbors"]
    with compacting_alone(data):  # it is this process's turn, which does nothing
        result = chroma_async(*reindex, "8", "--wait-seconds", "0.2")
    assert_one_line(result, 1, "not built yet", "collection='docs' wait_seconds=0.2")
    done = chroma_async(*reindex, "9")
    assert (done.exit_code, done.stdout) == (0, "docs: reindexed\n")


def test_collection_that_is_not_there_is_one_line(data: Path) -> None:
    assert_one_line(chroma_async("count", data, "docs"), 1, "Collection [docs] does not exist")


def test_wrong_embedding_is_one_line(data: Path) -> None:
    add = ["add", data, "docs", "--create", "--id", "a", "--embedding"]
    assert_one_line(chroma_async(*add, "[1,"), 2, "--embedding must be")
    assert_one_line(chroma_async(*add, "1"), 2, "--embedding must be")
    assert_one_line(chroma_async(*add, '["x"]'), 1, "embedding")
