"""Each scenario of `promises`, in each colour; and what the guide says of addresses and logs."""

from __future__ import annotations

import ast
import inspect
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.api.serving import serving
from tests.guide import promises
from tests.guide.colours import Colour
from tests.support.waiting import wait_until

import chroma_async
from chroma_async.settings import ServerSettings

OPENING = 'client = chromadb.PersistentClient(path="path/to/save/to", settings=chromadb.Settings(allow_reset=True))\n'
SCENARIOS = [
    function
    for _, function in inspect.getmembers(promises, inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["client"]
]
SECONDS_MAX = 20.0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_guide_keeps_its_promise(scenario: Callable[..., None], colour: Colour) -> None:
    colour.run(OPENING + body(scenario), scenario.__name__, **vars(promises), chromadb=chroma_async)


def body(scenario: Callable[..., None]) -> str:
    """The statements of a function, as those of a module."""
    definition = ast.parse(inspect.getsource(scenario)).body[0]
    assert isinstance(definition, ast.FunctionDef)
    return "\n".join(ast.unparse(statement) for statement in definition.body)


def test_client_and_server_meet_at_localhost_8000_by_default() -> None:
    parameters = inspect.signature(chroma_async.HttpClient).parameters
    assert (parameters["host"].default, parameters["port"].default) == ("localhost", 8000)
    assert ServerSettings().port == 8000


# ---- updates of ids that do not exist


def found_in(read: Callable[[], str]) -> list[str]:
    """Lines about ignored updates, once the background work has come to them."""
    wait_until(lambda: "update.ignored" in read(), tell=read)
    time.sleep(0.5)
    return [line for line in read().splitlines() if "update.ignored" in line]


def update_unknown_ids(client: chroma_async.ClientAPI) -> None:
    collection = client.create_collection("films", embedding_function=None)
    collection.add(["known"], [[1.0]])
    unknown = [f"unknown {number}" for number in range(12)]
    collection.update([*unknown, "known"], embeddings=[[2.0]] * 13)
    collection.update(["known"], embeddings=[[3.0]])
    assert collection.count() == 1


SAID = "update.ignored collection='films' count=12 ids=['unknown 0' 'unknown 1' "


def test_an_ignored_update_is_logged_once_by_an_embedded_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "chroma_async"), chroma_async.PersistentClient(tmp_path / "films.db") as client:
        update_unknown_ids(client)
        (line,) = found_in(lambda: caplog.text)
    assert SAID in line
    assert line.endswith("'unknown 9' ...]")
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_an_ignored_update_is_logged_once_by_a_server(tmp_path: Path) -> None:
    with serving(tmp_path) as url, chroma_async.HttpClient(port=urlsplit(url).port or 80) as client:
        update_unknown_ids(client)
        (line,) = found_in((tmp_path / "server.log").read_text)
    assert " WARNING chroma_async.compactor[" in line
    assert SAID in line


def test_an_update_in_the_last_moment_of_a_process_is_logged_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, chroma_async\n"
        "client = chroma_async.PersistentClient(sys.argv[1], compact=False)\n"
        "collection = client.create_collection('films', embedding_function=None)\n"
        "collection.update(['unknown'], embeddings=[[1.0]])\n"
        "client.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "films.db")], check=True, timeout=60)
    handler = Kept()
    logging.getLogger("chroma_async").addHandler(handler)
    try:
        with chroma_async.PersistentClient(tmp_path / "films.db"):
            (line,) = found_in(lambda: "\n".join(handler.lines))
    finally:
        logging.getLogger("chroma_async").removeHandler(handler)
    assert line == "update.ignored collection='films' count=1 ids=['unknown']"


class Kept(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: Any) -> None:
        self.lines.append(record.getMessage())
