"""The hours of the day: each does something, or lets something happen, and then checks what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.deployment.rollback import replica_set_of, undo
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import Deployment, ReplicaSet
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.batch.stock import final_condition
from controllers.batch.types import Job
from controllers.cli.columns.nodes import node_status
from controllers.cli.columns.pods import pod_status
from controllers.cli.demo.day.shop import Shop, now
from controllers.cli.demo.manifests import find_manifests
from controllers.cli.demo.runner import Step, StepFailed, Tell
from controllers.cli.kinds import Kinds
from controllers.cli.manifests import check_manifests, read_manifests
from controllers.core.stages import SIMULATE
from controllers.core.types import Node, PersistentVolumeClaim, Pod
from controllers.owners import is_controlled_by
from controllers.policy.eviction import evict
from informer.errors import NotFound, TooManyRequests

BAD, GOOD = "shop/web:42", "shop/web:43"
AGAIN = 5.0  # seconds; kubectl's, between attempts to evict

Hour = Callable[[Shop, Tell], Awaitable[None]]


def hour(at: float, title: str, run: Hour) -> Step[Shop]:
    """What happens at a time of the day; from 24 on it is of the next one."""

    async def when_it_is_time(shop: Shop, tell: Tell) -> None:
        await shop.until_hour(at)
        await run(shop, lambda text: tell(f"{now():%H:%M} {text}"))

    return Step(f"{int(at) % 24:02}:{round(at % 1 * 60):02} {title}", when_it_is_time)


# ---- morning --------------------------------------------------------------------------------------------------------


async def open_up(shop: Shop, tell: Tell) -> None:
    """All manifests become what they say."""
    checked = check_manifests(read_manifests([str(find_manifests() / "shop")]), Kinds(), None)
    for each in checked:
        await shop.objects.apply(each.object)
    await tell(f"{len(checked)} objects of {len({type(each.object) for each in checked})} kinds applied")
    await shop.until("everything ready", lambda: all_ready(shop), 10)
    claims = shop.all(PersistentVolumeClaim)
    if len(claims) != 3 or any(claim.raw["status"].get("phase") != "Bound" for claim in claims):
        raise StepFailed(f"{len(claims)} claims, expected 3 that are bound")
    nodes = {pod.spec.node_name for pod in shop.pods("db")}
    if len(nodes) != 3:
        raise StepFailed(f"the database is on {len(nodes)} nodes, expected 3")
    await tell(f"{len(shop.all(Pod))} pods ready, the database's on {len(nodes)} nodes with {len(claims)} volumes")


async def customers_come(shop: Shop, tell: Tell) -> None:
    """The autoscalers follow."""
    before = replicas(shop, "web"), replicas(shop, "api")
    await shop.until_hour(10)
    after = replicas(shop, "web"), replicas(shop, "api")
    if not (after[0] > before[0] and after[1] > before[1]):
        raise StepFailed(f"web and api have {after} replicas, before the customers came {before}")
    grown = f"web from {before[0]} to {after[0]} pods, api from {before[1]} to {after[1]}"
    await tell(f"the autoscalers have followed: {grown}")


async def bad_release(shop: Shop, tell: Tell) -> None:
    """A release that cannot be pulled gets nowhere, harms nobody, and is undone."""
    before = replicas(shop, "web")
    least = Least(shop, "web")
    await release(shop, BAD, {SIMULATE: "image-pull-back-off"})
    await tell(f"{BAD} is rolled out; nobody can pull that image")

    def stuck() -> bool:
        least.look()
        return progressing(shop.get(Deployment, "web")) == "ProgressDeadlineExceeded"

    await shop.until("the deadline of the rollout exceeded", stuck, 30)
    broken = Counter(pod_status(pod.raw) for pod in shop.pods("web") if not pod.ready)
    await tell(f"its progressDeadlineSeconds are over: {shown(broken)}")
    deployment = shop.get(Deployment, "web")
    sets = [each for each in shop.all(ReplicaSet) if is_controlled_by(each, deployment)]
    undo(deployment, replica_set_of(sets))
    await shop.objects.update(deployment)

    def back() -> bool:
        least.look()
        return rolled_out(shop, "web") and all(pod.spec.containers[0].image != BAD for pod in shop.pods("web"))

    await shop.until("the release undone", back, 10)
    if least.seen < before:
        raise StepFailed(f"only {least.seen} of {before} pods served at times")
    await tell(f"undone; never fewer than {least.seen} pods served, as maxUnavailable wants it")


# ---- afternoon ------------------------------------------------------------------------------------------------------


async def rush_hour(shop: Shop, tell: Tell) -> None:
    """At noon there are as many as the load needs."""
    status = shop.get(HorizontalPodAutoscaler, "web").raw["status"]
    used = status["currentMetrics"][0]["resource"]["current"]["averageUtilization"]
    most = max(66, 60 + 60 // replicas(shop, "web") + 6)
    if used > most:
        raise StepFailed(f"the web pods use {used} % of what they request, the autoscaler's target is 60 %")
    await tell(f"{replicas(shop, 'web')} web pods use {used} % of their request, the target is 60 %")


async def lose_a_node(shop: Shop, tell: Tell) -> None:
    """A machine dies: what it ran comes up elsewhere, the database with its volume."""
    victim = shop.pods("db")[-1].spec.node_name
    member = next(pod for pod in shop.pods("db") if pod.spec.node_name == victim)
    claims = {claim.name: claim.metadata.uid for claim in shop.all(PersistentVolumeClaim)}
    lost = sum(pod.spec.node_name == victim for pod in shop.all(Pod))
    shop.workloads.nodes.kill(victim)
    await tell(f"{victim} is dead, with {lost} pods")
    await shop.until(f"{victim} NotReady", lambda: not node(shop, victim).ready, 2)
    await tell(f"its heartbeats are missed: {node_status(node(shop, victim).raw)}")

    def moved() -> bool:
        daemons = shop.pods("logs")
        left = [pod for pod in shop.all(Pod) if pod.spec.node_name == victim and pod not in daemons]
        parts = ("web", "api", "workers")
        return not left and all(rolled_out(shop, name) for name in parts) and shop.ready("db") == 3

    await shop.until("its pods replaced", moved, 20)
    if {claim.name: claim.metadata.uid for claim in shop.all(PersistentVolumeClaim)} != claims:
        raise StepFailed("the database has other volumes")
    home = shop.get(Pod, member.name).spec.node_name
    await tell("five minutes later, as pods tolerate it by default, they are replaced")
    await tell(f"{member.name} is on {home} now, with the same volume")
    shop.workloads.nodes.revive(victim)
    await shop.until("the node back", lambda: node(shop, victim).ready and daemons_ready(shop), 5)
    await tell(f"{victim} is back")


async def drain_a_node(shop: Shop, tell: Tell) -> None:
    """Maintenance: nothing is put on a node any more, and what is there is evicted as far as budgets allow."""
    target = shop.pods("db")[0].spec.node_name
    least_db, least_web = Least(shop, "db"), Least(shop, "web")
    await shop.objects.patch(Node, target, {"spec": {"unschedulable": True}})
    evicted = refused = 0

    def left() -> list[Pod]:
        daemons = shop.pods("logs")
        there = [pod for pod in shop.all(Pod) if pod.spec.node_name == target]
        return [pod for pod in there if pod not in daemons and not pod.deleting]

    while pods := left():
        for pod in pods:
            try:
                await evict(shop.objects, pod)
                evicted += 1
            except TooManyRequests:
                refused += 1
            except NotFound:
                continue
            least_db.look()
            least_web.look()
        await asyncio.sleep(AGAIN)
        least_db.look()
        least_web.look()
    await shop.until("everything ready elsewhere", lambda: deployments_ready(shop) and shop.ready("db") == 3, 15)
    if least_db.seen < 2:
        raise StepFailed(f"the database had {least_db.seen} members at times, its budget wants 2")
    put_off = f", {refused} more put off by budgets" if refused else ""
    await tell(f"{target} is empty: {evicted} pods were evicted{put_off}")
    await tell(f"never fewer than {least_db.seen} of the database's 3 members served")
    await shop.objects.patch(Node, target, {"spec": {"unschedulable": False}})


async def good_release(shop: Shop, tell: Tell) -> None:
    """A release that works, while customers are there."""
    before = replicas(shop, "web")
    least = Least(shop, "web")
    await release(shop, GOOD, {})

    def over() -> bool:
        least.look()
        return rolled_out(shop, "web") and {pod.spec.containers[0].image for pod in shop.pods("web")} == {GOOD}

    await shop.until("the release rolled out", over, 20)
    if least.seen < before - 1:
        raise StepFailed(f"only {least.seen} of {before} pods served at times")
    await tell(f"{GOOD} on {replicas(shop, 'web')} pods, never fewer than {least.seen} served")


# ---- night ----------------------------------------------------------------------------------------------------------


async def customers_go(shop: Shop, tell: Tell) -> None:
    """The autoscalers follow, slowly."""
    most = replicas(shop, "web")
    await shop.until("the least that the autoscalers may have", lambda: smallest(shop), 90)
    await tell(f"the autoscalers let go: web is down from {most} to {replicas(shop, 'web')} pods")


async def back_up(shop: Shop, tell: Tell) -> None:
    """The backup's three parts."""
    job = await _night_job(shop, "backup", 60)
    if job.raw["status"].get("completedIndexes") != "0-2":
        raise StepFailed(f"the backup has the parts {job.raw['status'].get('completedIndexes')}, expected 0-2")
    await tell(f"{job.name} has written parts 0-2")


