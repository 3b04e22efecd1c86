"""What tests of the informer stand on: an informer on an embedded store, with a hand on the connection between them."""

from __future__ import annotations

import asyncio
import random

from informer.listwatch import StoreListWatch
from informer.reflector import Backoff
from informer.shared import SharedInformer
from kvstore.client.embedded import EmbeddedClient
from tests.informer.faulty import FaultyListWatch
from tests.informer.recorder import Recorder, Transitions

PREFIX = b"/registry/core/pods/"


class Setup:
    """An informer on an embedded store, with a hand on the connection between them."""

    def __init__(self, client: EmbeddedClient, *, quiet_after: float = 30.0, page_size: int = 500) -> None:
        self.client = client
        self.source = FaultyListWatch(StoreListWatch(client, PREFIX, quiet_after=quiet_after))
        self.transitions = Transitions()
        self.informer = SharedInformer(
            self.source,
            name="pods",
            rng=random.Random(1),
            backoff=Backoff(random.Random(1), initial=0.001, maximum=0.01),
            page_size=page_size,
            on_transition=self.transitions,
        )
        self.recorder = Recorder()
        self.registration = self.informer.add_handler(self.recorder)

    async def put(self, name: str, data: bytes = b"{}") -> int:
        response = await self.client.put(PREFIX + name.encode(), data)
        return response.header.revision

    async def delete(self, name: str) -> int:
        response = await self.client.delete(PREFIX + name.encode())
        return response.header.revision

    async def caught_up(self, revision: int) -> None:
        async with asyncio.timeout(10):
            await self.informer.cache.wait_for(str(revision))
            await self.recorder.until_known({each.key: each.data for each in self.informer.cache.list()})
        self.informer.cache._check()
        self.recorder.check()
