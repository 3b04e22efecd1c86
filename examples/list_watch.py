"""Teaches list-watch, bare: how to keep a copy of a part of a store and never miss a change. List once; watch from the
list's revision + 1; after a lost connection watch from the last revision seen + 1; when the store says that this one is
compacted, list again. It brings its own store, and ends: python examples/list_watch.py"""

import asyncio
import tempfile
from pathlib import Path

from kvstore.api import Client, EventType, Range, prefix_end
from kvstore.client import EmbeddedClient
from kvstore.errors import Compacted, Unavailable
from kvstore.node import Node


async def list_watch(client: Client, copy: dict[str, bytes], seen: int, until: int) -> int:
    fruit = (b"/fruit/", prefix_end(b"/fruit/"))
    while seen < until:  # a real one never ends
        try:
            if seen == 0:
                response = await client.range(Range(*fruit))
                seen = response.header.revision  # the list's: an item's own may be much older
                copy.clear()
                copy.update((kv.key.decode(), kv.value) for kv in response.kvs)
                print(f"LIST   {sorted(copy)} at revision {seen}")
            async with client.watch(*fruit, start_revision=seen + 1) as watch:
                print(f"WATCH  from revision {seen + 1}")
                while seen < until:
                    for event in (await anext(watch)).events:
                        key, seen = event.kv.key.decode(), event.kv.mod_revision
                        print(f"{event.type.name:<6} {key} at revision {seen}")
                        copy.pop(key, None)
                        if event.type is EventType.PUT:
                            copy[key] = event.kv.value
        except Unavailable:
            await asyncio.sleep(1)  # then from the same revision: nothing is lost, nothing comes twice
        except Compacted as error:
            print(f"GONE   the oldest revision left is {error.compact_revision}")
            seen = 0
    return seen


async def main(directory: str) -> None:
    async with Node.open(Path(directory)) as node:
        client, copy, seen = EmbeddedClient(node), dict[str, bytes](), 0
        for story in ("at first", "after a lost connection", "after a longer one, with history compacted"):
            print(f"------ {story}")
            await client.put(b"/fruit/pear", story.encode())
            await client.put(b"/fruit/plum", story.encode())
            await client.delete(b"/fruit/pear")
            if "compacted" in story:
                await client.compact(node.revision)
            seen = await list_watch(client, copy, seen, until=node.revision)
        assert copy == {"/fruit/plum": story.encode()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(directory))
