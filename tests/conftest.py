"""Tests marked `virtual_time` run on an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from kvstore.collector import collect_less
from tests.virtual_time import VirtualTimeLoop

# How long making inputs takes says something of the machine only: in a new checkout hypothesis reads all sources first.
settings.register_profile("listwatch", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("listwatch")

collect_less()  # as in our programs; it saves a tenth of the tests' time


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}
