"""Packages of others against one server: ours, or the one that CHROMA_ASYNC_TEST_URL names.

The first run downloads the packages, about half a gigabyte each. So a plain `pytest` leaves these tests out, and counts them
as deselected; `pytest --integrations` or `pytest tests/integrations` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.serving import serving
from tests.integrations.environments import SUITES, python_environment

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--integrations") or any(_is_here(config, argument) for argument in config.args):
        return
    left_out = [item for item in items if HERE in item.path.parents]
    items[:] = [item for item in items if HERE not in item.path.parents]
    config.hook.pytest_deselected(items=left_out)


def _is_here(config: pytest.Config, argument: str) -> bool:
    named = config.invocation_params.dir / argument.partition("::")[0]
    return named.resolve().is_relative_to(HERE)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def node() -> Path:
    """The directory with `node` and `npm`."""
    return python_environment(SUITES / "node.txt")
