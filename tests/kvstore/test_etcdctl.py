"""The real etcdctl against our server and against a real etcd: what it prints must be the same."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from kvstore import snapshot
from kvstore.alarms import AlarmType
from kvstore.node import Node
from kvstore.proto import messages as pb
from tests.etcd_process import ETCDCTL, running_etcd

PREFIXES = itertools.count()
TIMEOUT = 20.0

Output: TypeAlias = tuple[int, str]
Ctl: TypeAlias = Callable[..., Coroutine[Any, Any, Output]]


class Etcdctl:
    """Runs etcdctl on one server. `{p}` in an argument stands for a prefix that no other test uses."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.prefix = f"/ctl/{next(PREFIXES):06}/"

    async def __call__(self, *arguments: str, stdin: str = "") -> Output:
        """Exit code, and what it printed, with the prefix put back to `{p}`."""
        async with self.started(*arguments) as process, asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin.replace("{p}", self.prefix).encode())
        assert process.returncode is not None
        return process.returncode, (out + err).decode().replace(self.prefix, "{p}").replace(self.endpoint, "{e}")

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process with pipes, killed at the end if it still runs."""
        process = await asyncio.create_subprocess_exec(
            str(ETCDCTL),
            f"--endpoints={self.endpoint}",
            *(argument.replace("{p}", self.prefix) for argument in arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"ETCDCTL_API": "3"},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def revision(self) -> int:
        code, out = await self("get", "{p}nothing", "-w", "json")
        assert code == 0, out
        return int(json.loads(out)["header"]["revision"])


@pytest.fixture
def ours(endpoint: str) -> Etcdctl:
    return Etcdctl(endpoint)


@pytest.fixture
def real(etcd: str) -> Etcdctl:
    return Etcdctl(etcd)


async def both(ours: Etcdctl, real: Etcdctl, *arguments: str, stdin: str = "") -> str:
    """Run on both servers; the output, which must be the same."""
    mine = await ours(*arguments, stdin=stdin)
    theirs = await real(*arguments, stdin=stdin)
    assert mine == theirs
    assert mine[0] == 0, mine[1]
    return mine[1]


async def fill(ours: Etcdctl, real: Etcdctl) -> None:
    for name, value in [("c", "1"), ("a", "3"), ("b", "2")]:
        assert await both(ours, real, "put", "{p}" + name, value) == "OK\n"


async def test_put_and_get(ours: Etcdctl, real: Etcdctl) -> None:
    await fill(ours, real)
    assert await both(ours, real, "get", "{p}a") == "{p}a\n3\n"
    assert await both(ours, real, "get", "{p}none") == ""
    assert await both(ours, real, "put", "{p}a", "4", "--prev-kv") == "OK\n{p}a\n3\n"
    assert await both(ours, real, "put", "{p}a", stdin="from stdin") == "OK\n"
    assert await both(ours, real, "get", "{p}a", "--print-value-only") == "from stdin\n"


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (["--prefix", "--keys-only"], "abc"),
        (["--prefix", "--keys-only", "--limit=2"], "ab"),
        (["--prefix", "--keys-only", "--order=DESCEND"], "cba"),
        (["--prefix", "--keys-only", "--sort-by=VALUE", "--order=ASCEND"], "cba"),
        (["--prefix", "--keys-only", "--sort-by=CREATE", "--order=ASCEND"], "cab"),
        (["--prefix", "--keys-only", "--sort-by=MODIFY", "--order=DESCEND"], "bac"),
    ],
)
async def test_get_many(ours: Etcdctl, real: Etcdctl, options: list[str], printed: str) -> None:
    await fill(ours, real)
    out = await both(ours, real, "get", "{p}", *options)
    assert out == "".join(f"{{p}}{name}\n\n" for name in printed)


async def test_get_forms(ours: Etcdctl, real: Etcdctl) -> None:
    await fill(ours, real)
    assert await both(ours, real, "get", "{p}a", "{p}c") == "{p}a\n3\n{p}b\n2\n"
    # The real etcd is shared: what other tests left may come after our keys.
    assert await both(ours, real, "get", "{p}b", "--from-key", "--limit=2") == "{p}b\n2\n{p}c\n1\n"
    for ctl in (ours, real):
        code, out = await ctl("get", "{p}", "--prefix", "--count-only", "-w", "fields")
        assert code == 0
        assert out.splitlines()[-2:] == ['"More" : false', '"Count" : 3']


async def test_get_at_a_revision(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        await ctl("put", "{p}a", "old")
        then = await ctl.revision()
        await ctl("put", "{p}a", "new")
        assert await ctl("get", "{p}a", f"--rev={then}") == (0, "{p}a\nold\n")
        code, out = await ctl("get", "{p}a", f"--rev={then + 100}")
        assert code != 0
        assert "etcdserver: mvcc: required revision is a future revision" in out


async def test_json_has_every_field(ours: Etcdctl, real: Etcdctl) -> None:
    shapes = []
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        await ctl("put", "{p}a", "2")
        code, out = await ctl("get", "{p}a", "-w", "json")
        assert code == 0
        answer = json.loads(out)
        assert answer["header"]["revision"] == answer["kvs"][0]["mod_revision"]
        assert answer["kvs"][0]["create_revision"] == answer["kvs"][0]["mod_revision"] - 1
        assert answer["kvs"][0]["version"] == 2
        shapes.append((sorted(answer), sorted(answer["header"]), sorted(answer["kvs"][0])))
    assert shapes[0] == shapes[1]


async def test_del(ours: Etcdctl, real: Etcdctl) -> None:
    await fill(ours, real)
    assert await both(ours, real, "del", "{p}none") == "0\n"
    assert await both(ours, real, "del", "{p}c", "--prev-kv") == "1\n{p}c\n1\n"
    assert await both(ours, real, "del", "{p}", "--prefix") == "2\n"
    assert await both(ours, real, "get", "{p}", "--prefix") == ""


@pytest.mark.parametrize(
    ("comparison", "branch"),
    [
        ('value("{p}a") = "3"', "SUCCESS"),
        ('value("{p}a") > "3"', "FAILURE"),
        ('version("{p}a") = "1"', "SUCCESS"),
        ('create("{p}none") = "0"', "SUCCESS"),
        ('mod("{p}a") < "2"', "FAILURE"),
    ],
)
async def test_txn(ours: Etcdctl, real: Etcdctl, comparison: str, branch: str) -> None:
    await fill(ours, real)
    script = f"{comparison}\n\nput {{p}}a yes\nget {{p}}a\ndel {{p}}b\n\nget {{p}} --prefix --keys-only\n\n"
    out = await both(ours, real, "txn", stdin=script)
    assert out.splitlines()[0] == branch


async def test_compaction(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        first = await ctl.revision()
        await ctl("put", "{p}a", "2")
        now = await ctl.revision()
        assert await ctl("compaction", str(now)) == (0, f"compacted revision {now}\n")
        for arguments in (["get", "{p}a", f"--rev={first}"], ["compaction", str(first)]):
            code, out = await ctl(*arguments)
            assert code != 0
            assert "etcdserver: mvcc: required revision has been compacted" in out
        await ctl("put", "{p}a", "3")
        later = await ctl.revision()
        assert await ctl("compaction", str(later), "--physical") == (0, f"compacted revision {later}\n")


async def watched(ctl: Etcdctl, lines: int, *arguments: str, then: list[list[str]] | None = None) -> str:
    """The first `lines` lines that `etcdctl watch` prints; `then` is run while it watches."""
    async with ctl.started("watch", *arguments) as process, asyncio.timeout(TIMEOUT):
        assert process.stdout is not None
        for command in then or []:
            assert (await ctl(*command))[0] == 0
        out = b"".join([await process.stdout.readline() for _ in range(lines)])
    return out.decode().replace(ctl.prefix, "{p}")


async def test_watch_from_a_revision(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        first = await ctl.revision()
        await ctl("put", "{p}b", "2")
        await ctl("put", "{p}a", "3")
        await ctl("del", "{p}b")
        out = await watched(ctl, 11, "{p}", "--prefix", f"--rev={first}")
        assert out == "PUT\n{p}a\n1\nPUT\n{p}b\n2\nPUT\n{p}a\n3\nDELETE\n{p}b\n"
        out = await watched(ctl, 10, "{p}", "--prefix", f"--rev={first + 2}", "--prev-kv")
        assert out == "PUT\n{p}a\n1\n{p}a\n3\nDELETE\n{p}b\n2\n{p}b\n\n"


async def test_watch_goes_on_live(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        # From a revision of the past, so that it does not matter when the watch is registered.
        first = await ctl.revision()
        live = [["put", "{p}a", "2"], ["del", "{p}a"]]
        out = await watched(ctl, 8, "{p}a", f"--rev={first}", then=live)
        assert out == "PUT\n{p}a\n1\nPUT\n{p}a\n2\nDELETE\n{p}a\n"


async def test_watch_below_the_compaction(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        first = await ctl.revision()
        await ctl("put", "{p}a", "2")
        now = await ctl.revision()
        await ctl("compaction", str(now))
        code, out = await ctl("watch", "{p}a", f"--rev={first}")
        assert code != 0
        assert "etcdserver: mvcc: required revision has been compacted" in out


async def test_watch_progress(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        async with ctl.started("watch", "-i") as process, asyncio.timeout(TIMEOUT):
            assert process.stdin is not None
            assert process.stdout is not None
            await ctl("put", "{p}a", "1")
            revision = await ctl.revision()
            process.stdin.write(f"watch {ctl.prefix}a --rev={revision}\n".encode())
            assert await process.stdout.readline() == b"PUT\n"
            process.stdin.write(b"progress\n")
            line = await process.stdout.readline()
            while b"progress notify" not in line:
                line = await process.stdout.readline()
            assert line == f"progress notify: {revision}\n".encode()


LEASE_ID = re.compile(r"\b[0-9a-f]{15,16}\b")


async def test_leases(ours: Etcdctl, real: Etcdctl) -> None:
    transcripts = []
    for ctl in (ours, real):
        code, granted = await ctl("lease", "grant", "300")
        assert code == 0, granted
        found = LEASE_ID.search(granted)
        assert found is not None
        lease = found[0]
        said = [granted]
        for command in (
            ["put", "{p}a", "1", f"--lease={lease}"],
            ["lease", "timetolive", lease, "--keys"],
            ["lease", "keep-alive", "--once", lease],
            ["lease", "revoke", lease],
            ["get", "{p}a"],
            ["lease", "timetolive", lease],
            ["lease", "keep-alive", "--once", lease],
            ["lease", "revoke", lease],
        ):
            code, out = await ctl(*command)
            said.append(f"{command[:2]} {code} {out}")
        listed = (await ctl("lease", "list"))[1]
        assert lease not in listed
        transcript = "\n".join(said).replace(lease, "LEASE")
        transcript = re.sub(r"remaining\(\d+s\)", "remaining", transcript)
        transcripts.append(re.sub(r'{"level".*}\n', "", transcript))  # the client's own log, with times and addresses
    assert transcripts[0] == transcripts[1]
    assert "lease LEASE granted with TTL(300s)" in transcripts[0]
    assert "lease LEASE already expired" in transcripts[0]


async def test_lease_list(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        lease = LEASE_ID.search((await ctl("lease", "grant", "300"))[1])
        assert lease is not None
        code, out = await ctl("lease", "list")
        assert code == 0
        assert re.match(r"found \d+ leases\n", out)
        assert lease[0] in out
        await ctl("lease", "revoke", lease[0])


async def test_endpoint_health(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        code, out = await ctl("endpoint", "health")
        assert code == 0
        assert out.startswith("{e} is healthy: successfully committed proposal: took = ")


async def test_endpoint_status(ours: Etcdctl, real: Etcdctl) -> None:
    shapes = []
    for ctl in (ours, real):
        await ctl("put", "{p}a", "1")
        code, out = await ctl("endpoint", "status", "-w", "json")
        assert code == 0, out
        (answer,) = json.loads(out)
        status = answer["Status"]
        assert status["leader"] == status["header"]["member_id"]
        assert status["header"]["revision"] == await ctl.revision()
        shapes.append((sorted(status), sorted(status["header"])))
        assert (await ctl("endpoint", "status", "--cluster", "-w", "table"))[0] == 0
    assert shapes[0] == shapes[1]


async def test_member_list(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        code, out = await ctl("member", "list")
        assert code == 0
        fields = out.strip().split(", ")
        assert fields[1:3] == ["started", "default"]
        assert fields[4:] == ["http://{e}", "false"]


# ---- maintenance and cluster: a real etcd of their own, since they change what others would see ---------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Etcdctl]:
    with running_etcd(tmp_path) as endpoint:
        yield Etcdctl(endpoint)


CLIENT_LOG = re.compile(r'^{"level".*}\n', re.MULTILINE)  # with times and addresses


async def told(ctl: Etcdctl, member: str, *arguments: str) -> Output:
    """What a command ends with, the member's id shown as ME; `ME` in an argument stands for it, too."""
    code, out = await ctl(*(member if argument == "ME" else argument for argument in arguments))
    out = CLIENT_LOG.sub("", out).replace(member, "ME").replace(str(int(member, 16)), "ME")
    # etcdctl pads an id that begins with a zero with a space.
    return code, re.sub(r"took = [0-9.]+[µm]?s|cluster +[0-9a-f]+|(?<=Member) +(?=ME)", "", out)


