"""Three members of etcd on loopback that can be killed, paused, cut off from each other, and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from kvstore.client import RemoteClient
from kvstore.errors import KvError
from tests.etcd_process import ATTEMPTS, ETCD, READY_TIMEOUT, free_port
from tests.faults.leftovers import descriptors
from tests.faults.proxy import FaultProxy

SIZE = 3
# A test cannot wait for the 40 s in which a dead connection is found by default.
KEEPALIVE = 0.5
DIAL_TIMEOUT = 1.0
PROBE_TIMEOUT = 0.5  # seconds for a member to say who leads


class StartError(Exception):
    """A member ended before it answered."""


class Member:
    """One server. Its peers reach it through `proxy`, clients directly."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.peer_port = free_port()
        self.proxy = FaultProxy("127.0.0.1", self.peer_port)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []

    @property
    def peer_url(self) -> str:
        return f"http://{self.proxy.address}"

    @property
    def pid(self) -> int:
        """Of its process; 0 = it was not started."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        return self._directory / f"{self.name}.log"

    def configure(self, initial_cluster: str, *options: str) -> None:
        self._command = [
            str(ETCD),
            f"--name={self.name}",
            f"--data-dir={self._directory / self.name}",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={initial_cluster}",
            "--log-level=error",
            "--unsafe-no-fsync",
            "--grpc-keepalive-min-time=100ms",
            "--experimental-watch-progress-notify-interval=500ms",
            *options,
        ]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ready(self) -> None:
        """Wait until it serves a read that the whole cluster agrees to. Raises StartError if it ends instead."""
        async with asyncio.timeout(READY_TIMEOUT), RemoteClient([self.endpoint], dial_timeout=DIAL_TIMEOUT) as client:
            while True:
                assert self._process is not None
                if self._process.poll() is not None:
                    raise StartError(self.log.read_text())
                with contextlib.suppress(KvError, TimeoutError):
                    async with asyncio.timeout(DIAL_TIMEOUT):
                        await client.get(b"ready")
                        return
                await asyncio.sleep(0.05)


class EtcdCluster:
    """The members; `endpoints` are for clients."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        for member in members:
            member.proxy.name_client = self._who

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def cut_off(self, member: Member) -> None:
        """Let nothing pass between it and its peers, and nobody be told of it. Clients still reach it."""
        for each in self.members:
            each.proxy.swallow({other.name for other in self.members} if each is member else {member.name})

    def rejoin(self) -> None:
        """End `cut_off`; connections from before it are reset."""
        for each in self.members:
            each.proxy.swallow(set())
            each.proxy.reset()

    async def leader(self) -> Member:
        """The member that the members which answer agree on; waits until they do."""
        while True:
            said = await asyncio.gather(*map(self._leader_as_known_by, self.members))
            leaders = {leader for _, leader in said if leader}
            known = {member_id: member for member, (member_id, _) in zip(self.members, said, strict=True) if member_id}
            if len(leaders) == 1 and len(known) > SIZE // 2 and (leader := known.get(leaders.pop())) is not None:
                return leader
            await asyncio.sleep(0.05)

    async def _leader_as_known_by(self, member: Member) -> tuple[int, int]:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT), RemoteClient([member.endpoint]) as client:
                status = await client.status()
                return status.header.member_id, status.leader
        except (KvError, TimeoutError):
            return 0, 0

    def _who(self, port: int) -> str:
        """The name of the member that has a connection from this port; "" for nobody."""
        address = f"0100007F:{port:04X}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == address:
                socket = f"socket:[{fields[9]}]"
                for member in self.members:
                    if socket in descriptors(member.pid):
                        return member.name
        return ""


@asynccontextmanager
async def running_cluster(directory: Path, *options: str) -> AsyncIterator[EtcdCluster]:
    """Three members that have elected a leader; killed at the end."""
    for attempt in range(ATTEMPTS):
        where = directory / f"cluster-{attempt}"
        where.mkdir()
        members = [Member(f"m{number}", where) for number in range(SIZE)]
        async with AsyncExitStack() as stack:
            for member in members:
                await stack.enter_async_context(member.proxy)
            initial = ",".join(f"{member.name}={member.peer_url}" for member in members)
            cluster = EtcdCluster(members)
            for member in members:
                member.configure(initial, *options)
                member.start()
                stack.callback(member.kill)
            try:
                for member in members:
                    await member.ready()
            except StartError:
                if attempt == ATTEMPTS - 1:
                    raise
                continue  # a port that was free has been taken since
            yield cluster
            return


class _First(random.Random):
    """Chooses the first of anything."""

    def randrange(self, *args: int, **kwargs: int) -> int:  # type: ignore[override]
        return 0


def client_of(cluster: EtcdCluster, first: Member | None = None) -> RemoteClient:
    """A client that finds dead connections soon; it begins at `first`, or at any member."""
    endpoints = cluster.endpoints
    if first is not None:
        at = cluster.members.index(first)
        endpoints = endpoints[at:] + endpoints[:at]
    return RemoteClient(
        endpoints,
        rng=_First() if first is not None else None,
        dial_timeout=DIAL_TIMEOUT,
        keepalive_time=KEEPALIVE,
        keepalive_timeout=KEEPALIVE,
    )
