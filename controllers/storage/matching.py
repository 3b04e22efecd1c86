"""Which volume fits a claim, and whether a pod's claims let it run. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from controllers.core.quantities import scaled
from controllers.core.types import PersistentVolumeClaim
from controllers.storage.types import PersistentVolume
from informer.cache import Stored
from informer.selectors import Selector

Raw = dict[str, Any]

NO_PROVISIONER = "kubernetes.io/no-provisioner"

_CLAIM = b'"persistentVolumeClaim"'


def problem_of(volume: PersistentVolume, claim: PersistentVolumeClaim) -> str:
    """Why this volume cannot be the claim's, "" if it can. Whether it is free is another question."""
    has, wants = volume.raw["spec"], claim.raw["spec"]
    if size_of(volume) < requested(claim):
        return "requested PV is too small"
    if (has.get("storageClassName") or "") != (wants.get("storageClassName") or ""):
        return "storageClassName does not match"
    if has.get("volumeMode", "Filesystem") != wants.get("volumeMode", "Filesystem"):
        return "incompatible volumeMode"
    if not set(wants.get("accessModes") or ()) <= set(has.get("accessModes") or ()):
        return "incompatible accessMode"
    return ""


def best(volumes: Iterable[PersistentVolume], claim: PersistentVolumeClaim) -> PersistentVolume | None:
    """Of the free volumes that fit the smallest, by name where that is not clear. One that was made for this claim is
    preferred, and one for another never taken."""
    selector = claim.raw["spec"].get("selector")
    wanted = Selector.everything() if selector is None else Selector.of(selector)
    found: list[tuple[bool, int, str, PersistentVolume]] = []
    for volume in volumes:
        reference = volume.raw["spec"].get("claimRef")
        ours = reference is not None and refers_to(reference, claim)
        if volume.deleting or problem_of(volume, claim) or (reference is not None and not ours):
            continue
        if ours or wanted.matches(volume.metadata.labels):
            found.append((not ours, size_of(volume), volume.name, volume))
    return min(found, key=lambda each: each[:3])[3] if found else None


def refers_to(reference: Raw, claim: PersistentVolumeClaim) -> bool:
    """Whether a volume's claimRef means this claim; one without a uid means whoever has the name."""
    named = (reference.get("namespace"), reference.get("name")) == (claim.namespace, claim.name)
    return named and reference.get("uid") in (None, "", claim.metadata.uid)


def size_of(volume: PersistentVolume) -> int:
    """In bytes."""
    return scaled(volume.raw["spec"]["capacity"]["storage"])


def requested(claim: PersistentVolumeClaim) -> int:
    """In bytes."""
    return scaled(claim.raw["spec"]["resources"]["requests"]["storage"])


# ---- pods -----------------------------------------------------------------------------------------------------------


class _Source(msgspec.Struct, rename="camel"):
    claim_name: str = ""


class _Volume(msgspec.Struct, rename="camel"):
    persistent_volume_claim: _Source | None = None


class _Spec(msgspec.Struct, rename="camel"):
    volumes: list[_Volume] | None = None


class _Pod(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decode = msgspec.json.Decoder(_Pod).decode


def claims_of(pod: bytes) -> list[str]:
    """The names of the claims that a stored pod uses. A pod without any costs one search in its bytes."""
    if _CLAIM not in pod:
        return []
    volumes = _decode(pod).spec.volumes or ()
    return [each.persistent_volume_claim.claim_name for each in volumes if each.persistent_volume_claim is not None]


class _Metadata(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None


class _ClaimSpec(msgspec.Struct, rename="camel"):
    volume_name: str = ""
    storage_class_name: str | None = None
    selector: msgspec.Raw = msgspec.Raw()


class _Status(msgspec.Struct):
    phase: str = ""


class _Claim(msgspec.Struct):
    metadata: _Metadata
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _Status = msgspec.field(default_factory=_Status)


class _Class(msgspec.Struct, rename="camel"):
    provisioner: str = ""
    volume_binding_mode: str = "Immediate"


_decode_claim = msgspec.json.Decoder(_Claim).decode
_decode_class = msgspec.json.Decoder(_Class).decode

Lookup = Callable[[str], Stored | None]


def unmet_claim(names: Iterable[str], claim: Lookup, volume: Lookup, storage_class: Lookup) -> str:
    """Why a pod that uses these claims cannot be scheduled, in kube-scheduler's words; "" if it can.

    claim: one of the pod's namespace by its name. volume, storage_class: one by its name.
    """
    for name in names:
        stored = claim(name)
        if stored is None:
            return f'persistentvolumeclaim "{name}" not found'
        found = _decode_claim(stored.data)
        if found.metadata.deletion_timestamp is not None:
            return f'persistentvolumeclaim "{name}" is being deleted'
        if found.status.phase == "Lost":
            return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{found.spec.volume_name}"'
        if found.status.phase != "Bound":
            if problem := _unbound(found.spec, storage_class):
                return problem
        elif volume(found.spec.volume_name) is None:
            return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{found.spec.volume_name}"'
    return ""


def _unbound(claim: _ClaimSpec, storage_class: Lookup) -> str:
    """Why a pod waits for this claim. It does not if the claim waits for the pod, and its volume will be made."""
    stored = storage_class(claim.storage_class_name or "")
    found = _decode_class(stored.data) if stored is not None else _Class()
    if claim.volume_name or found.volume_binding_mode != "WaitForFirstConsumer":
        return "pod has unbound immediate PersistentVolumeClaims"
    if claim.selector or found.provisioner == NO_PROVISIONER:
        return "node(s) didn't find available persistent volumes to bind"
    return ""
