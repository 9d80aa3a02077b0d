"""What a process that was begun says to the one that began it: a word, and a value."""

from __future__ import annotations

from multiprocessing.connection import Connection as Pipe
from typing import Any

from load_tests.errors import RequestFailed


def expect(pipe: Pipe, what: str, who: str) -> Any:
    """Wait for a word of a process, `who` for people; return its value.

    Raises:
        RequestFailed: it said another one, of its failure, or has ended.
    """
    try:
        kind, value = pipe.recv()
    except EOFError as error:
        raise RequestFailed(f"{who} has ended; its traceback is above") from error
    if kind != what:
        raise RequestFailed(f"{who} failed: {value}")
    return value
