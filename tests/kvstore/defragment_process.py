"""Puts, each told when it is done, and defragmentations without end; `python -m ...defragment_process DIR`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kvstore.api import Put
from kvstore.node import Node


async def run(directory: Path) -> None:
    async with Node.open(directory) as node:
        number = node.revision

        async def put() -> None:
            nonlocal number
            while True:
                number += 1
                await node.put(Put(b"k%d" % (number % 50), b"%d " % number + bytes(3000)))
                print("done", number, node.revision, flush=True)
                if number % 40 == 0:
                    await node.compact(node.revision - 10)

        putting = asyncio.create_task(put())
        while not putting.done():
            await node.maintenance.defragment()
        await putting


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
