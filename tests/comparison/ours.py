"""Our informer as a watcher, on Kubernetes through `KubernetesListWatch` and on etcd through `StoreListWatch`."""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp

from informer import Handler, SharedInformer, Stored, StoreListWatch
from informer.reflector import Backoff
from kvstore.client.remote import RemoteClient
from tests.comparison.judge import Told
from tests.comparison.kubernetes_list_watch import KubernetesListWatch

PREFIX = "/registry/pods/"


class Tell(Handler):
    """Passes on what it is told; `name` tells an object's name."""

    def __init__(self, tell: Callable[[Told], None], name: Callable[[Stored], str]) -> None:
        self._tell = tell
        self._name = name

    def on_add(self, new: Stored, initial: bool) -> None:
        self._tell(Told("put", self._name(new), new.revision, new.meta.uid or ""))

    def on_update(self, old: Stored, new: Stored) -> None:
        self._tell(Told("put", self._name(new), new.revision, new.meta.uid or ""))

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._tell(Told("delete", self._name(old), uid=old.meta.uid or ""))


async def on_kubernetes(url: str, tell: Callable[[Told], None], backoff: Backoff | None = None) -> None:
    rng = random.Random()
    async with aiohttp.ClientSession() as session:
        list_watch = KubernetesListWatch(session, f"{url}/api/v1/pods", rng)
        informer = SharedInformer(list_watch, name="pods", rng=rng, backoff=backoff)
        informer.add_handler(Tell(tell, lambda stored: stored.name))
        await informer.run()


async def on_etcd(url: str, tell: Callable[[Told], None]) -> None:
    client = RemoteClient([urlsplit(url).netloc])
    try:
        informer = SharedInformer(StoreListWatch(client, PREFIX.encode()), name="pods")
        informer.add_handler(Tell(tell, lambda stored: stored.key))
        await informer.run()
    finally:
        await client.close()
