"""A store, a network that breaks, and an informer on the far side of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from informer.listwatch import ListWatch, StoreListWatch
from informer.reflector import Backoff, State
from kvstore import api
from kvstore.client import TLS
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node, NodeOptions
from kvstore.permissions import Permission, PermissionType
from kvstore.server import Server, ServerTLS
from tests.faults.judge import Judge
from tests.faults.proxy import FaultProxy, To
from tests.faults.watched import Watched
from tests.faults.writer import PREFIX, Writer
from tests.kvstore.certificates import Authority

PATIENCE = 20.0  # seconds until the informer has caught up, at the latest
DIAL_TIMEOUT = 0.4
TOKEN_TTL = 0.15  # seconds after its last use, where there are users: it often expires
ROUNDS = 5
SIDES = (To.CLIENT, To.SERVER, To.BOTH)

Wrap: TypeAlias = Callable[[ListWatch], ListWatch]


class Network:
    """Informers whose only way to the store is through a proxy, and handlers that judge them."""

    server: Server

    def __init__(
        self,
        store: api.Client,
        proxy: FaultProxy,
        remote: RemoteClient,
        rng: random.Random,
        *,
        quiet_after: float = 0.1,
        queue_limit: int = 4,
        page_size: int = 3,
        patience: float = PATIENCE,
        wrap: Wrap = lambda real: real,
    ) -> None:
        self.store = store
        self.proxy = proxy
        # Of their own, so that how often an informer tries again does not change what is done to it.
        self.rng = random.Random(rng.getrandbits(64))
        self.writer = Writer(store, random.Random(rng.getrandbits(64)))
        self._patience = patience
        self._compacted = 0
        # One of everything and one of a namespace, on a single stream of the client.
        self.watched: dict[str, Watched] = {}
        for namespace in ("", "a"):
            list_watch = StoreListWatch(
                remote, PREFIX, namespace, quiet_after=quiet_after, answer_within=0.15, list_within=0.3
            )
            self.watched[namespace] = Watched(
                wrap(list_watch),
                rng,
                queue_limit=queue_limit,
                page_size=page_size,
                backoff=Backoff(rng, initial=0.005, maximum=0.05),
                slowness=rng.choice([0.0, 0.002]),
            )
        self.informer = self.watched[""].informer
        self.transitions = self.watched[""].transitions

    @property
    def prompt(self) -> Judge:
        """The handler that takes no time."""
        return self.watched[""].judges[0]

    async def check(self) -> None:
        """Wait until caches and handlers have come to the last write; the way there and the end must be legal."""
        async with asyncio.timeout(self._patience):
            for namespace, watched in self.watched.items():
                truth = self.writer.truth.under(namespace)
                await watched.informer.cache.wait_for(str(truth.last))
                watched.look(truth)
                await watched.know(truth.at(truth.last))
                watched.verdict(truth)

    async def compact(self, back: int = 0) -> None:
        """Forget the history until now, or until some revisions ago."""
        revision = await self.writer.elsewhere() - back
        if revision > self._compacted:
            self._compacted = revision
            await self.store.compact(revision, physical=self.rng.random() < 0.5)


class Guard:
    """TLS and users for a server: certificates, and a user who may only read what the informer is of."""

    user, password = "informer", "pw"

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self.server = ServerTLS(*authority.server())
        self.client = TLS(ca_file=authority.file)

    async def enable(self, node: Node) -> None:
        """Make the users known and needed."""
        auth = node.auth
        await auth.user_add("root", "pw")
        await auth.user_grant_role("root", "root")
        await auth.user_add(self.user, self.password)
        await auth.role_add("readers")
        everything = Permission(PermissionType.READ, PREFIX, api.prefix_end(PREFIX))
        await auth.role_grant_permission("readers", everything)
        await auth.user_grant_role(self.user, "readers")
        await auth.enable()


@asynccontextmanager
async def network(
    directory: Path,
    seed: int,
    *,
    guard: Guard | None = None,
    client: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> AsyncIterator[Network]:
    """A network over a store of its own; when it ends the store has no watch left.

    client: further arguments of the informer's `RemoteClient`; options: of `Network`.
    """
    rng = random.Random(seed)
    node_options = NodeOptions(fsync=False, progress_interval=0.3, bcrypt_cost=4, auth_token_ttl=TOKEN_TTL)
    async with Node.open(directory, node_options, rng=rng) as node:
        url, tls = "http://127.0.0.1:0", None
        access = dict(client)
        if guard is not None:
            await guard.enable(node)
            url, tls = "https://127.0.0.1:0", guard.server
            access |= {"user": guard.user, "password": guard.password, "tls": guard.client}
        async with Server(node, [url], tls=tls) as server:
            host, port = address_of(server.client_urls[0])
            async with (
                FaultProxy(host, port) as proxy,
                RemoteClient([proxy.address], rng=rng, dial_timeout=DIAL_TIMEOUT, **access) as remote,
            ):
                net = Network(EmbeddedClient(node), proxy, remote, rng, **options)
                net.server = server
                async with AsyncExitStack() as informers:
                    for watched in net.watched.values():
                        await informers.enter_async_context(watched.informer)
                    yield net
                assert all(watched.informer.state is State.STOPPED for watched in net.watched.values())
        assert node.statistics().watch.streams == 0


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL or HOST:PORT."""
    host, _, port = url.rpartition("://")[2].rpartition(":")
    return host, int(port)


