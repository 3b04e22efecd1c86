"""The conformance checks pass on every store there is, and each finds what it is there for."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from informer.conformance import CHECKS, Nonconforming, check_list_watch
from informer.listwatch import StoreListWatch
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.etcd_process import running_etcd
from tests.informer import subjects
from tests.informer.broken import BROKEN, Broken

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


@pytest.mark.parametrize(("broken", "check", "problem"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_broken_one_is_found(tmp_path: Path, broken: type[Broken], check: str, problem: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[subjects.StoreSubject]:
        async with subjects.embedded(tmp_path, PREFIX) as subject:
            inner = subject.list_watch
            assert isinstance(inner, StoreListWatch)
            subject.list_watch = wrapped = broken(inner)
            try:
                yield subject
            finally:
                for task in getattr(wrapped, "tasks", ()):
                    task.cancel()

    with pytest.raises(Nonconforming, match=problem) as caught:
        await check_list_watch(make, only=[check], patience=0.4)
    assert caught.value.check == check


def test_every_check_is_there_for_something() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


async def test_the_guides_way_to_check_ones_own(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "informer.md").read_text()
    (code,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE) if "Subject" in block
    ]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/informer.md", "exec"), names)

    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            async with Node.open(Path(directory) / "data", NodeOptions(fsync=False)) as node:
                client, other = EmbeddedClient(node), EmbeddedClient(node)
                yield names["Subject"](client, other)
                await client.close()
                await other.close()

    assert await names["conforms"](make) == [*CHECKS]
