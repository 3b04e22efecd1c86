"""`etcdctl check perf` on ours and on a real etcd, both with fsync: `python -m tests.clients.check_perf [LOAD]`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.etcd_process import ETCDCTL, running_etcd
from tests.kvstore.serve_process import serving

TIMEOUT = 120.0  # seconds; the load lasts 60


async def perf(endpoint: str, load: str) -> str:
    """What it says."""
    process = await asyncio.create_subprocess_exec(
        str(ETCDCTL), f"--endpoints={endpoint}", "check", "perf", f"--load={load}", stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "\n".join(line for line in out.decode().split("\r")[-1].splitlines() if "PASS" in line or "FAIL" in line)


async def main(load: str) -> None:
    """One after the other."""
    with tempfile.TemporaryDirectory(prefix="kvstore-perf-") as directory:
        async with serving(Path(directory) / "node") as (_, endpoint):
            print(f"ours, load {load}:\n{await perf(endpoint, load)}", flush=True)
        with running_etcd(Path(directory), fsync=True) as etcd:
            print(f"etcd, load {load}:\n{await perf(etcd, load)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "s"))
