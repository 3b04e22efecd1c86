"""The StatefulSet controller: it does what `plan` says, claims before pods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from controllers.apps.history import (
    STATEFUL_REVISION_HASH,
    claimed_revisions,
    template_of,
    truncate_history,
    update_revision,
)
from controllers.apps.statefulset import claims
from controllers.apps.statefulset.plan import Plan, Wish, make_plan
from controllers.apps.statefulset.pods import (
    StatefulPod,
    claim_name,
    decode_pod,
    is_intact,
    is_member,
    parent_and_ordinal,
    pod_name,
    pod_of,
    repair,
    templates_of,
)
from controllers.apps.statefulset.status import next_status
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import ControllerRevision
from controllers.claiming import claim, selecting
from controllers.context import Context
from controllers.core.events import EventBroadcaster, EventType
from controllers.core.pod_control import slow_start
from controllers.core.pods import CONTROLLER_INDEX, controller_index
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.decoded import Decoded
from controllers.handlers import controller_owner
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer import patch
from informer.cache import Stored
from informer.errors import AlreadyExists, ApiError, Conflict, NamespaceTerminating, NotFound

T = TypeVar("T")

WORKERS = 5  # kube-controller-manager's --concurrent-statefulset-syncs
IN_FLIGHT = 500  # its MaxBatchSize: pods that are made or deleted at once

_KIND = b'"StatefulSet"'
_owning_set = controller_owner(StatefulSet.TYPE)


class StatefulSetController:
    """Keeps the pods of StatefulSets: their number, order, names, claims and revisions."""

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("statefulset-controller")
        self._pods = Decoded(decode_pod)

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Pod, CONTROLLER_INDEX, controller_index)
        manager.add_index(ControllerRevision, CONTROLLER_INDEX, controller_index)
        manager.add_controller(
            StatefulSet,
            self.reconcile,
            watches={Pod: self._of_pod, PersistentVolumeClaim: self._of_claim},
            reads=[ControllerRevision],
            workers=WORKERS,
            name="statefulset",
        )

    def _of_pod(self, stored: Stored) -> Iterable[Request]:
        # Most pods are of other kinds: that costs no decoding.
        owners = stored.meta.raw_owner_references
        if owners and _KIND in bytes(owners) and (owned := _owning_set(stored)):
            return owned
        found = parent_and_ordinal(stored.name)
        if found is None or any(owner.controller for owner in stored.meta.owner_references):
            return ()
        parent = self._stored_set(stored.namespace, found[0])
        return selecting([parent], stored) if parent is not None else ()

    def _of_claim(self, stored: Stored) -> Iterable[Request]:
        """A claim that goes may be what a pod waits for. Its name ends with that of its pod."""
        found = parent_and_ordinal(stored.name)
        if found is not None:
            _, dash, name = found[0].partition("-")
            while dash:
                if self._stored_set(stored.namespace, name) is not None:
                    yield Request(stored.namespace, name)
                _, dash, name = name.partition("-")

    def _stored_set(self, namespace: str, name: str) -> Stored | None:
        return self._manager.informer(StatefulSet).cache.get(f"{namespace}/{name}")

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: claim pods and revisions, take the next steps, write the status, forget old revisions."""
        sts = ctx.get(StatefulSet, request)
        if sts is None:
            self._pods.forget(request)
            return None
        revisions = await claimed_revisions(ctx, sts, sts.spec.selector)

        def member(stored: Stored) -> bool:
            return is_member(sts, stored.name)

        pods = self._pods.of(request, await claim(ctx, sts, Pod, sts.spec.selector, only=member))
        try:
            after, failure = await _Sync(ctx, self._tell, sts, pods, revisions).run()
        except NamespaceTerminating:
            return None  # it takes nothing new any more, and its own end is near
        if failure is not None:
            raise failure
        return None if after is None else Result(requeue_after=after)

    def _tell(self, sts: StatefulSet, kind: EventType, reason: str, message: str) -> None:
        self._recorder.event(sts, kind, reason, message)