async def member_of(ctl: Etcdctl) -> str:
    return (await ctl("member", "list"))[1].split(",")[0]


@pytest.mark.parametrize(
    "commands",
    [
        [["alarm", "list"], ["alarm", "disarm"], ["endpoint", "health"]],
        [["defrag"], ["put", "{p}a", "1"], ["defrag", "--cluster"], ["get", "{p}a"]],
        [["move-leader", "ME"], ["move-leader", "5"], ["move-leader"]],
        [["member", "remove", "5"], ["member", "remove", "ME"], ["member", "promote", "5"]],
        [["member", "promote", "ME"], ["member", "update", "5", "--peer-urls=http://a:1"], ["member", "add", "x"]],
        [["member", "update", "ME", "--peer-urls=http://127.0.0.1:1"], ["member", "add", "x", "--peer-urls=y"]],
        [["downgrade", "validate", "3.4"], ["downgrade", "validate", "3.3"], ["downgrade", "cancel"]],
        [["put", "{p}a", "1"], ["del", "{p}a"], ["put", "{p}b", "2"], ["endpoint", "hashkv", "-w", "fields"]],
        [["put", "{p}a", "1"], ["put", "{p}a", "2"], ["compaction", "2"], ["endpoint", "hashkv"]],
        [["endpoint", "hashkv", "--rev=1"], ["endpoint", "hashkv", "--rev=100"]],
        [["version"], ["member", "list", "-w", "fields"], ["alarm", "list", "-w", "json"]],
    ],
    ids=lambda commands: " ".join(commands[0]),
)
async def test_operators_commands(ours: Etcdctl, alone: Etcdctl, commands: list[list[str]]) -> None:
    ours.prefix = alone.prefix  # hashes are of the keys themselves
    transcripts = []
    for ctl in (ours, alone):
        member = await member_of(ctl)
        transcripts.append([await told(ctl, member, *command) for command in commands])
    for mine, theirs in zip(*transcripts, strict=True):
        assert without_what_differs(mine) == without_what_differs(theirs)


