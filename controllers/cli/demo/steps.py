"""The steps of the demo: each does something and then checks what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from controllers.apps.deployment.arithmetic import fenceposts
from controllers.apps.deployment.revisions import revision_of
from controllers.apps.deployment.rollback import replica_set_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.cli.columns.nodes import node_status
from controllers.cli.demo.manifests import find_manifests
from controllers.cli.demo.runner import Step, StepFailed, Tell
from controllers.cli.demo.world import World
from controllers.cli.editing import edit
from controllers.cli.errors import CliError
from controllers.cli.manifests import Checked, check_manifests, read_manifests
from controllers.cli.rollout.status import rollout_status
from controllers.core.types import Node, Pod
from controllers.owners import is_controlled_by
from informer.cache import Stored
from informer.reflector import HEALTHY_AFTER, State
from informer.selectors import Selector
from informer.shared import Handler

NGINX = "nginx-deployment"
NEW_IMAGE = "nginx:1.16.1"
PATIENCE = 9.0  # seconds for anything that pods have to do; on an idle machine it takes one to four

# ---- 1: manifests ---------------------------------------------------------------------------------------------------


async def apply_manifests(world: World, tell: Tell) -> None:
    """Manifests become running pods, and nothing of them is lost on the way."""
    session = world.session
    manifests = read_manifests([str(find_manifests())])
    checked = check_manifests(manifests, session.kinds, None)
    for each in checked:
        await session.objects.apply(each.object)
    for each in checked:
        await _check_kept(world, each)
    files = len({manifest.source for manifest in manifests})
    await tell(f"{len(checked)} objects from {files} files stored, every field of them kept")
    await world.until("every deployment available", lambda: _all_rolled_out(world), PATIENCE)
    pods = world.all(Pod)
    for deployment in world.all(Deployment):
        for pod in _pods_of(world, deployment):
            _check_contains(pod.raw["spec"], deployment.raw["spec"]["template"]["spec"], f"pod {pod.name}: spec")
    nodes = len({pod.spec.node_name for pod in pods})
    await tell(f"{len(world.all(Deployment))} deployments available: {len(pods)} pods on {nodes} nodes")


async def _check_kept(world: World, checked: Checked) -> None:
    obj = checked.object
    stored = await world.session.objects.get(type(obj), obj.name, obj.namespace)
    wanted = {key: value for key, value in checked.manifest.raw.items() if key != "stringData"}
    _check_contains(stored.raw, wanted, str(checked.manifest))


def _check_contains(found: Any, wanted: Any, where: str) -> None:
    """Raise StepFailed where something of `wanted` is missing in `found`, which may have more."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            if key not in found and value not in ({}, [], None):
                raise StepFailed(f"{where}.{key} is lost")
            _check_contains(found.get(key, value), value, f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) <= len(found):
        for index, (left, right) in enumerate(zip(found, wanted, strict=False)):
            _check_contains(left, right, f"{where}[{index}]")
    elif found != wanted:
        raise StepFailed(f"{where} is {found!r}, the manifest said {wanted!r}")


# ---- 2 to 4: scale, roll out, undo ----------------------------------------------------------------------------------


async def scale_up(world: World, tell: Tell) -> None:
    """Three replicas become six."""
    await _scale(world, 6)
    await world.until("6 nginx pods ready", lambda: _ready_exactly(world, 6), PATIENCE)
    await tell("3 replicas became 6")


async def roll_out(world: World, tell: Tell) -> None:
    """A new image, within the limits of surge and unavailability."""
    await _check_rollout(world, tell, NEW_IMAGE, lambda: _set_image(world, NEW_IMAGE))


async def undo_rollout(world: World, tell: Tell) -> None:
    """Back to the image before."""
    deployment = world.deployment(NGINX)
    sets = [each for each in world.all(ReplicaSet) if is_controlled_by(each, deployment)]
    before = replica_set_of(sets)
    image = before.spec.template.spec.containers[0].image

    async def go_back() -> None:
        await edit(world.session, deployment, lambda obj: undo(obj, before))

    await _check_rollout(world, tell, image, go_back)
    await tell(f"revision {revision_of(before)} is back, as revision {revision_of(world.deployment(NGINX))}")


