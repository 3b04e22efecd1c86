"""etcdctl's commands in every output format: `python -m tests.clients.etcdctl_commands [FORMAT...]`.

On ours and on a real etcd, one after the other on a fresh server each; what must differ (ids, addresses, a raft log's
index, times) is masked.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import ETCDCTL, running_etcd

TIMEOUT = 20.0
FORMATS = ("simple", "fields", "json", "table", "protobuf")

# LEASE is a lease of 300 s, ME the member.
COMMANDS = """
put k v
put k v2 --prev-kv
get k
get k --hex
get k --consistency=s
get "" --prefix --limit=1
get k --print-value-only
get k --count-only
get k --keys-only
del k --prev-kv
del none
get "" --from-key --min-create-rev=1 --max-create-rev=99
get k --min-mod-rev=1 --max-mod-rev=9
put i 1
put i --ignore-value
put i 2 --ignore-lease
put l 1 --lease=LEASE
lease timetolive LEASE
lease timetolive LEASE --keys
lease list
lease keep-alive --once LEASE
lease timetolive 1234
lease revoke LEASE
lease revoke 1234
lease grant 0
lease grant -5
member list
member list --hex
member remove ME
member remove 99
member promote ME
member promote 99
member update 99 --peer-urls=http://127.0.0.1:1
endpoint health
endpoint health --cluster
endpoint status
endpoint status --cluster
endpoint hashkv --rev=1
endpoint hashkv --rev=1000
alarm list
alarm disarm
defrag
defrag --cluster
compaction 3
compaction 1
compaction 99999
compaction 4 --physical
move-leader ME
move-leader 99
auth status
auth enable
auth disable
user list
user add u:pw
user add u:pw
user add nopw --no-password
user get u
user get none
user get u --detail
role add r
role add r
role grant-permission r readwrite a b
role grant-permission r read p --prefix
role grant-permission r write f --from-key
role get r
role get none
role list
role revoke-permission r a b
role revoke-permission r zz
role grant-permission none read a
user grant-role u r
user grant-role u none
user get u --detail
user revoke-role u r
user revoke-role u r
user passwd u
user delete u
user delete u
role delete r
role delete r
version
check perf --load=nonsense
check datascale --load=nonsense
lock n echo hi
elect
txn
get k --rev=1
get k --order=nonsense
get k --sort-by=nonsense
get a b c
watch
snapshot save
make-mirror
auth
alarm
help
""".strip().splitlines()

STDIN = {"txn": 'value("i") = "1"\n\nput k 9\nget k\ndel z\n\nget i\n\n', "user passwd u": "x\nx\n"}

_NUMBERS = (
    "cluster_id ClusterID raft_term RaftTerm raftTerm raftIndex RaftIndex raftAppliedIndex RaftAppliedIndex"
    " dbSize DBSize dbSizeInUse DBSizeInUse version Version took ttl TTL ID"
)
_MASKS = [
    (re.compile(pattern), shown)
    for pattern, shown in (
        (r'\{"level".*\}\n', ""),  # the client's own log
        (r"(?s)(panic: ).*", r"\1"),  # etcdctl 3.5.1 dies in `alarm disarm -w fields`, on either server
        (r'("(?:' + "|".join(_NUMBERS.split()) + r')" ?: ?)[^,}\n]+', r"\1N"),
        (r'"peerURLs":(?:\["[^"]*"\]|null),|"PeerURL" : .*\n', ""),
        (r"(default[, |]+)http://127.0.0.1:\d+(?=[, |]+http)", r"\1"),  # a member's peer URL: ours has none
        (r"3\.5\.\d+|\d+ [kM]B|[0-9.]+ ?[^ 0-9]{0,2}s\b|remaining\(\d+", "N"),
        (r"(true[, |]+false[, |]+2)[, |]+\d+[, |]+\d+", r"\1"),  # raft's index
        (r"cluster_id:\d+", "cluster_id:N"),
        (r"lease [0-9a-f]+ granted", "lease N granted"),
        (r"n/[0-9a-f]+", "n/N"),
        (r"[-+| ]+", " "),  # a table's columns are as wide as what is in them
    )
]


class Ended(NamedTuple):
    """How a command ended on one server: exit code, and what it printed."""

    code: int
    said: str


async def _run(endpoint: str, *arguments: str, stdin: str = "") -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        str(ETCDCTL),
        f"--endpoints={endpoint}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"ETCDCTL_API": "3"},
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            said, _ = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, said


async def _all(endpoint: str, form: str, commands: Sequence[str]) -> list[Ended]:
    _, listed = await _run(endpoint, "member", "list")
    member = listed.decode().split(",")[0]
    _, granted = await _run(endpoint, "lease", "grant", "300")
    lease = granted.decode().split()[1]
    ended: list[Ended] = []
    for command in commands:
        arguments = [each.replace("LEASE", lease).replace("ME", member) for each in shlex.split(command)]
        code, said = await _run(endpoint, *arguments, "-w", form, stdin=STDIN.get(command, ""))
        if form == "protobuf" and code == 0:
            ended.append(Ended(code, ""))  # bytes that hold ids of either length
            continue
        text = said.decode(errors="replace").replace(endpoint, "ENDPOINT")
        for number, name in ((member, "ME"), (lease, "LEASE")):
            text = text.replace(number, name).replace(number.lstrip("0"), name).replace(str(int(number, 16)), name)
        for pattern, shown in _MASKS:
            text = pattern.sub(shown, text)
        ended.append(Ended(code, text))
    return ended


async def differences(form: str, commands: Sequence[str] = COMMANDS) -> dict[str, tuple[Ended, Ended]]:
    """The commands that end differently, with how they end on ours and on etcd."""
    with tempfile.TemporaryDirectory(prefix="etcdctl-") as directory, running_etcd(Path(directory)) as etcd:
        options = NodeOptions(fsync=False, bcrypt_cost=4)
        async with (
            Node.open(Path(directory) / "node", options) as node,
            Server(node, ["http://127.0.0.1:0"]) as server,
            asyncio.TaskGroup() as tasks,
        ):
            ours = tasks.create_task(_all(server.client_urls[0].removeprefix("http://"), form, commands))
            theirs = tasks.create_task(_all(etcd, form, commands))
            both = await asyncio.gather(ours, theirs)
    return {command: (mine, other) for command, mine, other in zip(commands, *both, strict=True) if mine != other}


async def main(forms: Sequence[str]) -> int:
    """All commands in these formats; the exit code."""
    found = 0
    for form in forms:
        differing = await differences(form)
        found += len(differing)
        print(f"{form}: {len(COMMANDS)} commands, {len(differing)} end differently", flush=True)
        for command, (ours, theirs) in differing.items():
            print(f"  {command}\n    ours: {ours}\n    etcd: {theirs}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or FORMATS)))
