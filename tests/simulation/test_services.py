"""Random scales, pods that go and change their labels, dying nodes, crashes, lost replies and two leaders: Endpoints
and slices tell soon what Services and pods make them, and never an address twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

import pytest

from controllers.apps.types import Deployment
from controllers.core.types import Pod, Service
from controllers.discovery.types import Endpoints
from informer.errors import AlreadyExists, ApiError, NotFound
from kvstore.api import Client
from tests.controllers.cluster import Revision, history, nginx
from tests.controllers.discovery.services import (
    check,
    endpoints_listed,
    expected,
    now,
    service,
    slices_by_service,
    slices_listed,
)
from tests.simulation.endpoints_invariants import KINDS, untrue_endpoints
from tests.simulation.life import PATIENCE, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, PROMPT_AMONG_LEADERS, check_prompt

pytestmark = pytest.mark.virtual_time

SIDES = ("blue", "green")


class Services(User):
    """Scales a Deployment whose pods are behind two Services, moves and deletes pods, and changes Services."""

    # Pods take their time to go: it is seen what is told of them meanwhile.
    options: ClassVar[dict[str, Any]] = {**User.options, "pod_delete_delay": (0.1, 30.0)}

    async def begin(self) -> None:
        ports = [{"port": 80, "name": "http"}, {"port": 443, "name": "tls", "targetPort": 8443}]
        await self.client.create(service("web", {"app": "nginx"}))
        await self.client.create(service("blue", {"app": "nginx", "side": "blue"}, ports=ports))
        await self.client.create(service("all", {"app": "nginx"}, clusterIP="None", publishNotReadyAddresses=True))
        await self.client.create(nginx(replicas=3))

    async def act(self) -> None:
        match self.rng.choice(("scale", "delete pod", "side", "ports", "tolerate", "service", "kill", "revive")):
            case "scale":
                await self.scale(self.rng.randint(0, 6))
            case "delete pod":
                await self.delete_pod()
            case "side":
                pods = await self.it.pods()
                if pods:
                    change = {"metadata": {"labels": {"side": self.rng.choice(SIDES)}}}
                    with contextlib.suppress(NotFound):
                        await self.client.patch(Pod, self.rng.choice(pods).name, change, "default")
            case "ports":
                await self.change("web", {"ports": [{"port": self.rng.randint(80, 82)}]})
            case "tolerate":
                await self.change("web", {"publishNotReadyAddresses": self.rng.random() < 0.5})
            case "service":
                with contextlib.suppress(ApiError):
                    if self.rng.random() < 0.5:
                        await self.client.delete(Service, "blue", "default")
                    else:
                        await self.client.create(service("blue", {"app": "nginx", "side": "blue"}))
            case "kill":
                self.kill_node()
            case "revive":
                self.revive_node()

    async def scale(self, replicas: int) -> None:
        await self.client.patch(Deployment, "nginx", {"spec": {"replicas": replicas}}, "default")

    async def change(self, name: str, spec: dict[str, Any]) -> None:
        await self.client.patch(Service, name, {"spec": spec}, "default")

    async def settle(self) -> None:
        await self.change("web", {"ports": [{"port": 80}], "publishNotReadyAddresses": False})
        with contextlib.suppress(AlreadyExists):
            await self.client.create(service("blue", {"app": "nginx", "side": "blue"}))
        # Nothing is left to chance at the end: a pod changes sides, another one goes, and then nothing happens.
        await self.scale(5)
        await self.it.until(lambda: self.all_ready(5), PATIENCE)
        for side in SIDES:
            await asyncio.sleep(5)
            (pod, *_) = await self.it.pods()
            await self.client.patch(Pod, pod.name, {"metadata": {"labels": {"side": side}}}, "default")
        await asyncio.sleep(5)
        await self.scale(4)

    async def all_ready(self, count: int) -> bool:
        pods = await self.it.pods()
        return len(pods) == count and all(pod.ready for pod in pods)

    async def settled(self) -> bool:
        if not await self.all_ready(4):
            return False
        try:
            check(await now(self.it))
        except AssertionError:
            return False
        return True

    def end(self, revision: Revision) -> Any:
        # How many pods bear the label of the third Service is up to the life.
        slices = slices_by_service(revision)
        told = {name: [len(each["endpoints"]) for each in slices[name]] for name in ("web", "all")}
        return told, [each["spec"]["ports"] for each in revision.of(Service) if each["metadata"]["name"] == "web"]


def check_history(revisions: list[Revision]) -> None:
    """At every revision nothing is told twice and no slice has too much; at the end all is as the long way says."""
    for revision in revisions:
        if any("/endpoint" in key for key in revision.changed):
            for each in revision.of(Endpoints):
                endpoints_listed(each)
            for slices in slices_by_service(revision).values():
                slices_listed(slices)
    check(revisions[-1])
    addresses = [each["spec"].get("clusterIP") for each in revisions[-1].of(Service)]
    assert all(addresses)
    given = [each for each in addresses if each != "None"]
    assert len(set(given)) == len(given)
    (web,) = (each for each in revisions[-1].of(Service) if each["metadata"]["name"] == "web")
    assert len(expected(revisions[-1], web)[0]) == 4


@pytest.mark.parametrize("seed", seeds(2))
async def test_endpoints_follow_whatever_happens(store: Client, seed: int) -> None:
    life = await live(store, Services(seed), leaders=1 + seed % 2)
    revisions = await history(store)
    check_history(revisions)
    check_prompt(revisions, life.times, KINDS, untrue_endpoints, PROMPT_AMONG_LEADERS if seed % 2 else PROMPT)
    assert life.user.end(revisions[-1]) == await undisturbed(Services(seed))


def test_the_judge_sees_what_is_told_too_long() -> None:
    web = service().raw
    web["metadata"]["uid"] = "web"
    web["spec"]["ports"] = [{"port": 80, "protocol": "TCP"}]
    key = Service.TYPE.key("default", "web").decode()
    told = Endpoints.TYPE.key("default", "web").decode()
    address = {"ip": "10.1.0.1", "targetRef": {"uid": "gone"}}
    endpoints = {"subsets": [{"addresses": [address], "ports": [{"port": 80, "protocol": "TCP"}]}]}
    wrong = {key: web, told: {"metadata": {"name": "web"}, **endpoints}}
    right = {key: web, told: {"metadata": {"name": "web"}}}
    revisions = [Revision(1, right, [key]), Revision(2, wrong, [told]), Revision(3, right, [told])]
    check_prompt(revisions, {1: 0.0, 2: 5.0, 3: 14.0}, KINDS, untrue_endpoints, 10.0)
    with pytest.raises(AssertionError, match=r"wrong for 11\.0 s"):
        check_prompt(revisions, {1: 0.0, 2: 5.0, 3: 16.0}, KINDS, untrue_endpoints, 10.0)