def without_what_differs(output: Output) -> Output:
    """Identities and terms are each server's own, as are peer URLs, which ours needs none of."""
    code, out = output
    out = re.sub(r'("(ClusterID|RaftTerm|MemberID|ID)" : |"(cluster_id|raft_term|member_id)":)\d+', r"\1N", out)
    return code, re.sub(r'"PeerURL" : .*\n', "", out)


async def test_alarms_are_listed_and_disarmed(node: Node, ours: Etcdctl, alone: Etcdctl) -> None:
    await node.maintenance.alarms.activate(AlarmType.NOSPACE, node.member_id)
    for ctl in (ours, alone):
        member = await member_of(ctl)
        if ctl is alone:
            async with grpc.aio.insecure_channel(alone.endpoint) as channel:
                request = pb.AlarmRequest(action=1, alarm=1, memberID=int(member, 16)).SerializeToString()
                await channel.unary_unary("/etcdserverpb.Maintenance/Alarm", None, None)(request)
        assert await told(ctl, member, "alarm", "list") == (0, "memberID:ME alarm:NOSPACE \n")
        code, out = await told(ctl, member, "put", "{p}a", "1")
        assert (code, "etcdserver: mvcc: database space exceeded" in out) == (1, True)
        code, out = await told(ctl, member, "endpoint", "health")
        assert (code, "Active Alarm(s): NOSPACE" in out) == (1, True)
        assert await told(ctl, member, "alarm", "disarm") == (0, "memberID:ME alarm:NOSPACE \n")
        assert await told(ctl, member, "put", "{p}a", "1") == (0, "OK\n")


