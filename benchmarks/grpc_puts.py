"""How many durable puts a second go through our gRPC edge, against a grpcio server that does nothing at all.

Both are processes of their own under the same load from this one: 64 puts in flight over 4 connections. A client in
Python is as slow as the server, so what a call costs the server in CPU time is shown as well.

    python -m benchmarks.grpc_puts
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.servers import channels, no_op, ours
from benchmarks.table import Row, show
from kvstore.proto import messages as pb

PUTS = 10_000
IN_FLIGHT = 64
CONNECTIONS = 4
VALUE_BYTES = 512
ROUNDS = 3
GOAL = 0.8
PUT = "/etcdserverpb.KV/Put"


async def puts_a_second(endpoint: str, count: int) -> float:
    requests = [
        pb.PutRequest(key=b"/bench/%08d" % n, value=bytes(VALUE_BYTES)).SerializeToString() for n in range(count)
    ]
    async with channels(endpoint, CONNECTIONS) as opened:
        calls = [channel.unary_unary(PUT, None, None) for channel in opened]

        async def put(first: int) -> None:
            call = calls[first % CONNECTIONS]
            for n in range(first, count, IN_FLIGHT):
                await call(requests[n])

        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.gather(*(put(first) for first in range(IN_FLIGHT)))
        return count / (clock() - began)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    rates: dict[str, list[float]] = {"ours": [], "no-op": []}
    costs: dict[str, list[float]] = {"ours": [], "no-op": []}
    with tempfile.TemporaryDirectory() as directory, ours(Path(directory)) as mine, no_op() as nothing:
        servers = {"ours": mine, "no-op": nothing}
        for _, endpoint in servers.values():
            asyncio.run(puts_a_second(endpoint, PUTS // 10))
        for _ in range(ROUNDS):
            for name, (server, endpoint) in servers.items():
                before = cpu_seconds(server.pid)
                rates[name].append(asyncio.run(puts_a_second(endpoint, PUTS)))
                costs[name].append((cpu_seconds(server.pid) - before) / PUTS * 1e6)
    rate = {name: statistics.median(each) for name, each in rates.items()}
    cost = {name: statistics.median(each) for name, each in costs.items()}
    ratio = rate["ours"] / rate["no-op"]
    show(
        f"{PUTS} durable puts of {VALUE_BYTES} bytes, {IN_FLIGHT} in flight, {CONNECTIONS} connections; "
        f"median of {ROUNDS} rounds",
        [
            Row("no-op server", rate["no-op"], "calls/s"),
            Row("our server", rate["ours"], "puts/s", "no-op", ratio, f">= {GOAL}", ratio >= GOAL),
            Row("no-op server, CPU a call", cost["no-op"], "us"),
            Row("our server, CPU a put", cost["ours"], "us", "no-op", cost["ours"] / cost["no-op"]),
        ],
    )


if __name__ == "__main__":
    main()
