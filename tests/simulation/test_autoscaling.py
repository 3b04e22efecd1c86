"""Traffic that rises and falls, users who scale, dying nodes, crashes after any write and two leaders: an autoscaler
stays within its bounds and never goes faster than its policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from controllers.apps.types import Deployment
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.core.types import Service
from kvstore.api import Client
from tests.controllers.autoscaling.test_controller import hpa, loaded, workload
from tests.controllers.cluster import Revision, history
from tests.simulation.life import User, live, seeds, undisturbed

pytestmark = pytest.mark.virtual_time

LEAST, MOST = 2, 5
UP_PODS, UP_SECONDS = 2, 60
DOWN_PERCENT, DOWN_SECONDS = 50, 30
BEHAVIOR = {
    "scaleUp": {"policies": [{"type": "Pods", "value": UP_PODS, "periodSeconds": UP_SECONDS}]},
    "scaleDown": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": DOWN_PERCENT, "periodSeconds": DOWN_SECONDS}],
    },
}
SLACK = 3  # seconds
AUTHOR = "horizontal-pod-autoscaler"
Raw = dict[str, Any]


class Traffic(User):
    """Changes the load, and now and then the number itself."""

    async def begin(self) -> None:
        await self.client.create(loaded("cpu=400m"))
        await self.client.create(workload(2))
        await self.client.create(hpa(minReplicas=LEAST, maxReplicas=MOST, behavior=BEHAVIOR))

    async def act(self) -> None:
        match self.rng.choice(("load", "load", "delete pod", "kill", "revive", "nothing")):
            case "load":
                await self.load(self.rng.choice((100, 400, 900, 2_000)))
            case "delete pod":
                await self.delete_pod()
            case "kill":
                self.kill_node()
            case "revive":
                self.revive_node()

    async def load(self, millicores: int) -> None:
        change = {"metadata": {"annotations": {"listwatch.dev/load": f"cpu={millicores}m"}}}
        await self.client.patch(Service, "web", change, "default")

    async def settle(self) -> None:
        await self.load(600)

    async def settled(self) -> bool:
        found = await self.client.get(HorizontalPodAutoscaler, "web", "default")
        deployment = await self.client.get(Deployment, "nginx", "default")
        pods = await self.it.pods()
        numbers = (found.status.current_replicas, found.status.desired_replicas, deployment.spec.replicas, len(pods))
        return set(numbers) == {MOST} and all(pod.ready for pod in pods)

    def end(self, revision: Revision) -> Any:
        return [each["spec"]["replicas"] for each in revision.of(Deployment)]


def sizes(revisions: Sequence[Revision]) -> list[tuple[datetime, int]]:
    """When the number of replicas changed, and to which; by the clock that managedFields tell."""
    found: list[tuple[datetime, int]] = []
    for revision in revisions:
        if not any("/deployments/" in key for key in revision.changed):
            continue
        for each in revision.of(Deployment):
            count = each["spec"]["replicas"]
            if not found or found[-1][1] != count:
                notes = each["metadata"].get("managedFields", ())
                times = [note["time"] for note in notes if note["manager"] == AUTHOR]
                at = max(times) if found else each["metadata"]["creationTimestamp"]
                found.append((datetime.fromisoformat(at), count))
    return found


def check_pace(changes: Sequence[tuple[datetime, int]]) -> None:
    """Within its bounds, and at no moment more than the policies allow for the time before it."""
    for number, (at, count) in enumerate(changes):
        assert LEAST <= count <= MOST, f"{count} at {at}"
        if number == 0:
            continue
        before = changes[number - 1][1]
        if count > before:
            start = _at_start(changes[:number], at, UP_SECONDS)
            assert count <= start + UP_PODS, f"{at}: from {start} to {count} within {UP_SECONDS} s"
        else:
            start = _at_start(changes[:number], at, DOWN_SECONDS)
            lowest = int(start * Fraction(100 - DOWN_PERCENT, 100))
            assert count >= lowest, f"{at}: from {start} to {count} within {DOWN_SECONDS} s"


def _at_start(changes: Sequence[tuple[datetime, int]], at: datetime, seconds: float) -> int:
    """How many there were that long before. Times are told in whole seconds, and writes may be slow."""
    cutoff = at - timedelta(seconds=seconds - SLACK)
    earlier = [count for moment, count in changes if moment <= cutoff]
    return earlier[-1] if earlier else changes[0][1]


@pytest.mark.parametrize("seed", seeds(2))
async def test_an_autoscaler_keeps_its_bounds_and_its_pace(store: Client, seed: int) -> None:
    life = await live(store, Traffic(seed), leaders=1 + seed % 2)
    revisions = await history(store)
    check_pace(sizes(revisions))
    assert life.user.end(revisions[-1]) == await undisturbed(Traffic(seed))


def test_the_judge_sees_what_is_too_fast() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for count in (5, 13, 1):
        with pytest.raises(AssertionError):
            check_pace([(start, 2), (start + timedelta(seconds=20), count)])
    with pytest.raises(AssertionError):
        check_pace([(start, 2), (start + timedelta(seconds=20), 4), (start + timedelta(seconds=40), 5)])
    check_pace([(start, 2), (start + timedelta(seconds=20), 4), (start + timedelta(seconds=90), 5)])
    check_pace([(start, 5), (start + timedelta(seconds=20), 2)])
