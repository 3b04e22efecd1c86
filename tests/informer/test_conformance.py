"""The conformance checks pass on every store there is, and each finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from informer.conformance import CHECKS, check_list_watch
from tests.etcd_process import running_etcd
from tests.informer import subjects

PREFIX = b"/registry/core/pods/"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # An etcd of that age gives reliable bookmarks only by itself.
    progress = "--experimental-watch-progress-notify-interval=100ms"
    with running_etcd(tmp_path_factory.mktemp("etcd"), progress) as address:
        yield address


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("store", [subjects.embedded, subjects.served], ids=lambda store: store.__name__)
async def test_our_stores_conform(
    tmp_path: Path,
    store: Callable[[Path, bytes], AbstractAsyncContextManager[subjects.StoreSubject]],
    check: str,
) -> None:
    assert await check_list_watch(lambda: store(tmp_path, PREFIX), only=[check]) == [check]


@pytest.mark.parametrize("check", CHECKS)
async def test_a_real_etcd_conforms(address: str, check: str) -> None:
    assert await check_list_watch(lambda: subjects.etcd(address, b"/%s/" % check.encode()), only=[check]) == [check]
