"""Volumes, claims and storage classes."""

from __future__ import annotations

from controllers.cli.columns.storage import claim_text, volume_status
from controllers.cli.describers.parts import conditions, finalizers, head, labels, noted
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import NONE, UNSET, Raw, access_modes, dig, items, mapping, name_of, text, texts

# What of a volume's spec says what it is made of: all but these.
_NO_SOURCE = frozenset(
    {
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    }
)


def _volume(page: Page, raw: Raw, related: Related) -> None:
    page.field("Name", name_of(raw))
    labels(page, raw)
    finalizers(page, raw)
    page.field("StorageClass", text(raw, "spec", "storageClassName"))
    page.field("Status", volume_status(raw, "Available"))
    page.field("Claim", claim_text(raw))
    page.field("Reclaim Policy", text(raw, "spec", "persistentVolumeReclaimPolicy"))
    page.field("Access Modes", access_modes(texts(raw, "spec", "accessModes")))
    page.field("VolumeMode", text(raw, "spec", "volumeMode", otherwise="Filesystem"))
    page.field("Capacity", text(raw, "spec", "capacity", "storage"))
    affinity = mapping(raw, "spec", "nodeAffinity")
    if affinity:
        with page.section("Node Affinity"):
            page.tree(affinity)
    else:
        page.field("Node Affinity", NONE)
    page.field("Message", text(raw, "status", "message"))
    with page.section("Source"):
        for kind, details in mapping(raw, "spec").items():
            if kind not in _NO_SOURCE:
                page.field("Type", kind[:1].upper() + kind[1:])
                page.tree(details if isinstance(details, dict) else {kind: details})


def _claim(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.field("StorageClass", text(raw, "spec", "storageClassName"))
    page.field("Status", volume_status(raw, "Pending"))
    page.field("Volume", text(raw, "spec", "volumeName"))
    labels(page, raw)
    finalizers(page, raw)
    bound = bool(dig(raw, "spec", "volumeName"))
    page.field("Capacity", text(raw, "status", "capacity", "storage") if bound else "")
    page.field("Access Modes", access_modes(texts(raw, "status", "accessModes")) if bound else "")
    page.field("VolumeMode", text(raw, "spec", "volumeMode", otherwise="Filesystem"))
    page.many(
        "Used By",
        [name_of(pod) for pod in related.within("pods", dig(raw, "metadata", "namespace")) if _uses(pod, raw)],
    )
    conditions(page, raw, ("Type", "Status", "LastTransitionTime", "Reason", "Message"))


def _uses(pod: Raw, claim: Raw) -> bool:
    if dig(pod, "status", "phase") in ("Succeeded", "Failed"):
        return False
    return any(
        dig(each, "persistentVolumeClaim", "claimName") == name_of(claim) for each in items(pod, "spec", "volumes")
    )


def _storage_class(page: Page, raw: Raw, related: Related) -> None:
    page.field("Name", name_of(raw))
    default = dig(raw, "metadata", "annotations", "storageclass.kubernetes.io/is-default-class") == "true"
    page.field("IsDefaultClass", "Yes" if default else "No")
    noted(page, raw)
    page.field("Provisioner", text(raw, "provisioner"))
    page.field("Parameters", ",".join(f"{key}={value}" for key, value in sorted(mapping(raw, "parameters").items())))
    expands = dig(raw, "allowVolumeExpansion")
    page.field("AllowVolumeExpansion", UNSET if expands is None else str(bool(expands)))
    page.many("MountOptions", texts(raw, "mountOptions"))
    page.field("ReclaimPolicy", text(raw, "reclaimPolicy", otherwise="Delete"))
    page.field("VolumeBindingMode", text(raw, "volumeBindingMode", otherwise="Immediate"))


BY_KIND: dict[str, Describer] = {
    "persistentvolumes": _volume,
    "persistentvolumeclaims": _claim,
    "storageclasses.storage.k8s.io": _storage_class,
}