async def _check_rollout(world: World, tell: Tell, image: str, start: Callable[[], Awaitable[None]]) -> None:
    deployment = world.deployment(NGINX)
    replicas = deployment.spec.replicas
    rolling = deployment.spec.strategy.rolling_update
    assert rolling is not None, "the API's defaults fill it in"
    surge, unavailable = fenceposts(rolling.max_surge, rolling.max_unavailable, replicas)
    extremes = _Extremes(world, deployment)
    stop = world.add_pod_handler(extremes)
    try:
        await start()
        await world.until(f"every nginx pod with {image}", lambda: _runs(world, image, replicas), PATIENCE)
    finally:
        stop()
    most, least = extremes.most, extremes.least
    if most > replicas + surge or least < replicas - unavailable:
        raise StepFailed(
            f"{most} pods and {least} available, allowed were {replicas + surge} and {replicas - unavailable}"
        )
    if most == replicas:
        raise StepFailed("no pod was started before an old one went, though maxSurge allows it")
    await tell(f"never more than {most} pods ({replicas} + surge {surge})")
    await tell(f"never fewer than {least} available ({replicas} - unavailable {unavailable})")


class _Extremes(Handler):
    """The most pods and the fewest ready ones that a Deployment has at any moment."""

    def __init__(self, world: World, deployment: Deployment) -> None:
        self._world = world
        self._deployment = deployment
        self.most = self.least = deployment.spec.replicas

    def on_add(self, new: Stored, initial: bool) -> None:
        self._look()

    def on_update(self, old: Stored, new: Stored) -> None:
        self._look()

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._look()

    def _look(self) -> None:
        pods = _pods_of(self._world, self._deployment)
        self.most = max(self.most, len(pods))
        self.least = min(self.least, sum(pod.ready for pod in pods))


# ---- 5 and 6: faults of the connection ------------------------------------------------------------------------------


async def cut_connections(world: World, tell: Tell) -> None:
    """The network goes away and comes back: informers resume where they were, and miss nothing."""
    before = world.watchers()
    await _go_dark(world, tell)
    await _scale(world, 4)
    await tell(f"meanwhile scaled to 4 at revision {world.revision}; nobody saw it")
    world.link.up()
    await world.until("every informer watching again", lambda: _all_in(world, State.WATCHING), PATIENCE)
    after = world.watchers()
    for name, informer in after.items():
        if informer.reflector.resumes <= before[name].reflector.resumes:
            raise StepFailed(f"the informer of {name} did not resume")
        if informer.reflector.relists > before[name].reflector.relists:
            raise StepFailed(f"the informer of {name} listed again, though nothing was compacted")
    await tell(f"{len(after)} informers RESUMED after the revision they had seen; none listed again")
    await world.until("4 nginx pods ready", lambda: _ready_exactly(world, 4), PATIENCE)
    await tell("and the missed change was made good: 4 pods")


async def compact_history(world: World, tell: Tell) -> None:
    """While the informers are away their place in the history is compacted: only a list can help them."""
    before = world.watchers()
    await _go_dark(world, tell)
    await _scale(world, 5)
    await _annotate(world)
    await world.session.client.compact(world.revision)
    await tell(f"meanwhile scaled to 5, and all history before revision {world.revision} compacted")
    world.link.up()
    await world.until("every informer watching again", lambda: _all_in(world, State.WATCHING), PATIENCE)
    after = world.watchers()
    for name, informer in after.items():
        if informer.reflector.relists <= before[name].reflector.relists:
            raise StepFailed(f"the informer of {name} did not list again")
    await tell(f"{len(after)} informers found their revision gone and RELISTED")
    await world.until("5 nginx pods ready", lambda: _ready_exactly(world, 5), PATIENCE)
    await tell("and the missed change was made good: 5 pods")


async def _go_dark(world: World, tell: Tell) -> None:
    # A watch that breaks as soon as it stands makes its informer wait longer each time; that is not what is shown here.
    await world.until("every watch of some age", lambda: _all_settled(world), PATIENCE)
    broken = await world.link.down()
    await world.until("every informer RESUMING", lambda: _all_in(world, State.RESUMING), PATIENCE)
    connections = "1 connection" if broken == 1 else f"{broken} connections"
    await tell(f"{connections} cut; {len(world.watchers())} informers RESUMING")


