"""What a history of the store shows of workloads, as lines that people can read and a case can expect.

| line | when |
|---|---|
| `nginx#2: 1 -> 2` | the ReplicaSet of revision 2 gets another size |
| `web-0: made`, `Ready`, `unready`, `Succeeded`, `Failed`, `stopping`, `gone` | a pod, or its deletion |
| `claim data-web-0: made`, `Bound`, `gone` | a PersistentVolumeClaim |
| `job work: made`, `Complete (CompletionsReached)`, `gone` | a Job and its conditions |

Random parts of names are `*`; pods of a DaemonSet are called by their node, those of ReplicaSets are left to the sizes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controllers.apps.types import Deployment, ReplicaSet
from controllers.batch.types import Job
from controllers.core.types import PersistentVolumeClaim, Pod
from informer.resources import Resource
from tests.controllers.cluster import Revision

Raw = dict[str, Any]

REVISION = "deployment.kubernetes.io/revision"


def steps(history: Sequence[Revision], since: int) -> list[str]:
    """The lines of all revisions after `since`."""
    found: list[str] = []
    for before, after in itertools.pairwise(history):
        if after.number > since:
            for key in after.changed:
                found += _lines(key, before.objects.get(key), after.objects.get(key), after)
    return found


def _lines(key: str, old: Raw | None, new: Raw | None, at: Revision) -> Iterator[str]:
    obj = new or old
    if obj is None or _is(Deployment, key):
        return
    if _is(ReplicaSet, key):
        yield from _sizes(old, new)
    elif _is(Pod, key):
        name = pod_name(obj)
        if name:
            yield from (f"{name}: {what}" for what in _pod(old, new))
    elif _is(PersistentVolumeClaim, key):
        yield from (f"claim {_name(obj)}: {what}" for what in _claim(old, new))
    elif _is(Job, key):
        yield from (f"job {_name(obj)}: {what}" for what in _job(old, new))


def _is(cls: type[Resource], key: str) -> bool:
    return key.startswith(cls.TYPE.prefix().decode())


def _name(obj: Raw) -> str:
    return str(obj["metadata"]["name"])


def _sizes(old: Raw | None, new: Raw | None) -> Iterator[str]:
    obj = new or old
    assert obj is not None
    owner = obj["metadata"].get("ownerReferences", [{"name": _name(obj)}])[0]["name"]
    called = f"{owner}#{obj['metadata'].get('annotations', {}).get(REVISION, '?')}"
    if new is None:
        yield f"{called}: gone"
        return
    was = 0 if old is None else old["spec"]["replicas"]
    if old is None or was != new["spec"]["replicas"]:
        yield f"{called}: {was} -> {new['spec']['replicas']}"


def pod_name(pod: Raw) -> str:
    """What a pod is called in a line, "" if it is left out."""
    name = _name(pod)
    owner: Mapping[str, Any] = next(iter(pod["metadata"].get("ownerReferences", ())), {})
    match owner.get("kind"):
        case "ReplicaSet":
            return ""
        case "DaemonSet":
            return f"{owner['name']} on {_node(pod)}"
        case "Job":
            return re.sub(r"-[a-z0-9]{5}$", "-*", name)
        case _:
            return name


def _node(pod: Raw) -> str:
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def _pod(old: Raw | None, new: Raw | None) -> Iterator[str]:
    if new is None:
        yield "gone"
        return
    if old is None:
        yield "made"
    was = old or {"metadata": {}, "status": {}}
    if _ready(new) != _ready(was) and new["status"].get("phase") == "Running" and not _stopping(new):
        yield "Ready" if _ready(new) else "unready"
    phase = new["status"].get("phase")
    if phase != was["status"].get("phase") and phase in ("Succeeded", "Failed"):
        yield phase
    if _stopping(new) and not _stopping(was):
        yield "stopping"


def _stopping(pod: Raw) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _ready(pod: Raw) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def _claim(old: Raw | None, new: Raw | None) -> Iterator[str]:
    if new is None:
        yield "gone"
        return
    if old is None:
        yield "made"
    phase = new.get("status", {}).get("phase")
    if phase == "Bound" and (old or {}).get("status", {}).get("phase") != "Bound":
        yield "Bound"


def _job(old: Raw | None, new: Raw | None) -> Iterator[str]:
    if new is None:
        yield "gone"
        return
    if old is None:
        yield "made"
    before = {each["type"]: each["status"] for each in (old or {}).get("status", {}).get("conditions", ())}
    for each in new.get("status", {}).get("conditions", ()):
        if each["status"] == "True" and before.get(each["type"]) != "True":
            yield f"{each['type']} ({each['reason']})"
        elif each["status"] == "False" and before.get(each["type"]) == "True":
            yield f"not {each['type']} ({each['reason']})"
