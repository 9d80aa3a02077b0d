"""What every test may ask for."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are marked `anyio` run on asyncio, as the server does: aiosqlite knows no other."""
    return "asyncio"