# ---- faults ---------------------------------------------------------------------------------------------------------


async def _pause(rng: random.Random, longest: float) -> None:
    await asyncio.sleep(rng.random() * longest)


async def _stall(net: Network) -> None:
    net.proxy.stall(net.rng.choice(SIDES))
    if net.rng.random() < 0.5:
        await _pause(net.rng, 0.3)  # shorter or longer than what the informer waits for
    await _heal(net)


async def _heal(net: Network) -> None:
    if net.rng.random() < 0.5:
        net.proxy.flow()
    else:
        net.proxy.reset()


async def _delay(net: Network) -> None:
    net.proxy.delay(net.rng.random() * 0.03, net.rng.choice(SIDES))


async def _crumble(net: Network) -> None:
    net.proxy.crumble(net.rng.randrange(7, 700), net.rng.choice(SIDES))


async def _cut(net: Network) -> None:
    net.proxy.cut()


async def _reset(net: Network) -> None:
    net.proxy.reset(net.rng.choice(SIDES))


async def _half_close(net: Network) -> None:
    net.proxy.half_close(net.rng.choice(SIDES))


async def _tear(net: Network) -> None:
    net.proxy.tear(net.rng.randrange(1, 40), net.rng.choice(SIDES))


async def _cut_after(net: Network) -> None:
    net.proxy.cut_after(net.rng.randrange(1, 2000), net.rng.choice(SIDES))


async def _refuse(net: Network) -> None:
    net.proxy.refusing = True
    net.proxy.cut()
    await _pause(net.rng, 0.05)
    net.proxy.refusing = False


async def _swallow(net: Network) -> None:
    net.proxy.swallowing = True
    net.proxy.cut()
    await _pause(net.rng, 0.1)
    net.proxy.swallowing = False
    await _heal(net)


async def _compact(net: Network) -> None:
    await net.compact(net.rng.randrange(10))


async def _leave_behind(net: Network) -> None:
    """Cut off while the history goes on, and compacted past what the informer has seen."""
    net.proxy.refusing = True
    net.proxy.cut()
    await _pause(net.rng, 0.05)
    if net.rng.random() < 0.5:
        await net.writer.delete_one()  # then no object bears the revision that a list will have
    await net.compact()
    net.proxy.refusing = False


FAULTS: dict[str, Callable[[Network], Awaitable[None]]] = {
    "cut": _cut,
    "reset": _reset,
    "half-close": _half_close,
    "torn message": _tear,
    "cut after some bytes": _cut_after,
    "stall": _stall,
    "delay": _delay,
    "crumbs": _crumble,
    "refuse": _refuse,
    "swallow": _swallow,
    "compact": _compact,
    "leave behind": _leave_behind,
}


async def live(
    directory: Path,
    seed: int,
    *,
    rounds: int = ROUNDS,
    patience: float = PATIENCE,
    wrap: Wrap = lambda real: real,
    guard: Guard | None = None,
) -> Counter[str]:
    """One life of an informer, as the seed says; counts the faults it met by name, and what it did about them."""
    choose = random.Random(f"{seed} options")
    async with network(
        directory,
        seed,
        quiet_after=choose.choice([0.05, 0.1, 5.0]),
        queue_limit=choose.choice([4, 10_000]),
        page_size=choose.choice([1, 3, 500]),
        patience=patience,
        wrap=wrap,
        guard=guard,
    ) as net:
        counts = await mix(net, rounds)
        for watched in net.watched.values():
            did = watched.informer.statistics().reflector
            counts.update(events=did.events, resumes=did.resumes, relists=did.relists, failures=did.failures)
    return counts


async def mix(net: Network, rounds: int) -> Counter[str]:
    """Rounds of writes with some faults during each; at the end of each the informer must have got over them."""
    rng = net.rng
    faults: Counter[str] = Counter()
    for number in range(rounds):
        async with asyncio.TaskGroup() as group:
            group.create_task(net.writer.write(rng.randrange(1, 40)))
            for _ in range(rng.randrange(1, 4)):
                fault = rng.choice([*FAULTS])
                faults[fault] += 1
                await FAULTS[fault](net)
                await _pause(rng, 0.02)
        if number == 1:
            for watched in net.watched.values():
                watched.add(Judge(watched.informer.cache))  # one that comes late
        net.proxy.flow()
        await net.check()
    return faults
