"""Which store is meant: the one rule that the manager and the command line share.

`etcd://HOST:PORT,HOST:PORT`   servers: ours, or an etcd cluster; `etcds://` is the same over TLS, with the files that
                               ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY name, as for etcdctl
`DIRECTORY`, `file:DIRECTORY`  an embedded store in that directory
None                           what the environment variable LISTWATCH_STORE names; else the server on 127.0.0.1:2379 if
                               one answers; else an embedded store in the user's data directory
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog

from controllers.errors import StoreError, StoreInUse
from kvstore.api import Client
from kvstore.errors import DataDirError, DataDirInUse, KvError

if TYPE_CHECKING:
    from kvstore.node import Node

STORE_VARIABLE = "LISTWATCH_STORE"
LOCAL_SERVER = "127.0.0.1:2379"  # etcd's client port, on this machine only
PROBE_TIMEOUT = 0.5  # on loopback an answer takes well under a millisecond
ANSWER_TIMEOUT = 10.0
FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0
KEPT_REVISIONS = 100_000  # of an embedded store's history: about 100 MB of pods, far under the quota
STARTING_UP = 3.0  # seconds from a process' opening of the default directory to its listening, with much to spare

_ADDRESS = re.compile(r"[\w.-]+:\d+(,[\w.-]+:\d+)*|\[[0-9a-fA-F:]+\]:\d+")

log = structlog.get_logger("controllers")


class Servers(msgspec.Struct, frozen=True):
    """Servers to connect to, as `etcd://HOST:PORT,...`, or `etcds://` for TLS."""

    url: str


class Directory(msgspec.Struct, frozen=True):
    """A data directory to open in this process."""

    path: Path


class LocalDefault(msgspec.Struct, frozen=True):
    """The local server if one answers, else this data directory."""

    path: Path


Location: TypeAlias = Servers | Directory | LocalDefault


def locate(name: str | None = None, environ: Mapping[str, str] = os.environ) -> Location:
    """What a store's name stands for. Looks at nothing but its arguments; raises StoreError for a name it cannot be."""
    name = name or environ.get(STORE_VARIABLE)
    if not name:
        data_home = environ.get("XDG_DATA_HOME")
        base = Path(data_home) if data_home else Path(environ.get("HOME") or Path.home()) / ".local" / "share"
        return LocalDefault(base / "listwatch" / "default")
    if name.startswith(("etcd://", "etcds://")):
        return Servers(name)
    if name.startswith(("http://", "https://")):
        raise StoreError(f"store {name!r}: write etcd://HOST:PORT for a server")
    if _ADDRESS.fullmatch(name):
        raise StoreError(f"store {name!r}: write etcd://{name} for a server, or ./{name} for a directory of that name")
    return Directory(Path(name.removeprefix("file:")).expanduser())


@asynccontextmanager
async def open_store(
    name: str | None = None,
    *,
    serve: bool = False,
    rng: random.Random | None = None,
    environ: Mapping[str, str] = os.environ,
    local: str = LOCAL_SERVER,
    connect_timeout: float = 0.0,
) -> AsyncIterator[Client]:
    """A client of the store that `name` stands for, checked to answer; leaving closes it.

    serve: an embedded store also listens on `local` meanwhile, for other processes; if that is not possible it says so
        in its log and goes on.
    local: HOST:PORT of the local server.
    connect_timeout: seconds for which servers that cannot be reached are tried again.
    Raises StoreError, with one line that says what was tried and what to do.
    """
    rng = random.Random() if rng is None else rng
    location = locate(name, environ)
    async with AsyncExitStack() as stack:
        if isinstance(location, LocalDefault):
            client = await _local_default(location.path, local, serve, environ, rng, stack)
        elif isinstance(location, Servers):
            client = await _connect(location.url, environ, connect_timeout, rng, stack)
        else:
            client = await _open_directory(location.path, local, serve, rng, stack)
        yield client


async def _local_default(
    path: Path, local: str, serve: bool, environ: Mapping[str, str], rng: random.Random, stack: AsyncExitStack
) -> Client:
    """The local server's client, else the directory's. Who has the directory may be about to listen, or to leave."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        if await _answers(local):
            return await _connect(f"etcd://{local}", environ, 0.0, rng, stack)
        try:
            return await _open_directory(path, local, serve, rng, stack)
        except StoreInUse:
            if loop.time() - began >= STARTING_UP:
                raise
        await asyncio.sleep(FIRST_RETRY)


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return True  # it answered, and closed first
    return True


async def _connect(
    url: str, environ: Mapping[str, str], connect_timeout: float, rng: random.Random, stack: AsyncExitStack
) -> Client:
    # Here and below: gRPC costs 30 MB and a tenth of a second, and an embedded store needs none of it.
    from kvstore.client import TLS, connect
    from kvstore.client.login import Credentials

    try:
        login = Credentials.from_environ(environ)
        client = connect(
            url,
            rng=rng,
            tls=TLS.from_environ(environ) if url.startswith("etcds://") else None,
            user=None if login is None else login.user,
            password="" if login is None else login.password,
        )
    except ValueError as error:
        raise StoreError(f"store {url!r}: {error}") from None
    stack.push_async_callback(client.close)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for attempt in itertools.count():
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status = await client.status()
        except TimeoutError:
            raise StoreError(f"store {url}: connected, but no answer within {ANSWER_TIMEOUT:g} s") from None
        except KvError as error:
            tried = loop.time() - began
            if not error.retriable or tried >= connect_timeout:
                again = f" ({attempt + 1} times in {tried:.1f} s)" if attempt else ""
                raise StoreError(f"store {url}: {error}{again}") from None
            # Jitter: many processes may wait for one server to come back.
            pause = min(FIRST_RETRY * 2**attempt, LONGEST_RETRY) * rng.uniform(0.5, 1.0)
            await asyncio.sleep(min(pause, connect_timeout - tried))
        else:
            log.info("store_connected", store=url, server_version=status.version)
            return client
    raise AssertionError("unreachable: the loop has no end")


async def _open_directory(path: Path, local: str, serve: bool, rng: random.Random, stack: AsyncExitStack) -> Client:
    from kvstore.autocompact import AutoCompaction
    from kvstore.client.embedded import EmbeddedClient
    from kvstore.node import Node, NodeOptions

    # Nobody operates such a store: its history stays within bounds, and once there is room again it goes on by itself.
    options = NodeOptions(auto_disarm=True)
    try:
        node = await stack.enter_async_context(Node.open(path, options, rng=rng))
    except DataDirInUse as error:
        raise StoreInUse(f"{error} (etcd://{local} if it listens there)") from None
    except DataDirError as error:
        raise StoreError(str(error)) from None
    compaction = asyncio.create_task(AutoCompaction("revision", KEPT_REVISIONS).run(node), name="auto compaction")
    stack.push_async_callback(_cancelled, compaction)
    if serve:
        await _listen(node, local, stack)
    client = EmbeddedClient(node)
    stack.push_async_callback(client.close)
    log.info("store_opened", directory=str(path))
    return client


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _listen(node: Node, local: str, stack: AsyncExitStack) -> None:
    from kvstore.server import ListenError, Server

    server = Server(node, [f"http://{local}"])
    try:
        await server.start()
    except ListenError as error:
        log.warning("store_not_served", reason=str(error))
        return
    stack.push_async_callback(server.stop)
    log.info("store_served", store=f"etcd://{local}")
