"""The stores that `check_list_watch` is run on: embedded, ours over gRPC, a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from informer.listwatch import ListWatch, StoreListWatch
from kvstore import api
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node, NodeOptions
from kvstore.server.edge import Server
from tests.faults.proxy import FaultProxy


class StoreSubject:
    """A `StoreListWatch` on `used`; `hand` writes to the same store. `proxy` is between them, if there is one."""

    def __init__(
        self,
        hand: api.Client,
        used: api.Client,
        prefix: bytes,
        *,
        node: Node | None = None,
        proxy: FaultProxy | None = None,
    ) -> None:
        self.list_watch: ListWatch = StoreListWatch(used, prefix, quiet_after=0.05, answer_within=2.0, list_within=2.0)
        self._hand = hand
        self._used = used
        self._prefix = prefix
        self._node = node
        self._proxy = proxy

    async def write(self, changes: Mapping[str, bytes | None]) -> str:
        operations: list[api.Op] = [
            api.DeleteRange(self._prefix + key.encode()) if data is None else api.Put(self._prefix + key.encode(), data)
            for key, data in changes.items()
        ]
        return str((await self._hand.txn(success=operations)).header.revision)

    async def write_elsewhere(self) -> str:
        # Next to the prefix, so that a list-watch that takes too much is found.
        return str((await self._hand.put(self._prefix[:-1] + b"0/elsewhere", b"{}")).header.revision)

    async def compact(self, revision: str) -> None:
        await self._hand.compact(int(revision))

    async def disconnect(self) -> None:
        if self._proxy is None:
            await self._used.close()
        else:
            self._proxy.refusing = True
            self._proxy.cut()

    def open_watches(self) -> int | None:
        if self._node is None:
            return None
        watch = self._node.statistics().watch
        return watch.synced + watch.unsynced + watch.victims


@asynccontextmanager
async def embedded(directory: Path, prefix: bytes) -> AsyncIterator[StoreSubject]:
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        used, hand = EmbeddedClient(node), EmbeddedClient(node)
        yield StoreSubject(hand, used, prefix, node=node)
        await used.close()
        await hand.close()


@asynccontextmanager
async def served(directory: Path, prefix: bytes) -> AsyncIterator[StoreSubject]:
    async with (
        Node.open(directory, NodeOptions(fsync=False)) as node,
        Server(node, ["http://127.0.0.1:0"]) as server,
        through_proxy(server.client_urls[0].rpartition("/")[2]) as (used, proxy),
    ):
        yield StoreSubject(EmbeddedClient(node), used, prefix, node=node, proxy=proxy)


@asynccontextmanager
async def etcd(address: str, prefix: bytes) -> AsyncIterator[StoreSubject]:
    async with RemoteClient([address]) as hand, through_proxy(address) as (used, proxy):
        yield StoreSubject(hand, used, prefix, proxy=proxy)


@asynccontextmanager
async def through_proxy(address: str) -> AsyncIterator[tuple[RemoteClient, FaultProxy]]:
    host, _, port = address.rpartition(":")
    async with FaultProxy(host, int(port)) as proxy, RemoteClient([proxy.address], dial_timeout=1.0) as used:
        yield used, proxy