async def test_snapshot_save(ours: Etcdctl, real: Etcdctl, tmp_path: Path) -> None:
    await fill(ours, real)
    for ctl in (ours, real):
        file = tmp_path / f"{ctl is ours}.db"
        code, out = await ctl("snapshot", "save", str(file))
        assert (code, CLIENT_LOG.sub("", out)) == (0, f"Snapshot saved at {file}\n")
        assert file.stat().st_size % 512 == 32
        found = snapshot.status(file)
        shown = {"hash": found.hash, "revision": found.revision, "totalKey": found.records, "totalSize": found.size}
        code, out = await ctl("snapshot", "status", str(file), "-w", "json")
        assert (code, json.loads(out.splitlines()[0])) == (0, shown)


async def test_lock_runs_a_command(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        code, out = await ctl("lock", "{p}lock", "--", "/bin/echo", "locked")
        assert (code, out) == (0, "locked\n")
        code, _ = await ctl("lock", "{p}lock", "--", "/bin/false")
        assert code == 1
        assert (await ctl("get", "{p}lock", "--prefix"))[1] == ""


async def test_elect(ours: Etcdctl, real: Etcdctl) -> None:
    for ctl in (ours, real):
        async with ctl.started("elect", "{p}e", "first") as leader, asyncio.timeout(TIMEOUT):
            assert leader.stdout is not None
            key = (await leader.stdout.readline()).decode().strip()
            assert key.startswith(f"{ctl.prefix}e/")
            assert await leader.stdout.readline() == b"first\n"
            async with ctl.started("elect", "-l", "{p}e") as observer:
                assert observer.stdout is not None
                assert (await observer.stdout.readline()).decode().strip() == key
                assert await observer.stdout.readline() == b"first\n"
                leader.send_signal(signal.SIGINT)
                await leader.wait()


async def test_make_mirror(ours: Etcdctl, real: Etcdctl) -> None:
    """Ours is copied into the real one, what is there and what comes."""
    await fill(ours, real)
    real.prefix = ours.prefix
    async with ours.started("make-mirror", real.endpoint, "--prefix={p}") as mirror, asyncio.timeout(TIMEOUT):
        assert mirror.returncode is None
        await ours("put", "{p}later", "4")
        await ours("del", "{p}a")
        while (await real("get", "{p}", "--prefix", "--keys-only"))[1] != "{p}b\n\n{p}c\n\n{p}later\n\n":
            await asyncio.sleep(0)