async def report(shop: Shop, tell: Tell) -> None:
    """A job that may fail, and is tried again."""
    job = await _night_job(shop, "report", 75)
    failed = job.raw["status"].get("failed", 0)
    await tell(f"{job.name} is complete, after {failed} failed attempt{'' if failed == 1 else 's'}")


async def _night_job(shop: Shop, name: str, minutes: float) -> Job:
    def latest() -> Job | None:
        jobs = [job for job in shop.all(Job) if job.name.startswith(f"{name}-")]
        return jobs[-1] if jobs else None

    def over() -> bool:
        job = latest()
        return job is not None and final_condition(job.raw) is not None

    await shop.until(f"the {name} job over", over, minutes)
    job = latest()
    assert job is not None
    condition = final_condition(job.raw)
    if condition is None or condition["type"] != "Complete":
        raise StepFailed(f"{job.name} failed: {condition}")
    return job


async def next_morning(shop: Shop, tell: Tell) -> None:
    """Everything is as it was, but for the release."""
    if not all_ready(shop) or not smallest(shop):
        raise StepFailed("not everything is ready")
    if unready := [node.name for node in shop.all(Node) if node_status(node.raw) != "Ready"]:
        raise StepFailed(f"not ready: {', '.join(unready)}")
    await tell(f"{len(shop.all(Pod))} pods, all as they should be")


