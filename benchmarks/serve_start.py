"""How long `listwatch serve` takes from the start of the process to the first answer, on a directory with data in it.

The baseline, in the same run, is a process that starts a grpcio server and nothing else.

    python -m benchmarks.serve_start
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from benchmarks.table import Row, show
from kvstore.api import Put
from kvstore.node import Node
from kvstore.proto import messages as pb
from tests.etcd_process import free_port

ROUNDS = 5
KEYS = 10_000
GOAL = 0.5
TIMEOUT = 20.0
RANGE = "/etcdserverpb.KV/Range"
# The client tries to connect this often, which is the resolution of the measurement.
POLL_MS = 5

BARE = """
import asyncio, sys
import grpc
class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        async def answer(request, context):
            return b""
        return grpc.unary_unary_rpc_method_handler(answer)
async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


async def fill(directory: Path) -> None:
    async with Node.open(directory) as node:
        for first in range(0, KEYS, 500):
            await asyncio.gather(*(node.put(Put(b"/bench/%08d" % n, bytes(300))) for n in range(first, first + 500)))


def first_answer(command: Sequence[str], port: int) -> float:
    """Seconds from starting the process to the answer to a read."""
    options = (
        ("grpc.initial_reconnect_backoff_ms", POLL_MS),
        ("grpc.min_reconnect_backoff_ms", POLL_MS),
        ("grpc.max_reconnect_backoff_ms", POLL_MS),
        ("grpc.use_local_subchannel_pool", 1),
    )
    request = pb.RangeRequest(key=b"/bench/00000001").SerializeToString()
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                channel.unary_unary(RANGE, None, None)(request, wait_for_ready=True, timeout=TIMEOUT)
            return time.perf_counter() - began
        finally:
            process.kill()


def main() -> None:
    ours: list[float] = []
    bare: list[float] = []
    listwatch = str(Path(sys.executable).with_name("listwatch"))
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        asyncio.run(fill(data))
        for _ in range(ROUNDS):
            port = free_port()
            bare.append(first_answer([sys.executable, "-c", BARE, f"127.0.0.1:{port}"], port))
            port = free_port()
            serve = [listwatch, "serve", "--data-dir", str(data), "--listen-client-urls", f"http://127.0.0.1:{port}"]
            ours.append(first_answer(serve, port))
    value, baseline = statistics.median(ours), statistics.median(bare)
    show(
        f"from the start of the process to the first answer, {KEYS} keys in the store; median of {ROUNDS}",
        [
            Row("bare grpcio server", baseline, "s"),
            Row("listwatch serve", value, "s", "bare grpcio", value / baseline, f"<= {GOAL} s", value <= GOAL),
        ],
    )


if __name__ == "__main__":
    main()
