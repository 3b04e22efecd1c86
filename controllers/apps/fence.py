"""What to do after a write of which nobody knows whether it happened."""

from __future__ import annotations

import asyncio

from controllers.context import Context
from controllers.manager import Manager
from informer.resources import Resource
from kvstore.api import Range
from kvstore.errors import KvError

RETRY = 0.5  # seconds


async def fence(manager: Manager, ctx: Context, *kinds: type[Resource]) -> None:
    """Let the key's next run wait until the caches of these kinds show everything that has happened so far.

    A run knows the revisions of its writes, except of one whose answer was lost: it could be there without being seen,
    and be made a second time. Waits as long as the store does not answer: nothing could be done then anyway.
    """
    while True:
        try:
            answer = await manager.store_client.range(Range(b"/registry/", limit=1, keys_only=True))
        except KvError:
            await asyncio.sleep(RETRY)
            continue
        assert answer.header is not None
        for kind in kinds:
            ctx.written[kind.TYPE] = str(answer.header.revision)
        return
