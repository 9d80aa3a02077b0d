"""What every test may ask for."""

import hypothesis
import pytest

hypothesis.settings.register_profile("patient", hypothesis.settings.default, deadline=None)  # processors are shared
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--integrations", action="store_true", help="run tests/integrations too, which downloads packages of others at first"
    )


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are marked `anyio` run on asyncio, as the server does: aiosqlite knows no other."""
    return "asyncio"