HOURS: Sequence[Step[Shop]] = (
    hour(6, "the shop opens", open_up),
    hour(7, "customers come", customers_come),
    hour(10, "a release goes wrong", bad_release),
    hour(12.5, "noon", rush_hour),
    hour(14, "a node dies", lose_a_node),
    hour(16, "another is drained for repair", drain_a_node),
    hour(18, "a release works", good_release),
    hour(22, "customers go", customers_go),
    hour(25.5, "the backup", back_up),
    hour(28, "the report", report),
    hour(30, "the next morning", next_morning),
)


# ---- what they share ------------------------------------------------------------------------------------------------


class Least:
    """The fewest pods of a part that served whenever it was looked."""

    def __init__(self, shop: Shop, app: str) -> None:
        self._shop = shop
        self._app = app
        self.seen = shop.ready(app)

    def look(self) -> None:
        """Look now."""
        self.seen = min(self.seen, self._shop.ready(self._app))


async def release(shop: Shop, image: str, annotations: dict[str, str]) -> None:
    """Another image of the web front."""
    deployment = shop.get(Deployment, "web")
    template: dict[str, Any] = deployment.raw["spec"]["template"]
    template["spec"]["containers"][0]["image"] = image
    template["metadata"]["annotations"].update(annotations)
    deployment.metadata.annotations["kubernetes.io/change-cause"] = f"version {image.rpartition(':')[2]}"
    await shop.objects.update(deployment)


def replicas(shop: Shop, name: str) -> int:
    """How many a Deployment is to have."""
    return shop.get(Deployment, name).spec.replicas


def progressing(deployment: Deployment) -> str:
    """The reason of the condition Progressing."""
    conditions = deployment.raw.get("status", {}).get("conditions", ())
    return next((str(each["reason"]) for each in conditions if each["type"] == "Progressing"), "")


def rolled_out(shop: Shop, name: str) -> bool:
    """Whether all its pods are of the last template, and serve."""
    deployment = shop.get(Deployment, name)
    status, wanted = deployment.status, deployment.spec.replicas
    seen = status.observed_generation >= deployment.metadata.generation
    return seen and status.replicas == status.updated_replicas == status.available_replicas == wanted


def deployments_ready(shop: Shop) -> bool:
    """Whether all of them are rolled out."""
    return all(rolled_out(shop, each.name) for each in shop.all(Deployment))


def daemons_ready(shop: Shop) -> bool:
    """Whether each node has its log collector."""
    status = shop.get(DaemonSet, "logs").raw.get("status", {})
    return bool(status) and status["numberReady"] == status["desiredNumberScheduled"] == len(shop.all(Node))


def all_ready(shop: Shop) -> bool:
    """Whether everything runs that is to run all day."""
    database = shop.get(StatefulSet, "db").raw.get("status", {})
    return deployments_ready(shop) and daemons_ready(shop) and database.get("availableReplicas") == 3


def smallest(shop: Shop) -> bool:
    """Whether the autoscalers have gone down to the least."""
    return replicas(shop, "web") == 3 and replicas(shop, "api") == 2 and deployments_ready(shop)


def node(shop: Shop, name: str) -> Node:
    """A node."""
    return shop.get(Node, name)


def shown(counts: Counter[str]) -> str:
    """`3 Running, 1 Pending`."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
