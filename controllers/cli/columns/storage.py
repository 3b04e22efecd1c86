"""Volumes, claims and storage classes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.raw import UNSET, Raw, access_modes, age_of, dig, is_deleting, mapping, name_of, text, texts

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def volume_status(raw: Raw, unknown: str) -> str:
    """The phase of a volume or claim."""
    return "Terminating" if is_deleting(raw) else text(raw, "status", "phase", otherwise=unknown)


def claim_text(raw: Raw) -> str:
    """The claim that a volume is bound to, `namespace/name`."""
    claim = mapping(raw, "spec", "claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _volume(raw: Raw, now: datetime) -> Sequence[str]:
    return (
        name_of(raw),
        text(raw, "spec", "capacity", "storage"),
        access_modes(texts(raw, "spec", "accessModes")),
        text(raw, "spec", "persistentVolumeReclaimPolicy"),
        volume_status(raw, "Available"),
        claim_text(raw),
        text(raw, "spec", "storageClassName"),
        text(raw, "spec", "volumeAttributesClassName", otherwise=UNSET),
        text(raw, "status", "reason"),
        age_of(raw, now),
        text(raw, "spec", "volumeMode", otherwise="Filesystem"),
    )


def _claim(raw: Raw, now: datetime) -> Sequence[str]:
    # Until it is bound a claim has neither capacity nor modes to show, whatever it asks for.
    bound = bool(dig(raw, "spec", "volumeName"))
    return (
        name_of(raw),
        volume_status(raw, "Pending"),
        text(raw, "spec", "volumeName"),
        text(raw, "status", "capacity", "storage") if bound else "",
        access_modes(texts(raw, "status", "accessModes")) if bound else "",
        text(raw, "spec", "storageClassName"),
        text(raw, "spec", "volumeAttributesClassName", otherwise=UNSET),
        age_of(raw, now),
        text(raw, "spec", "volumeMode", otherwise="Filesystem"),
    )


def _storage_class(raw: Raw, now: datetime) -> Sequence[str]:
    default = dig(raw, "metadata", "annotations", _DEFAULT_CLASS) == "true"
    return (
        f"{name_of(raw)} (default)" if default else name_of(raw),
        text(raw, "provisioner"),
        text(raw, "reclaimPolicy", otherwise="Delete"),
        text(raw, "volumeBindingMode", otherwise="Immediate"),
        "true" if dig(raw, "allowVolumeExpansion") else "false",
        age_of(raw, now),
    )


COLUMNS = {
    "persistentvolumes": Columns(
        (
            "NAME",
            "CAPACITY",
            "ACCESS MODES",
            "RECLAIM POLICY",
            "STATUS",
            "CLAIM",
            "STORAGECLASS",
            "VOLUMEATTRIBUTESCLASS",
            "REASON",
            "AGE",
            "VOLUMEMODE",
        ),
        _volume,
        wide=("VOLUMEMODE",),
    ),
    "persistentvolumeclaims": Columns(
        (
            "NAME",
            "STATUS",
            "VOLUME",
            "CAPACITY",
            "ACCESS MODES",
            "STORAGECLASS",
            "VOLUMEATTRIBUTESCLASS",
            "AGE",
            "VOLUMEMODE",
        ),
        _claim,
        wide=("VOLUMEMODE",),
    ),
    "storageclasses.storage.k8s.io": Columns(
        ("NAME", "PROVISIONER", "RECLAIMPOLICY", "VOLUMEBINDINGMODE", "ALLOWVOLUMEEXPANSION", "AGE"), _storage_class
    ),
}
