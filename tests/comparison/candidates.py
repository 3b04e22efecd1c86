"""One watcher in a process of its own, used as its documentation shows.

`python -m tests.comparison.candidates NAME URL`. What it tells its user goes to standard output, a JSON object a line;
what else it prints goes to standard error. None is given a loop around it unless its name says so: what becomes of a
library that gives up is part of what is compared.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.comparison.judge import Told

PREFIX = "/registry/pods/"
_out = sys.stdout


def tell(told: Told) -> None:
    _out.write(msgspec.json.encode(told).decode() + "\n")
    _out.flush()


def event(kind: str | None, metadata: Any) -> None:
    """Tell of an event of a Kubernetes watch; `metadata` is a mapping."""
    if kind != "BOOKMARK":
        what = "delete" if kind == "DELETED" else "put"
        tell(Told(what, metadata["name"], metadata["resourceVersion"], metadata["uid"]))  # type: ignore[arg-type]


async def ours_on_kubernetes(url: str) -> None:
    await importlib.import_module("tests.comparison.ours").on_kubernetes(url, tell)


async def ours_on_etcd(url: str) -> None:
    await importlib.import_module("tests.comparison.ours").on_etcd(url, tell)


# ---- Kubernetes


def kopf(url: str) -> None:
    """An `on.event` handler. `kopf.index` is fed by the same events."""
    kopf: Any = importlib.import_module("kopf")

    def login(**_: Any) -> Any:
        return kopf.ConnectionInfo(server=url)

    def told(type: str | None, meta: Any, **_: Any) -> None:  # noqa: A002 (kopf's name)
        event(type, meta)

    kopf.on.login()(login)
    kopf.on.event("v1", "pods")(told)
    kopf.configure(verbose=True)
    kopf.run(clusterwide=True, standalone=True)


async def kr8s(url: str) -> None:
    """`api.watch` without a revision, which gives what is there first."""
    kr8s: Any = importlib.import_module("kr8s.asyncio")
    api = await kr8s.api(url=url, namespace="default")
    async for kind, pod in api.watch("pods", namespace="default"):
        event(kind, pod.raw["metadata"])


async def kr8s_again(url: str) -> None:
    """The same, and when it ends, again from the last revision seen."""
    kr8s: Any = importlib.import_module("kr8s.asyncio")
    api = await kr8s.api(url=url, namespace="default")
    seen = None
    while True:
        async for kind, pod in api.watch("pods", namespace="default", since=seen):
            seen = pod.raw["metadata"]["resourceVersion"]
            event(kind, pod.raw["metadata"])


async def lightkube(url: str, *, retry: bool = False) -> None:
    """A list, and a watch from its revision."""
    lightkube: Any = importlib.import_module("lightkube")
    types: Any = importlib.import_module("lightkube.types")
    config: Any = importlib.import_module("lightkube.config.kubeconfig")
    pod: Any = importlib.import_module("lightkube.resources.core_v1").Pod
    cluster, user = config.Cluster(server=url), config.User()
    client = lightkube.AsyncClient(config=config.KubeConfig.from_one(cluster=cluster, user=user))

    def tell_of(kind: str, found: Any) -> None:
        metadata = found.metadata
        event(kind, {"name": metadata.name, "resourceVersion": metadata.resourceVersion, "uid": metadata.uid})

    listed = client.list(pod, namespace="default")
    async for found in listed:
        tell_of("ADDED", found)
    options = {"on_error": types.on_error_retry} if retry else {}
    async for kind, found in client.watch(pod, namespace="default", resource_version=listed.resourceVersion, **options):
        tell_of(kind, found)


async def lightkube_retry(url: str) -> None:
    await lightkube(url, retry=True)


def official(url: str) -> None:
    """The client's SharedInformer."""
    client: Any = importlib.import_module("kubernetes.client")
    informers: Any = importlib.import_module("kubernetes.informer")
    configuration = client.Configuration()
    configuration.host = url
    pods = client.CoreV1Api(client.ApiClient(configuration))
    informer = informers.SharedInformer(list_func=pods.list_namespaced_pod, namespace="default")

    def handler(kind: str) -> Callable[[Any], None]:
        def tell_of(found: Any) -> None:
            metadata = found.metadata
            event(kind, {"name": metadata.name, "resourceVersion": metadata.resource_version, "uid": metadata.uid})

        return tell_of

    for kind in ("ADDED", "MODIFIED", "DELETED"):
        informer.add_event_handler(kind, handler(kind))
    informer.start()
    threading.Event().wait()


# ---- etcd


async def aetcd(url: str) -> None:
    """A range, and a watch from the revision after it."""
    aetcd: Any = importlib.import_module("aetcd")
    address = urlsplit(url)
    async with aetcd.Client(host=address.hostname, port=address.port) as client:
        found = await client.get_prefix(PREFIX.encode())
        for kv in found:
            tell(Told("put", kv.key.decode().removeprefix(PREFIX), str(kv.mod_revision)))
        watch = await client.watch_prefix(PREFIX.encode(), start_revision=found.header.revision + 1)
        async for change in watch:
            key = change.kv.key.decode().removeprefix(PREFIX)
            gone = change.kind == aetcd.EventKind.DELETE
            tell(Told("delete" if gone else "put", key, str(change.kv.mod_revision)))


def etcd3gw(url: str) -> None:
    """The same; a range tells no revision here, so that of the newest key has to do."""
    etcd3gw: Any = importlib.import_module("etcd3gw")
    address = urlsplit(url)
    client = etcd3gw.client(host=address.hostname, port=address.port)
    newest = 0
    for _, metadata in client.get_prefix(PREFIX):
        tell(Told("put", metadata["key"].decode().removeprefix(PREFIX), metadata["mod_revision"]))
        newest = max(newest, int(metadata["mod_revision"]))
    changes, _ = client.watch_prefix(PREFIX, start_revision=newest + 1)
    for change in changes:
        key = change["kv"]["key"].decode().removeprefix(PREFIX)
        gone = change.get("type") == "DELETE"
        tell(Told("delete" if gone else "put", key, change["kv"]["mod_revision"]))


WATCHERS: dict[str, Callable[[str], Any]] = {
    "ours-on-kubernetes": ours_on_kubernetes,
    "ours-on-etcd": ours_on_etcd,
    "kopf": kopf,
    "kr8s": kr8s,
    "kr8s-again": kr8s_again,
    "lightkube": lightkube,
    "lightkube-retry": lightkube_retry,
    "official": official,
    "aetcd": aetcd,
    "etcd3gw": etcd3gw,
}


def main() -> None:
    global _out
    # A library that prints must not be taken for a report.
    _out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watcher = WATCHERS[sys.argv[1]]
    try:
        running = watcher(sys.argv[2])
        if running is not None:
            asyncio.run(running)
    except Exception as error:  # whatever it is, it is what the library gives its user
        tell(Told("ended", why=f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"))
        raise
    tell(Told("ended"))


if __name__ == "__main__":
    main()