class _Sync:
    """One run for one StatefulSet."""

    def __init__(
        self,
        ctx: Context,
        tell: Callable[[StatefulSet, EventType, str, str], None],
        sts: StatefulSet,
        pods: Sequence[StatefulPod],
        revisions: Sequence[ControllerRevision],
    ) -> None:
        self._ctx = ctx
        self._tell = tell
        self._sts = sts
        self._pods = pods
        self._revisions = revisions
        self._deleted: set[str] = set()
        # Owner references of claims that are as the policy says: all claims have the same.
        self._settled: set[bytes] = set()

    async def run(self) -> tuple[float | None, ApiError | None]:
        """In how many seconds to look again, and what went wrong with pods."""
        ctx, sts, now = self._ctx, self._sts, self._ctx.now()
        failure: ApiError | None = None
        status = sts.status
        current, update, collisions = status.current_revision, status.update_revision, status.collision_count or 0
        if not sts.deleting:
            # A revision made for a StatefulSet that is going would only have to be collected with it.
            newest, collisions = await update_revision(
                ctx, sts, self._revisions, collisions, hash_label=STATEFUL_REVISION_HASH
            )
            update = newest.name
            known = {each.name: each for each in (*self._revisions, newest)}
            if current not in known:
                current = update
            templates = {name: template_of(known[name]) for name in {current, update}}
            wish = Wish.of(sts, current, update)
            try:
                await self._carry_out(wish, make_plan(wish, self._pods, self._is_stale, now), templates)
            except NamespaceTerminating:
                raise
            except ApiError as error:
                failure = error
        after = await self._write_status(current, update, collisions)
        if not sts.deleting:
            used = {current, update, *(pod.revision for pod in self._pods)}
            await truncate_history(ctx, self._revisions, used, sts.spec.revision_history_limit)
        return after, failure

    async def _carry_out(self, wish: Wish, plan: Plan, templates: Mapping[str, claims.Raw]) -> None:
        async def create(ordinal: int) -> None:
            revision = wish.revision_for(ordinal)
            await self._create(ordinal, pod_of(self._sts, ordinal, templates[revision], revision))

        for pod in plan.pending:
            await self._make_claims(pod.ordinal, pod)
        await _each(self._repair, [pod for pod in plan.repair if not self._is_as_it_should_be(pod)])
        await _each(self._delete, plan.restart)
        await _each(create, plan.create)
        for pod in plan.condemned:
            # Before the pod goes: with it goes the knowledge that its claims are to go too.
            await self._settle_owners(pod, wanted=False)
        await _each(self._delete, plan.remove)
        await _each(self._delete, plan.replace)

    # ---- pods ------------------------------------------------------------------------------------------------------

    async def _create(self, ordinal: int, pod: Pod) -> None:
        try:
            await self._make_claims(ordinal, None)
            await self._ctx.create(pod)
        except NamespaceTerminating:
            raise
        except AlreadyExists as error:
            # An earlier pod that goes, or somebody else's. Kubernetes tells nothing of it either.
            raise Conflict(str(error)) from None
        except ApiError as error:
            self._tell_pod("create", pod.name, error)
            raise
        self._tell_pod("create", pod.name)

    async def _delete(self, pod: StatefulPod) -> None:
        try:
            await self._ctx.delete(Pod, pod.name, self._sts.namespace, uid=pod.uid)
        except ApiError as error:
            self._tell_pod("delete", pod.name, error)
            raise
        self._deleted.add(pod.uid)
        self._tell_pod("delete", pod.name)

    async def _repair(self, pod: StatefulPod) -> None:
        """Put right what is not as it was made: its labels, its volumes, and who owns its claims."""
        try:
            if is_intact(self._sts, pod):
                changed = await self._settle_owners(pod, wanted=True)
            else:
                await self._make_claims(pod.ordinal, pod)
                changed = await self._update(pod)
        except ApiError as error:
            self._tell_pod("update", pod.name, error)
            raise
        if changed:
            self._tell_pod("update", pod.name)

    async def _update(self, pod: StatefulPod) -> bool:
        stored = self._ctx.get(Pod, pod.name, self._sts.namespace)
        if stored is None or stored.metadata.uid != pod.uid:
            return False
        repair(self._sts, stored)
        await self._ctx.update(stored)
        return True

    # ---- claims ----------------------------------------------------------------------------------------------------

    def _claim(self, template: claims.Raw, ordinal: int) -> PersistentVolumeClaim | None:
        name = claim_name(self._sts, template["metadata"]["name"], ordinal)
        return self._ctx.get(PersistentVolumeClaim, name, self._sts.namespace)

    def _is_stale(self, ordinal: int) -> bool:
        found = (self._claim(template, ordinal) for template in templates_of(self._sts))
        return any(each is not None and claims.is_stale(self._sts, each, ordinal) for each in found)

    async def _make_claims(self, ordinal: int, pod: StatefulPod | None) -> None:
        """Make those that are missing, and put right who owns the others. Raises Conflict if one is being deleted."""
        sts, name = self._sts, pod_name(self._sts, ordinal)
        for template in templates_of(sts):
            stored = self._claim(template, ordinal)
            if stored is None:
                made = claims.claim_of(sts, template, ordinal)
                try:
                    await self._ctx.create(made)
                except NamespaceTerminating:
                    raise
                except AlreadyExists as error:
                    raise Conflict(str(error)) from None
                except ApiError as error:
                    about = f"create Claim {made.name} for Pod {name} in StatefulSet {sts.name}"
                    self._tell(sts, "Warning", "FailedCreate", f"{about} failed error: {error}")
                    raise
                about = f"create Claim {made.name} Pod {name} in StatefulSet {sts.name} success"
                self._tell(sts, "Normal", "SuccessfulCreate", about)
            elif stored.deleting:
                raise Conflict(f"pvc {stored.name} is being deleted")
            else:
                await self._settle_owner(stored, pod, wanted=True)

    def _is_as_it_should_be(self, pod: StatefulPod) -> bool:
        """Whether a pod that is wanted has its identity, and its claims their owners. Decodes next to nothing: every
        run asks this of every pod."""
        sts, ordinal = self._sts, pod.ordinal
        if not is_intact(sts, pod):
            return False
        for template in templates_of(sts):
            name = claim_name(sts, template["metadata"]["name"], ordinal)
            stored = self._ctx.get_stored(PersistentVolumeClaim, name, sts.namespace)
            if stored is None:
                continue
            owners = bytes(stored.meta.raw_owner_references)
            if owners not in self._settled:
                found = PersistentVolumeClaim.decode(stored.data, stored.revision)
                if claims.wanted_references(sts, found, pod, wanted=True) != claims.references_of(found):
                    return False
                if not any(each.get("kind") == Pod.TYPE.kind for each in claims.references_of(found)):
                    self._settled.add(owners)
        return True

    async def _settle_owners(self, pod: StatefulPod, *, wanted: bool) -> bool:
        """Let the claims of a pod go with whom the retention policy says; whether that changed any."""
        found = [self._claim(template, pod.ordinal) for template in templates_of(self._sts)]
        return any([await self._settle_owner(each, pod, wanted=wanted) for each in found if each is not None])

    async def _settle_owner(self, stored: PersistentVolumeClaim, pod: StatefulPod | None, *, wanted: bool) -> bool:
        metadata = stored.raw["metadata"]
        references = claims.wanted_references(self._sts, stored, pod, wanted=wanted)
        if references == claims.references_of(stored):
            return False
        if claims.conflicting(self._sts, stored, pod):
            about = f"PersistentVolumeClaim {stored.name} has a conflicting OwnerReference that acts as a managing"
            text = f"{about} controller, the retention policy is ignored for this claim"
            self._tell(self._sts, "Warning", "ConflictingController", text)
        metadata.pop("ownerReferences", None)
        if references:
            metadata["ownerReferences"] = references
        try:
            await self._ctx.update(stored)
        except NotFound:
            return False
        return True

    # ---- what it tells ---------------------------------------------------------------------------------------------

    def _tell_pod(self, verb: str, name: str, error: ApiError | None = None) -> None:
        about = f"{verb} Pod {name} in StatefulSet {self._sts.name}"
        if error is None:
            self._tell(self._sts, "Normal", f"Successful{verb.title()}", f"{about} successful")
        else:
            self._tell(self._sts, "Warning", f"Failed{verb.title()}", f"{about} failed error: {error}")

    async def _write_status(self, current: str, update: str, collisions: int) -> float | None:
        """Write the status if it differs; in how many seconds the next pod becomes available by waiting."""
        sts = self._sts
        status, after = next_status(
            sts,
            self._pods,
            current=current,
            update=update,
            collisions=collisions,
            deleted=self._deleted,
            now=self._ctx.now(),
        )
        if not patch.equal(status, sts.raw.get("status") or {}):
            sts.raw["status"] = status
            await self._ctx.update_status(sts)
        return after


async def _each(step: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
    """Do it for all, 1, 2, 4, ... at once. Raises the first error, after those that were begun with it."""
    pending, gate = iter(items), asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with gate:
            await step(next(pending))

    failure = await slow_start(len(items), one)
    if failure is not None:
        raise failure
