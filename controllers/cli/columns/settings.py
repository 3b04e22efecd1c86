"""Configuration, namespaces, and the other kinds with little to tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.raw import Raw, age_of, mapping, name_of, text


def _config_map(raw: Raw, now: datetime) -> Sequence[str]:
    size = len(mapping(raw, "data")) + len(mapping(raw, "binaryData"))
    return name_of(raw), str(size), age_of(raw, now)


def _secret(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), text(raw, "type", otherwise="Opaque"), str(len(mapping(raw, "data"))), age_of(raw, now)


def _service_account(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), str(len(raw.get("secrets") or [])), age_of(raw, now)


def _namespace(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), text(raw, "status", "phase", otherwise="Active"), age_of(raw, now)


def _lease(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), text(raw, "spec", "holderIdentity"), age_of(raw, now)


def _created(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), text(raw, "metadata", "creationTimestamp")


# Kinds for which kube-apiserver has no columns of their own show when they were made.
_CREATED = Columns(("NAME", "CREATED AT"), _created)

COLUMNS = {
    "configmaps": Columns(("NAME", "DATA", "AGE"), _config_map),
    "secrets": Columns(("NAME", "TYPE", "DATA", "AGE"), _secret),
    "serviceaccounts": Columns(("NAME", "SECRETS", "AGE"), _service_account),
    "namespaces": Columns(("NAME", "STATUS", "AGE"), _namespace),
    "leases.coordination.k8s.io": Columns(("NAME", "HOLDER", "AGE"), _lease),
    "limitranges": _CREATED,
    "customresourcedefinitions.apiextensions.k8s.io": _CREATED,
}
