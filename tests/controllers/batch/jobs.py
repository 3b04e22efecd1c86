"""Jobs for tests, and a hand that ends their pods."""

from __future__ import annotations

import asyncio
from typing import Any

from controllers.batch.stock import final_condition
from controllers.batch.types import CronJob, Job
from controllers.core.stages import EXIT_CODE, RUN_SECONDS
from controllers.core.stages.kubelet import Setting, change_containers, follow
from controllers.core.stages.reading import ContainerChange
from controllers.core.types import Pod
from informer.errors import Conflict
from tests.controllers.cluster import Cluster, virtual_now

Raw = dict[str, Any]


def template(run: str = "forever", code: str = "0", restart: str = "Never", **labels: str) -> Raw:
    return {
        "metadata": {"labels": labels, "annotations": {RUN_SECONDS: run, EXIT_CODE: code}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "work", "image": "busybox:1.36"}]},
    }


def job(name: str = "work", *, run: str = "forever", code: str = "0", restart: str = "Never", **spec: Any) -> Job:
    """A Job; its pods run until `end` is called, unless `run` says how many seconds."""
    pod = template(run, code, restart)
    return Job.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": {"template": pod, **spec}})


def cron_job(schedule: str, name: str = "tick", *, run: str = "1", code: str = "0", **spec: Any) -> CronJob:
    made = {"metadata": {"labels": {"app": "tick"}}, "spec": {"backoffLimit": 0, "template": template(run, code)}}
    return CronJob.from_raw(
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"schedule": schedule, "jobTemplate": made, **spec},
        }
    )


async def status(it: Cluster, name: str = "work") -> Raw:
    found = (await it.client.get(Job, name, "default")).raw.get("status", {})
    assert isinstance(found, dict)
    return found


async def conditions(it: Cluster, name: str = "work") -> list[tuple[str, str]]:
    """Type and reason of those that are true, in order."""
    found = (await status(it, name)).get("conditions", ())
    return [(each["type"], each["reason"]) for each in found if each["status"] == "True"]


async def ended(it: Cluster, name: str = "work", patience: float = 3600.0) -> Raw:
    """Wait until the Job has ended; its status."""

    async def over() -> bool:
        return final_condition((await it.client.get(Job, name, "default")).raw) is not None

    await it.until(over, patience)
    return await status(it, name)


async def running(it: Cluster, count: int) -> list[Pod]:
    """Wait until so many pods are ready and no other is there that could be; them, by name."""

    async def reached() -> bool:
        pods = [pod for pod in await it.pods() if not pod.finished and not pod.deleting]
        return len(pods) == count and all(pod.ready for pod in pods)

    await it.until(reached, 3600.0)
    return sorted([pod for pod in await it.pods() if pod.ready and not pod.deleting], key=lambda pod: pod.name)


async def end(it: Cluster, pod: Pod, code: int = 0) -> None:
    """End a pod, as its kubelet would."""
    while True:
        found = await it.client.get(Pod, pod.name, "default")
        ending = ContainerChange(in_=["running"], state="terminated", back_off=True)
        setting = Setting(virtual_now())
        change_containers(found.raw, [ending], setting, lambda change, container: code)
        follow(found.raw, setting)
        try:
            await it.client.replace(found, subresource="status")
        except Conflict:
            continue
        return


async def settled(seconds: float = 2.0) -> None:
    """Let the controllers come to rest: nothing more happens of itself after that but what is timed for later."""
    await asyncio.sleep(seconds)


def now() -> float:
    return asyncio.get_running_loop().time()
