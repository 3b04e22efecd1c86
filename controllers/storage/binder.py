"""Binding claims to volumes: a free volume that fits, else one that is made; and what becomes of it afterwards.

Kubernetes' persistent volume controller, an external provisioner and an external resizer in one, for volumes that are
simulated: one is made by writing it down. A volume's claimRef is written first, and decides; whatever is missing after
that is done by the next run, so that a crash in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from controllers.context import Context
from controllers.core.events import EventBroadcaster, EventType
from controllers.core.quantities import scaled
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.finalizers import add_finalizer, has_finalizer, remove_finalizer
from controllers.manager import Manager
from controllers.reconcile import Request
from controllers.storage.classes import STANDARD, default_class, default_of
from controllers.storage.matching import NO_PROVISIONER, best, problem_of, refers_to, requested, size_of
from controllers.storage.protection import CLAIM_FINALIZER, VOLUME_FINALIZER, UsersOfClaims
from controllers.storage.types import PersistentVolume, StorageClass
from informer import patch
from informer.cache import Stored
from informer.errors import AlreadyExists, Conflict

WORKERS = 10  # as many calls as an external provisioner has to its store at once; Kubernetes' own is alone

CLAIMS = "persistentvolumeclaim-binder"

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
PROVISIONER = "volume.kubernetes.io/storage-provisioner"

# Indexes: free volumes and claims that wait, by class; volumes by their claim.
FREE = "free volumes"
OF_CLAIM = "volumes of a claim"
WAITING = "claims that wait"

Raw = dict[str, Any]


class _Reference(msgspec.Struct):
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    claim_ref: _Reference | None = None
    storage_class_name: str | None = None
    volume_name: str = ""


class _Status(msgspec.Struct):
    phase: str = ""


class _Object(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Object).decode


def _free(stored: Stored) -> tuple[str, ...]:
    found = _decode(stored.data)
    return (found.spec.storage_class_name or "",) if found.spec.claim_ref is None else ()


def _of_claim(stored: Stored) -> tuple[str, ...]:
    reference = _decode(stored.data).spec.claim_ref
    return (f"{reference.namespace}/{reference.name}",) if reference is not None else ()


def _waiting(stored: Stored) -> tuple[str, ...]:
    found = _decode(stored.data)
    return (found.spec.storage_class_name or "",) if found.status.phase == "Pending" else ()


class VolumeBinder:
    """Finds or makes volumes for claims, and takes back those whose claims are gone."""

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("persistentvolume-controller")
        self._provisioner = events.recorder("simulated-provisioner")
        self._users = UsersOfClaims(manager, CLAIMS)

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(PersistentVolume, FREE, _free)
        manager.add_index(PersistentVolume, OF_CLAIM, _of_claim)
        manager.add_index(PersistentVolumeClaim, WAITING, _waiting)
        manager.add_controller(
            PersistentVolumeClaim,
            self.reconcile_claim,
            watches={PersistentVolume: self._claims_for, StorageClass: self._claims_of_class},
            reads=[Pod],
            workers=WORKERS,
            name=CLAIMS,
        )
        manager.add_controller(
            PersistentVolume,
            self.reconcile_volume,
            watches={PersistentVolumeClaim: self._volumes_of},
            workers=WORKERS,
            name="persistentvolume-binder",
        )

    # ---- whom an event concerns --------------------------------------------------------------------------------------

    def _claims_for(self, stored: Stored) -> Iterable[Request]:
        """The claim that a volume is for; of a free one, those that wait for such a volume."""
        found = _decode(stored.data)
        if found.spec.claim_ref is not None:
            return (Request(found.spec.claim_ref.namespace, found.spec.claim_ref.name),)
        return self._waiting_for(found.spec.storage_class_name or "")

    def _claims_of_class(self, stored: Stored) -> Iterable[Request]:
        return (*self._waiting_for(stored.name), *self._waiting_for(""))

    def _waiting_for(self, name: str) -> list[Request]:
        waiting = self._manager.informer(PersistentVolumeClaim).cache.by_index(WAITING, name)
        return [Request(each.namespace, each.name) for each in waiting]

    def _volumes_of(self, stored: Stored) -> Iterable[Request]:
        name = _decode(stored.data).spec.volume_name
        volumes = self._manager.informer(PersistentVolume).cache.by_index(OF_CLAIM, f"{stored.namespace}/{stored.name}")
        return [Request("", each) for each in {each.name for each in volumes} | ({name} if name else set())]

    # ---- claims ------------------------------------------------------------------------------------------------------

    async def reconcile_claim(self, ctx: Context, request: Request) -> None:
        """One sync of a claim."""
        claim = ctx.get(PersistentVolumeClaim, request)
        if claim is None:
            self._users.forget(request)
            return
        if claim.deleting:
            await self._release(ctx, claim)
            return
        if add_finalizer(claim, CLAIM_FINALIZER):
            claim = await ctx.update(claim)
        if claim.metadata.annotations.get(BIND_COMPLETED):
            await self._check_bound(ctx, claim)
        elif claim.spec.volume_name:
            await self._bind_wished(ctx, claim)
        else:
            await self._find(ctx, claim)

    async def _release(self, ctx: Context, claim: PersistentVolumeClaim) -> None:
        """Let a claim go that nobody uses."""
        if has_finalizer(claim, CLAIM_FINALIZER):
            self._users.wait_for(ctx.request)
            if await self._users.in_use(ctx, claim):
                return
            remove_finalizer(claim, CLAIM_FINALIZER)
            await ctx.update(claim)
        self._users.forget(ctx.request)

    async def _find(self, ctx: Context, claim: PersistentVolumeClaim) -> None:
        """A volume for a claim that does not say which."""
        if claim.spec.storage_class_name is None:
            named = await self._with_default(ctx, claim)
            if named is None:
                return
            claim = named
        name = claim.spec.storage_class_name or ""
        storage_class = ctx.get(StorageClass, name, "") if name else None
        key = f"{claim.namespace}/{claim.name}"
        made_for_it = ctx.list(PersistentVolume, index=(OF_CLAIM, key))
        volume = best([*made_for_it, *ctx.list(PersistentVolume, index=(FREE, name))], claim)
        lazy = storage_class is not None and storage_class.volume_binding_mode == "WaitForFirstConsumer"
        if lazy and not made_for_it and self._waits_for_pod(ctx, claim):
            return
        if volume is not None:
            await self._bind(ctx, volume, claim)
        elif not name:
            text = "no persistent volumes available for this claim and no storage class is set"
            self._tell(claim, "Normal", "FailedBinding", text)
        elif storage_class is None and name == STANDARD:
            await self._provision(ctx, claim, await self._make_standard(ctx))
        elif storage_class is None:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            self._tell(claim, "Warning", "ProvisioningFailed", text)
        else:
            await self._provision(ctx, claim, storage_class)

    async def _with_default(self, ctx: Context, claim: PersistentVolumeClaim) -> PersistentVolumeClaim | None:
        """The claim with the class of claims that name none."""
        found = default_of(ctx.list(StorageClass))
        if found is None:
            if ctx.get(StorageClass, STANDARD, "") is not None:
                # Somebody has taken it as the default: then there is none.
                text = "no persistent volumes available for this claim and no storage class is set"
                self._tell(claim, "Normal", "FailedBinding", text)
                return None
            found = await self._make_standard(ctx)
        claim.spec.storage_class_name = found.name
        return await ctx.update(claim)

    @staticmethod
    async def _make_standard(ctx: Context) -> StorageClass:
        """The class that a cluster comes with, made when it is first wanted."""
        try:
            return await ctx.create(default_class())
        except AlreadyExists:
            raise Conflict(f"the storage class {STANDARD} was made just now") from None

    def _waits_for_pod(self, ctx: Context, claim: PersistentVolumeClaim) -> bool:
        self._users.wait_for(ctx.request)
        if self._users.has_any(ctx, claim):
            self._users.forget(ctx.request)
            return False
        self._tell(claim, "Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        return True

    async def _bind_wished(self, ctx: Context, claim: PersistentVolumeClaim) -> None:
        """The claim says which volume it is to be."""
        volume = ctx.get(PersistentVolume, claim.spec.volume_name, "")
        if volume is None:
            text = f'volume "{claim.spec.volume_name}" not found'
            self._tell(claim, "Warning", "FailedBinding", text)
            return
        reference = volume.raw["spec"].get("claimRef")
        if reference is not None and not refers_to(reference, claim):
            text = f'volume "{volume.name}" already bound to a different claim.'
            self._tell(claim, "Warning", "FailedBinding", text)
        elif problem := problem_of(volume, claim):
            text = f'Cannot bind to requested volume "{volume.name}": {problem}'
            self._tell(claim, "Warning", "VolumeMismatch", text)
        else:
            await self._bind(ctx, volume, claim)

    async def _bind(self, ctx: Context, volume: PersistentVolume, claim: PersistentVolumeClaim) -> None:
        """Write down on both sides that they belong together; the volume's side decides."""
        reference = volume.raw["spec"].get("claimRef")
        if reference is None or reference.get("uid") != claim.metadata.uid:
            if reference is None:
                volume.metadata.annotations[BOUND_BY_CONTROLLER] = "yes"
            volume.raw["spec"]["claimRef"] = _reference_to(claim)
            volume = await ctx.update(volume)
        if volume.status.phase != "Bound":
            volume.raw["status"] = {"phase": "Bound"}
            volume = await ctx.update_status(volume)
        if claim.spec.volume_name != volume.name:
            claim.spec.volume_name = volume.name
            claim.metadata.annotations[BOUND_BY_CONTROLLER] = "yes"
        claim.metadata.annotations[BIND_COMPLETED] = "yes"
        claim = await ctx.update(claim)
        await self._tell_bound(ctx, claim, volume)

    async def _tell_bound(self, ctx: Context, claim: PersistentVolumeClaim, volume: PersistentVolume) -> None:
        before: Raw = claim.raw.get("status") or {}
        status: Raw = {**before, "phase": "Bound", "accessModes": volume.raw["spec"]["accessModes"]}
        # Once it is bound, the capacity follows the volume's by resizing.
        if before.get("phase") != "Bound" or not before.get("capacity"):
            status["capacity"] = volume.raw["spec"]["capacity"]
        if not patch.equal(status, before):
            claim.raw["status"] = status
            await ctx.update_status(claim)

    async def _provision(self, ctx: Context, claim: PersistentVolumeClaim, storage_class: StorageClass) -> None:
        """Make a volume for the claim. Its name follows from the claim's uid: a second one cannot be."""
        provisioner = storage_class.provisioner
        if provisioner == NO_PROVISIONER:
            text = f"no volume plugin matched name: {provisioner}"
            self._tell(claim, "Warning", "ProvisioningFailed", text)
            return
        if claim.raw["spec"].get("selector"):
            text = (
                f'failed to provision volume with StorageClass "{storage_class.name}": claim Selector is not supported'
            )
            self._tell(claim, "Warning", "ProvisioningFailed", text)
            return
        name = f"pvc-{claim.metadata.uid}"
        volume = _made_for(claim, storage_class, name)
        if claim.metadata.annotations.get(PROVISIONER) != provisioner:
            claim.metadata.annotations[PROVISIONER] = provisioner
            claim = await ctx.update(claim)
            text = f'External provisioner is provisioning volume for claim "{claim.namespace}/{claim.name}"'
            self._provisioner.event(claim, "Normal", "Provisioning", text)
        try:
            volume = await ctx.create(volume)
        except AlreadyExists:
            found = await ctx.fetch(PersistentVolume, name, "")
            if found is None:
                raise Conflict(f"the volume {name} came and went") from None
            volume = found
        else:
            text = f"Successfully provisioned volume {name}"
            self._provisioner.event(claim, "Normal", "ProvisioningSucceeded", text)
        await self._bind(ctx, volume, claim)

    async def _check_bound(self, ctx: Context, claim: PersistentVolumeClaim) -> None:
        """Whether a claim that was bound still has its volume."""
        name = claim.spec.volume_name
        if not name:
            await self._lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume.")
            return
        volume = ctx.get(PersistentVolume, name, "") or await ctx.fetch(PersistentVolume, name, "")
        if volume is None:
            await self._lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume.")
            return
        reference = volume.raw["spec"].get("claimRef")
        if reference is not None and not refers_to(reference, claim):
            text = "Two claims are bound to the same volume, this one is bound incorrectly"
            await self._lose(ctx, claim, "ClaimMisbound", text, data=False)
        elif reference is None or not reference.get("uid") or claim.status.phase != "Bound":
            await self._bind(ctx, volume, claim)
        else:
            await self._resize(ctx, claim, volume)

    async def _lose(
        self, ctx: Context, claim: PersistentVolumeClaim, reason: str, text: str, *, data: bool = True
    ) -> None:
        if claim.status.phase == "Lost":
            return
        self._tell(claim, "Warning", reason, f"{text} Data on the volume is lost!" if data else text)
        claim.raw["status"] = {"phase": "Lost"}
        await ctx.update_status(claim)

    async def _resize(self, ctx: Context, claim: PersistentVolumeClaim, volume: PersistentVolume) -> None:
        """More storage for a claim that asks for more than it has: first the volume grows, then the claim says so."""
        wanted = claim.raw["spec"]["resources"]["requests"]["storage"]
        if requested(claim) <= scaled((claim.raw["status"].get("capacity") or {}).get("storage", 0)):
            return
        if size_of(volume) < requested(claim):
            storage_class = ctx.get(StorageClass, claim.spec.storage_class_name or "", "")
            if storage_class is None or not storage_class.allow_volume_expansion:
                text = (
                    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc "
                    "must support resize"
                )
                self._tell(claim, "Warning", "VolumeResizeFailed", text)
                return
            self._provisioner.event(claim, "Normal", "Resizing", f"External resizer is resizing volume {volume.name}")
            volume.raw["spec"]["capacity"] = {**volume.raw["spec"]["capacity"], "storage": wanted}
            await ctx.update(volume)
        claim.raw["status"]["capacity"] = {**(claim.raw["status"].get("capacity") or {}), "storage": wanted}
        await ctx.update_status(claim)
        self._provisioner.event(claim, "Normal", "VolumeResizeSuccessful", "Resize volume succeeded")

    # ---- volumes -----------------------------------------------------------------------------------------------------

    async def reconcile_volume(self, ctx: Context, request: Request) -> None:
        """One sync of a volume."""
        volume = ctx.get(PersistentVolume, request)
        if volume is None:
            return
        if volume.deleting and volume.status.phase != "Bound":
            if remove_finalizer(volume, VOLUME_FINALIZER):
                await ctx.update(volume)
            return
        if not volume.deleting and add_finalizer(volume, VOLUME_FINALIZER):
            volume = await ctx.update(volume)
        reference = volume.raw["spec"].get("claimRef")
        if reference is None or not reference.get("uid"):
            await self._phase(ctx, volume, "Available")
            return
        claim = await self._claim_of(ctx, reference)
        if claim is None:
            await self._reclaim(ctx, volume)
        elif claim.spec.volume_name == volume.name:
            await self._phase(ctx, volume, "Bound")
        elif claim.spec.volume_name:
            # The claim has got another one.
            await self._give_up(ctx, volume)

    async def _claim_of(self, ctx: Context, reference: Raw) -> PersistentVolumeClaim | None:
        name, namespace = reference["name"], reference["namespace"]
        claim = ctx.get(PersistentVolumeClaim, name, namespace)
        if claim is None or claim.metadata.uid != reference["uid"]:
            # The cache may be behind, and what is given up is gone.
            claim = await ctx.fetch(PersistentVolumeClaim, name, namespace)
        return claim if claim is not None and claim.metadata.uid == reference["uid"] else None

    async def _reclaim(self, ctx: Context, volume: PersistentVolume) -> None:
        """The claim is gone: do with the volume as its policy says."""
        if volume.status.phase == "Failed":
            return
        volume = await self._phase(ctx, volume, "Released")
        policy = volume.spec.persistent_volume_reclaim_policy
        if policy == "Retain" or volume.deleting:
            return
        if policy == "Delete" and volume.metadata.annotations.get(PROVISIONED_BY):
            await ctx.delete(PersistentVolume, volume.name, "", uid=volume.metadata.uid)
            return
        if policy == "Delete":
            reason, text = (
                "VolumeFailedDelete",
                "error getting deleter volume plugin for volume: no volume plugin matched",
            )
        else:
            reason, text = "VolumeFailedRecycle", "No recycler plugin found for the volume!"
        self._recorder.event(volume, "Warning", reason, text)
        volume.raw["status"] = {"phase": "Failed", "reason": reason, "message": text}
        await ctx.update_status(volume)

    async def _give_up(self, ctx: Context, volume: PersistentVolume) -> None:
        if volume.metadata.annotations.get(PROVISIONED_BY):
            await self._reclaim(ctx, volume)
            return
        if volume.metadata.annotations.get(BOUND_BY_CONTROLLER):
            del volume.raw["spec"]["claimRef"]
            del volume.metadata.annotations[BOUND_BY_CONTROLLER]
        else:
            # A user has put it there: the name stays, for the next claim of that name.
            del volume.raw["spec"]["claimRef"]["uid"]
        volume = await ctx.update(volume)
        await self._phase(ctx, volume, "Available")

    async def _phase(self, ctx: Context, volume: PersistentVolume, phase: str) -> PersistentVolume:
        if volume.status.phase == phase:
            return volume
        volume.raw["status"] = {"phase": phase}
        return await ctx.update_status(volume)

    def _tell(self, claim: PersistentVolumeClaim, kind: EventType, reason: str, text: str) -> None:
        self._recorder.event(claim, kind, reason, text)


def _reference_to(claim: PersistentVolumeClaim) -> Raw:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace,
        "name": claim.name,
        "uid": claim.metadata.uid,
    }


def _made_for(claim: PersistentVolumeClaim, storage_class: StorageClass, name: str) -> PersistentVolume:
    wanted, provisioner = claim.raw["spec"], storage_class.provisioner
    spec: Raw = {
        "capacity": {"storage": wanted["resources"]["requests"]["storage"]},
        "accessModes": wanted["accessModes"],
        "persistentVolumeReclaimPolicy": storage_class.reclaim_policy,
        "storageClassName": storage_class.name,
        "volumeMode": wanted.get("volumeMode", "Filesystem"),
        "claimRef": _reference_to(claim),
        "csi": {"driver": provisioner, "volumeHandle": name},
    }
    if storage_class.mount_options:
        spec["mountOptions"] = list(storage_class.mount_options)
    return PersistentVolume.from_raw(
        {
            "metadata": {
                "name": name,
                "annotations": {PROVISIONED_BY: provisioner},
                "finalizers": [VOLUME_FINALIZER],
            },
            "spec": patch.copy(spec),
        }
    )
