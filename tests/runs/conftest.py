"""Tests of runs take place on asyncio and on trio, which starts tasks in random order."""

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Return each back end in turn."""
    return request.param