def _all_settled(world: World) -> bool:
    oldest = asyncio.get_running_loop().time() - HEALTHY_AFTER
    return _all_in(world, State.WATCHING) and all(each.reflector.since < oldest for each in world.watchers().values())


def _all_in(world: World, state: State) -> bool:
    return all(informer.reflector.state is state for informer in world.watchers().values())


# ---- 7: a node ------------------------------------------------------------------------------------------------------


async def kill_node(world: World, tell: Tell) -> None:
    """A node falls silent: its pods come up elsewhere."""
    by_node: dict[str, int] = {}
    for pod in world.all(Pod):
        by_node[pod.spec.node_name] = by_node.get(pod.spec.node_name, 0) + 1
    victim = max(world.workloads.nodes.names, key=lambda name: by_node.get(name, 0))
    world.workloads.nodes.kill(victim)
    await tell(f"{victim} is dead, with {by_node[victim]} pods")

    def lost() -> bool:
        return any(node.name == victim and node_status(node.raw) != "Ready" for node in world.all(Node))

    await world.until(f"{victim} NotReady", lost, PATIENCE)
    await tell(f"its heartbeats are missed: {victim} is NotReady")

    def moved() -> bool:
        return all(pod.spec.node_name != victim for pod in world.all(Pod)) and _all_rolled_out(world)

    await world.until(f"no pod on {victim}, and every deployment available", moved, PATIENCE)
    await tell(f"its pods were replaced on the {len(by_node) - 1} others")


# ---- what they share ------------------------------------------------------------------------------------------------


async def _scale(world: World, replicas: int) -> None:
    await world.session.objects.patch(Deployment, NGINX, {"spec": {"replicas": replicas}}, "default")


async def _annotate(world: World) -> None:
    """One more change, so that even who saw the one before it has missed something."""
    note = {"metadata": {"annotations": {"listwatch.dev/demo": "compacted"}}}
    await world.session.objects.patch(Deployment, NGINX, note, "default")


async def _set_image(world: World, image: str) -> None:
    def change(obj: Deployment) -> bool:
        obj.spec.template.spec.containers[0].image = image
        return True

    await edit(world.session, world.deployment(NGINX), change)


def _pods_of(world: World, deployment: Deployment) -> list[Pod]:
    """Its pods that are not on their way out."""
    selector = Selector.of(deployment.spec.selector)
    return [pod for pod in world.all(Pod) if not pod.deleting and selector.matches(pod.metadata.labels)]


def _over(deployment: Deployment) -> bool:
    try:
        return rollout_status(deployment)[1]
    except CliError as error:
        raise StepFailed(str(error)) from None


def _all_rolled_out(world: World) -> bool:
    deployments = world.all(Deployment)
    return bool(deployments) and all(_over(each) and each.spec.replicas == _ready(world, each) for each in deployments)


def _ready(world: World, deployment: Deployment) -> int:
    return sum(pod.ready for pod in _pods_of(world, deployment))


def _ready_exactly(world: World, replicas: int) -> bool:
    deployment = world.deployment(NGINX)
    pods = [pod for pod in world.all(Pod) if Selector.of(deployment.spec.selector).matches(pod.metadata.labels)]
    settled = deployment.spec.replicas == replicas and _over(deployment)
    return settled and len(pods) == replicas and all(pod.ready for pod in pods)


def _runs(world: World, image: str, replicas: int) -> bool:
    pods = _pods_of(world, world.deployment(NGINX))
    return _ready_exactly(world, replicas) and all(pod.spec.containers[0].image == image for pod in pods)


STEPS: Sequence[Step[World]] = (
    Step("apply examples/manifests", apply_manifests),
    Step(f"scale {NGINX} to 6", scale_up),
    Step(f"roll out {NEW_IMAGE}", roll_out),
    Step("undo the rollout", undo_rollout),
    Step("cut the watch connections", cut_connections),
    Step("compact the store under informers that are away", compact_history),
    Step("kill a node", kill_node),
)
