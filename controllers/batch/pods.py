"""The pods of a Job: what decides about them, and how they are made."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from controllers.batch.types import JOB_NAME_LABEL, Job
from controllers.core.pods import PodView
from controllers.core.types import Pod
from controllers.handlers import controller_owner
from controllers.owners import set_controller_reference
from informer import patch
from informer.cache import OwnerRef, Stored

TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"  # a label as well
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
FAILURES_ANNOTATION = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES_ANNOTATION = "batch.kubernetes.io/job-index-ignored-failure-count"

TRACKED_INDEX = "tracked for a job"
_LONGEST_BASE = 58  # of a name to be generated
_TRACKING_BYTES = f'"{TRACKING_FINALIZER}"'.encode()

Raw = dict[str, Any]

owning_job = controller_owner(Job.TYPE)


def is_tracked(stored: Stored) -> bool:
    """Whether the object bears the finalizer. O(its size), without decoding it unless its text has it."""
    return _TRACKING_BYTES in stored.data and decode_pod(stored).tracked


def tracked_for(stored: Stored) -> str:
    """The name of the Job that a pod with the finalizer is or was of, "" if it does not say."""
    owned = owning_job(stored)
    for request in owned:
        return request.name
    return stored.meta.labels.get(JOB_NAME_LABEL, "")


def tracked_index(stored: Stored) -> tuple[str, ...]:
    """Finds pods with the finalizer by `namespace/name` of their Job."""
    if _TRACKING_BYTES not in stored.data or not (name := tracked_for(stored)):
        return ()
    return (f"{stored.namespace}/{name}",)


class Terminated(msgspec.Struct, gc=False, rename="camel"):
    """How a container ended."""

    exit_code: int = 0
    finished_at: datetime | None = None


class _State(msgspec.Struct, gc=False):
    terminated: Terminated | None = None


class JobContainer(msgspec.Struct, gc=False, rename="camel"):
    """How a container does."""

    name: str = ""
    restart_count: int = 0
    state: _State | None = None

    @property
    def terminated(self) -> Terminated | None:
        """How it ended, if it has."""
        return self.state.terminated if self.state is not None else None


class JobPodCondition(msgspec.Struct, gc=False, rename="camel"):
    """A condition of a pod."""

    type: str = ""
    status: str = ""
    reason: str = ""
    last_transition_time: datetime | None = None


class _Status(msgspec.Struct, gc=False, rename="camel"):
    phase: str = ""
    conditions: list[JobPodCondition] | None = None
    container_statuses: list[JobContainer] | None = None
    init_container_statuses: list[JobContainer] | None = None


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[OwnerRef] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class JobPod(PodView, gc=False, kw_only=True):
    """A pod of a Job at one revision, to be read only."""

    metadata: _Metadata  # type: ignore[assignment]
    status: _Status = msgspec.field(default_factory=_Status)  # type: ignore[assignment]

    @property
    def tracked(self) -> bool:
        """Whether its end has yet to be counted."""
        return TRACKING_FINALIZER in (self.metadata.finalizers or ())

    @property
    def index(self) -> int | None:
        """Which completion it is for."""
        return _number(self.metadata.annotations, INDEX_ANNOTATION)

    @property
    def failures(self) -> int:
        """How many pods of its index failed before it and counted."""
        return _number(self.metadata.annotations, FAILURES_ANNOTATION) or 0

    @property
    def failures_in_all(self) -> int:
        """The same with those that a pod failure policy ignored."""
        return self.failures + (_number(self.metadata.annotations, IGNORED_FAILURES_ANNOTATION) or 0)

    @property
    def containers(self) -> list[JobContainer]:
        """All of them, in the order in which Kubernetes looks at them."""
        return [*(self.status.container_statuses or ()), *(self.status.init_container_statuses or ())]

    @property
    def ended_for_good(self) -> bool:
        """Whether it is being deleted and nobody is left who would tell how it ends: no node ever had it, or it was
        lost."""
        return self.deleting and not self.metadata.deletion_grace_period_seconds

    def finish_time(self, now: datetime) -> datetime:
        """When it ended: its last container, else its readiness, else the request to delete it, else now."""
        ends = [each.terminated.finished_at for each in self.containers if each.terminated is not None]
        if ends and all(ends):
            return max(each for each in ends if each is not None)
        ready = self.condition("Ready")
        if ready is not None and ready.status == "False" and ready.last_transition_time is not None:
            return ready.last_transition_time
        asked = self.metadata.deletion_timestamp
        if asked is not None:
            return asked - timedelta(seconds=self.metadata.deletion_grace_period_seconds or 0)
        return now


_DECODER: Final = msgspec.json.Decoder(JobPod)


def decode_pod(stored: Stored) -> JobPod:
    """The view of a stored pod. Raises msgspec.ValidationError if a field does not fit."""
    return _DECODER.decode(stored.data)


def _number(annotations: dict[str, str] | None, name: str) -> int | None:
    text = (annotations or {}).get(name, "")
    return int(text) if text.isdecimal() else None


def pod_of(job: Job, index: int | None = None, failures: tuple[int, int] | None = None) -> Pod:
    """A pod of the Job's template, yet to be named.

    index: the completion it is for. failures: of earlier pods of its index, those that count and those that do not.
    """
    template = patch.copy(job.raw["spec"]["template"])
    described = template.get("metadata") or {}
    metadata = {field: described[field] for field in ("labels", "annotations", "finalizers") if described.get(field)}
    metadata["namespace"] = job.namespace
    metadata["generateName"] = f"{job.name}-"
    metadata["finalizers"] = [*metadata.get("finalizers", ()), TRACKING_FINALIZER]
    if index is not None:
        metadata["generateName"] = f"{job.name[: _LONGEST_BASE - len(f'-{index}-')]}-{index}-"
        metadata["annotations"] = {**metadata.get("annotations", {}), INDEX_ANNOTATION: str(index)}
        metadata["labels"] = {**metadata.get("labels", {}), INDEX_ANNOTATION: str(index)}
        template["spec"]["hostname"] = f"{job.name}-{index}"
        for field in ("containers", "initContainers"):
            for container in template["spec"].get(field) or ():
                _tell_index(container)
    if failures is not None:
        counted, ignored = failures
        metadata["annotations"][FAILURES_ANNOTATION] = str(counted)
        if ignored:
            metadata["annotations"][IGNORED_FAILURES_ANNOTATION] = str(ignored)
    pod = Pod.from_raw({"metadata": metadata, "spec": template["spec"]})
    set_controller_reference(job, pod)
    return pod


def _tell_index(container: Raw) -> None:
    variables = container.get("env") or []
    if any(each["name"] == INDEX_VARIABLE for each in variables):
        return
    source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX_ANNOTATION}']"}}
    container["env"] = [*variables, {"name": INDEX_VARIABLE, "valueFrom": source}]
