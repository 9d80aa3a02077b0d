"""A process that forks while it has a directory open: the child is told, and the parent goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.engines import Records, create_collection

from chroma_async.engine import open_engine

pytestmark = pytest.mark.anyio


def in_fork(work: Callable[[], None]) -> int:
    """Run a function in a forked child, which then ends; return the exit code, 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("ephemeral", [True, False])
async def test_the_child_is_told_and_the_parent_goes_on(ephemeral: bool, tmp_path: Path) -> None:
    async with open_engine(None if ephemeral else tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], [[1.0, 2.0]])

        def use() -> None:
            call = records.count()
            with pytest.raises(RuntimeError, match="opened before a fork"):
                call.send(None)

        assert in_fork(use) == 0
        await records.add(["b"], [[1.0, 3.0]])
        assert await records.count() == 2
