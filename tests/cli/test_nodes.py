"""`cordon`, `uncordon`, `taint` and `drain`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from controllers.cli import draining
from controllers.cli.app import run
from controllers.cli.kinds import Kinds
from controllers.cli.session import Session
from controllers.core.types import Pod
from controllers.policy.types import PodDisruptionBudget
from controllers.stores import open_store
from informer import ObjectClient
from tests.cli.conftest import Cli
from tests.cli.seeding import node, owned_by, pod, seed


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def nodes(cli: Cli, store: Path) -> Cli:
    seed(store, node("alpha"), node("beta"))
    return cli


def spec(cli: Cli, name: str = "alpha") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("get", "node", name, "-o", "json").out).get("spec", {})
    return found


def test_cordon_and_uncordon(nodes: Cli) -> None:
    assert nodes("cordon", "alpha").out == "node/alpha cordoned\n"
    assert spec(nodes)["unschedulable"] is True
    assert nodes("get", "node", "alpha").lines[1].split()[1] == "Ready,SchedulingDisabled"
    assert nodes("cordon", "node/alpha").out == "node/alpha already cordoned\n"
    assert nodes("uncordon", "alpha", "beta").lines == ["node/alpha uncordoned", "node/beta already uncordoned"]
    assert not spec(nodes).get("unschedulable")
    assert nodes("cordon", "-l", "kubernetes.io/hostname=beta", "--dry-run=client").out == (
        "node/beta cordoned (dry run)\n"
    )
    assert not spec(nodes, "beta").get("unschedulable")


def test_nodes_that_are_not_there(nodes: Cli) -> None:
    some = nodes("cordon", "alpha", "gamma")
    assert (some.code, some.out, some.err) == (1, "node/alpha cordoned\n", 'error: nodes "gamma" not found\n')
    assert nodes("cordon", "-l", "a=b").err == "error: no nodes found\n"
    for wrong in (("cordon",), ("cordon", "alpha", "-l", "a=b"), ("cordon", "pod/x"), ("drain",), ("uncordon", "no/")):
        assert nodes(*wrong).code == 2


def test_taints(nodes: Cli) -> None:
    assert nodes("taint", "nodes", "alpha", "role=db:NoSchedule", "slow:NoExecute").out == "node/alpha tainted\n"
    assert spec(nodes)["taints"] == [
        {"key": "role", "value": "db", "effect": "NoSchedule"}, {"key": "slow", "effect": "NoExecute"},
    ]  # fmt: skip
    again = nodes("taint", "nodes", "alpha", "role=web:NoSchedule")
    assert (again.code, again.err) == (
        1, "error: node alpha already has role taint(s) with same effect(s) and --overwrite is false\n",
    )  # fmt: skip
    assert nodes("taint", "node", "alpha", "role=web:NoSchedule", "--overwrite").out == "node/alpha tainted\n"
    assert spec(nodes)["taints"][0]["value"] == "web"
    assert nodes("taint", "node", "alpha", "role=web:NoExecute", "slow-").out == "node/alpha modified\n"
    assert [each["effect"] for each in spec(nodes)["taints"]] == ["NoExecute", "NoSchedule"]
    assert nodes("taint", "node", "alpha", "role:NoExecute-").out == "node/alpha untainted\n"
    assert nodes("taint", "node", "alpha", "role-").out == "node/alpha untainted\n"
    assert "taints" not in spec(nodes)
    assert nodes("taint", "node", "alpha", "role-").err == 'error: node alpha: taint "role" not found\n'
    assert nodes("taint", "nodes", "--all", "role=db:NoSchedule").lines == ["node/alpha tainted", "node/beta tainted"]
    described = nodes("describe", "node", "alpha").out
    assert "Taints:             role=db:NoSchedule" in described


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nodes", "alpha"), "at least one taint update is required"),
        (("nodes", "alpha", "a=b"), "invalid taint spec: a=b"),
        (("nodes", "alpha", "a=b:Never"), "invalid taint effect: Never"),
        (("nodes", "alpha", "a=b c:NoSchedule"), "invalid taint spec"),
        (("nodes", "alpha", "a:NoSchedule", "a=b:NoSchedule"), "duplicated taints"),
        (("nodes", "alpha", "a:NoSchedule", "a-"), "can not both modify and remove"),
        (("nodes", "a:NoSchedule", "alpha"), "all resources must be specified before taint changes: alpha"),
        (("nodes", "a:NoSchedule"), "name the objects"),
    ],
)
def test_taints_that_are_none(nodes: Cli, arguments: tuple[str, ...], problem: str) -> None:
    wrong = nodes("taint", *arguments)
    assert (wrong.code, wrong.out) == (2, "")
    assert problem in wrong.err


def test_only_nodes_have_taints(nodes: Cli) -> None:
    nodes("create", "configmap", "x")
    assert nodes("taint", "cm", "x", "a:NoSchedule").err == "error: configmaps have no taints, nodes have\n"


# ---- drain ----------------------------------------------------------------------------------------------------------


def test_what_a_drain_leaves_alone(nodes: Cli, store: Path) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    (daemons,) = seed(
        store,
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "agent"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
        },
    )
    seed(
        store,
        pod("agent-1", node="alpha", owners=owned_by(daemons)),
        pod("cache", node="alpha", owners=owned_by(daemons)[:0], spec={"volumes": [{"name": "v", "emptyDir": {}}]}),
        pod("bare", node="alpha"),
        pod("done", node="alpha", status={"phase": "Succeeded"}),
        pod("mirror", node="alpha", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}),
        pod("elsewhere", node="beta"),
    )
    refused = nodes("drain", "alpha")
    assert (refused.code, refused.out) == (1, "node/alpha cordoned\n")
    reasons = [
        "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore): default/agent-1",
        "cannot delete Pods that declare no controller (use --force to override): default/bare, default/cache",
        "cannot delete Pods with local storage (use --delete-emptydir-data to override): default/cache",
    ]
    assert refused.err.splitlines() == [
        f'error: unable to drain node "alpha" due to error: [{", ".join(reasons)}], continuing command...',
        "There are pending nodes to be drained:",
        " alpha",
        *(f"error: {reason}" for reason in reasons),
    ]
    options = ("--ignore-daemonsets", "--force", "--delete-emptydir-data")
    tried = nodes("drain", "alpha", *options, "--dry-run=client")
    assert tried.lines == [
        "node/alpha already cordoned",
        "evicting pod default/bare (dry run)",
        "evicting pod default/cache (dry run)",
        "evicting pod default/done (dry run)",
        "node/alpha drained (dry run)",
    ]
    some = nodes("drain", "alpha", *options, "--pod-selector=none=such")
    assert some.lines == ["node/alpha already cordoned", "node/alpha drained"]
    drained = nodes("drain", "alpha", *options, "--grace-period=0", "--timeout=20s")
    assert drained.code == 0
    assert drained.err == (
        "Warning: deleting Pods that declare no controller: default/bare, default/cache; "
        "deleting Pods with local storage: default/cache; ignoring DaemonSet-managed Pods: default/agent-1\n"
    )
    assert sorted(drained.lines) == sorted(
        [
            "node/alpha already cordoned",
            *(f"evicting pod default/{name}" for name in ("bare", "cache", "done")),
            *(f"pod/{name} evicted" for name in ("bare", "cache", "done")),
            "node/alpha drained",
        ]
    )
    assert drained.lines[-1] == "node/alpha drained"
    assert nodes("get", "pods", "-o", "name").lines == ["pod/agent-1", "pod/elsewhere", "pod/mirror"]


BUDGET = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "web"},
    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    "status": {
        "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
    },
}  # fmt: skip


def test_a_budget_is_asked_again_until_it_allows_the_eviction(
    store: Path, nodes: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(draining, "RETRY", 0.05)
    seed(store, pod("web-1", node="alpha", metadata={"labels": {"app": "web"}}), BUDGET)
    late = nodes("drain", "alpha", "--force", "--grace-period=0", "--timeout=1s")
    assert late.code == 1
    refused = (
        'error when evicting pods/"web-1" -n "default" (will retry after 0.05s): '
        "Cannot evict pod as it would violate the pod's disruption budget."
    )
    told = late.err.splitlines()
    assert told[1] == refused
    assert told[-6:] == [
        'There are pending pods in node "alpha" when an error occurred: drain did not complete within 1s',
        "pod/web-1",
        'error: unable to drain node "alpha" due to error: drain did not complete within 1s, continuing command...',
        "There are pending nodes to be drained:",
        " alpha",
        "error: drain did not complete within 1s",
    ]
    assert late.lines.count("evicting pod default/web-1") > 1

    async def allow() -> None:
        async with open_store(str(store)) as client:
            objects = ObjectClient(client)
            budget = await objects.get(PodDisruptionBudget, "web", "default")
            budget.raw["status"]["disruptionsAllowed"] = 1
            await objects.update_status(budget)

    asyncio.run(allow())
    assert nodes("drain", "alpha", "--force", "--grace-period=0").lines[-2:] == [
        "pod/web-1 evicted",
        "node/alpha drained",
    ]


def test_a_drain_that_does_not_ask_budgets(nodes: Cli, store: Path) -> None:
    seed(store, pod("web-1", node="alpha", metadata={"labels": {"app": "web"}}), BUDGET)
    done = nodes("drain", "alpha", "--force", "--grace-period=0", "--disable-eviction")
    assert done.lines == [
        "node/alpha cordoned", "deleting pod default/web-1", "pod/web-1 deleted", "node/alpha drained",
    ]  # fmt: skip


def test_a_drain_waits_until_the_pod_is_gone(nodes: Cli, store: Path) -> None:
    seed(store, pod("slow", node="alpha", spec={"terminationGracePeriodSeconds": 60}))
    late = nodes("drain", "alpha", "--force", "--timeout=500ms")
    assert late.code == 1
    assert "error: drain did not complete within 0s" not in late.err
    assert 'There are pending pods in node "alpha"' in late.err

    async def deleting() -> bool:
        async with open_store(str(store)) as client:
            found = await ObjectClient(client).get(Pod, "slow", "default")
            return found.metadata.deletion_timestamp is not None

    assert asyncio.run(deleting())


async def test_another_pod_that_has_the_name_by_now_is_let_be(tmp_path: Path) -> None:
    """As the next of a StatefulSet's."""
    tried = asyncio.Event()
    async with open_store(str(tmp_path / "other")) as client:
        objects = ObjectClient(client)

        async def made(name: str) -> Pod:
            return await objects.create(Pod.from_raw(pod(name, node="alpha")))

        async def take(each: Pod) -> None:
            if each.name == "last":
                await tried.wait()
            try:
                await objects.delete(Pod, each.name, "default", uid=each.metadata.uid, grace_seconds=0)
            finally:
                tried.set()

        old, last = await made("db-0"), await made("last")
        await objects.delete(Pod, "db-0", "default", grace_seconds=0)
        new = await made("db-0")
        await draining.Draining(Session(client, objects, Kinds()), [old, last], take, "deleted").run("alpha", 5.0)
        assert [*await objects.list(Pod, "default")] == [new]


def test_options_of_drain_are_checked(nodes: Cli) -> None:
    for wrong in (("--grace-period=-2",), ("--timeout=soon",), ("--dry-run=yes",)):
        assert nodes("drain", "alpha", *wrong).code == 2
    assert nodes("drain", "gamma").err == 'error: nodes "gamma" not found\n'
    assert run(["drain", "--help"]) == 0
