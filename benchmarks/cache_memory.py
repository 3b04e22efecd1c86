"""What 100,000 Pods of 1 KB cost in memory in an informer's cache, against a plain dict of the decoded objects.

Each is filled in a process of its own, from bytes that are made as a store would send them, and measured by how much
the process grew. A third line is a dict of the bytes alone, which no cache can go below.

    python -m benchmarks.cache_memory
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.table import Row, show
from informer import Cache, Item, drop_managed_fields

PODS = 100_000
POD_BYTES = 1024
BATCH = 500
GOAL = "1.5 x encoded + 500 B"


def pod(n: int, managed_fields: int = 0) -> bytes:
    """A Pod like those of a Deployment, filled up to its size by its environment. `managed_fields`: bytes of these."""
    name = f"web-5d4f8c7b9-{n:06d}"
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": True}
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": f"namespace-{n % 100}",
            "uid": f"0b0f8c2e-1111-4222-8333-{n:012d}",
            "generation": 1,
            "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{**owner, "uid": f"0b0f8c2e-1111-4222-8333-{n // 50:012d}"}],
        },
        "spec": {
            "nodeName": f"node-{n % 1000}",
            "containers": [{"name": "web", "image": "nginx:1.25", "ports": [{"containerPort": 80}], "env": []}],
        },
        "status": {"phase": "Running", "podIP": f"10.0.{n // 250}.{n % 250}", "conditions": [{"type": "Ready"}]},
    }
    variable = 0
    while (missing := POD_BYTES - len(msgspec.json.encode(value))) > 40:
        entry = {"name": f"VARIABLE_{variable}", "value": "x" * min(60, missing - 34)}
        value["spec"]["containers"][0]["env"].append(entry)  # type: ignore[index]
        variable += 1
    value["status"]["hostIP"] = "x" * max(0, missing - len(',"hostIP":""'))  # type: ignore[index]
    if managed_fields:
        value["metadata"]["managedFields"] = [{"manager": "kubelet", "fieldsV1": "f" * managed_fields}]  # type: ignore[index]
    return msgspec.json.encode(value)


def items(managed_fields: int = 0) -> Iterator[Item]:
    for n in range(PODS):
        yield Item(f"namespace-{n % 100}/web-5d4f8c7b9-{n:06d}", pod(n, managed_fields), str(100_000 + n))


def decoded() -> object:
    return {item.key: msgspec.json.decode(item.data) for item in items()}


def bytes_alone() -> object:
    return {item.key: item.data for item in items()}


def cache() -> object:
    return _fill(Cache(), items())


def cache_with_transform() -> object:
    return _fill(Cache(transform=drop_managed_fields), items(POD_BYTES))


def _fill(cache: Cache, source: Iterator[Item]) -> Cache:
    batch: list[Item] = []
    for item in source:
        batch.append(item)
        if len(batch) == BATCH:
            cache.apply(batch)
            batch.clear()
    assert len(cache) == PODS
    return cache


KEPT: dict[str, Callable[[], object]] = {
    "dict of decoded objects": decoded,
    "dict of bytes": bytes_alone,
    "cache, two indexes": cache,
    "cache, 1 KB of managedFields dropped": cache_with_transform,
}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _measure(name: str) -> None:
    pod(0)
    gc.collect()
    before = _resident()
    kept = KEPT[name]()
    gc.collect()
    print(_resident() - before)
    del kept


def main() -> None:
    if len(sys.argv) > 1:
        _measure(sys.argv[1])
        return
    command = [sys.executable, "-m", "benchmarks.cache_memory"]
    used = {name: int(subprocess.check_output([*command, name])) / PODS for name in KEPT}
    size = sum(len(item.data) for item in items()) / PODS
    goal = 1.5 * size + 500
    baseline = "dict of decoded objects"
    rows = [
        Row(
            name,
            each,
            "B",
            baseline,
            each / used[baseline],
            GOAL if name.startswith("cache") else "",
            each <= goal if name.startswith("cache") else None,
        )
        for name, each in used.items()
    ]
    show(f"memory for each of {PODS} Pods of {size:.0f} bytes; the goal is {goal:.0f} B", rows)


if __name__ == "__main__":
    main()
