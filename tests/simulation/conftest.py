"""The store of the controllers' tests serves simulations too. The log is kept out: it would be full of faults."""

from collections.abc import Iterator

import pytest
import structlog

from tests.controllers.conftest import store

__all__ = ["store"]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield
