"""Random users, a random network, dying nodes and a manager that ends after any write: no pod of a Job counts twice."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.batch.stock import final_condition
from controllers.batch.types import CronJob, Job
from controllers.simulation.client import NO_FAULTS
from kvstore.api import Client
from tests.controllers.batch.jobs import cron_job, job
from tests.controllers.cluster import Revision, history
from tests.simulation import batch_invariants as invariants
from tests.simulation.invariants import check_no_node_is_lost, check_owned
from tests.simulation.life import Life, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, PROMPT_AMONG_LEADERS, check_prompt

pytestmark = pytest.mark.virtual_time

WISHES = ("delete pod", "parallelism", "suspend", "resume", "nothing")
COMPLETIONS = 6

INDEXED = {"completionMode": "Indexed"}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    INDEXED,
    {"podReplacementPolicy": "Failed"},
    {**INDEXED, "backoffLimitPerIndex": 100},
    {
        **INDEXED,
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]},
    },
)


def the_job(seed: int) -> Job:
    spec = {"completions": COMPLETIONS, "parallelism": 3, "backoffLimit": 10_000, **KINDS[seed % len(KINDS)]}
    return job(run="1,8", code="0,0,1", **spec)


class Jobs(User):
    """A Job and a CronJob. actions: what the user does besides."""

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = (*WISHES, *actions)

    async def begin(self) -> None:
        await self.client.create(the_job(self.seed))
        policy = ("Allow", "Forbid", "Replace")[self.seed % 3]
        await self.client.create(cron_job("* * * * *", run="1,90", code="0,0,1", concurrencyPolicy=policy))

    async def act(self) -> None:
        match self.rng.choice(self.actions):
            case "delete pod":
                await self.delete_pod()
            case "parallelism":
                await self.wish({"parallelism": self.rng.randint(0, 4)})
            case "suspend":
                await self.wish({"suspend": True})
            case "resume":
                await self.wish({"suspend": False})
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def wish(self, spec: dict[str, Any]) -> None:
        await self.client.patch(Job, "work", {"spec": spec}, "default")

    async def settle(self) -> None:
        await self.wish({"parallelism": 3, "suspend": False})
        await self.client.patch(CronJob, "tick", {"spec": {"suspend": True}}, "default")

    async def settled(self) -> bool:
        return all(final_condition(each.raw) is not None for each in await self.client.list(Job, "default"))

    def end(self, revision: Revision) -> Any:
        (ended,) = (each for each in revision.of(Job) if each["metadata"]["name"] == "work")
        condition = final_condition(ended)
        assert condition is not None
        (cron,) = revision.of(CronJob)
        status = {field: ended["status"].get(field) for field in ("succeeded", "completedIndexes", "active")}
        return condition["type"], condition["reason"], status, cron.get("status", {}).get("active")


async def check(store: Client, life: Life, seconds: float = PROMPT) -> None:
    revisions = await history(store)
    check_prompt(revisions, life.times, invariants.STATUSES, invariants.untrue_statuses, seconds)
    invariants.check_counts(revisions)
    invariants.check_nothing_is_lost(revisions)
    invariants.check_indexes(revisions)
    invariants.check_active(revisions, life.times)
    invariants.check_ends(revisions)
    invariants.check_schedule(revisions)
    check_owned(revisions[-1])
    check_no_node_is_lost(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(Jobs(life.user.seed))


@pytest.mark.parametrize("seed", range(2))
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    await check(store, await live(store, Jobs(seed), faults=NO_FAULTS))


@pytest.mark.parametrize("seed", seeds(3))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    await check(store, await live(store, Jobs(seed)))


@pytest.mark.parametrize("seed", seeds(3))
async def test_promises_are_kept_when_nodes_die_and_two_run_for_one_office(store: Client, seed: int) -> None:
    user = Jobs(2 + seed, "kill node", "revive node")
    await check(store, await live(store, user, leaders=2), PROMPT_AMONG_LEADERS)
