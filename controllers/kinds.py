"""The built-in kinds, all of them: importing this module registers them."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import ControllerRevision, Deployment, ReplicaSet
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.batch.types import CronJob, Job
from controllers.core.limits import LimitRange, ResourceQuota
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import (
    ConfigMap,
    Event,
    Lease,
    Namespace,
    Node,
    PersistentVolumeClaim,
    Pod,
    Secret,
    Service,
    ServiceAccount,
)
from controllers.discovery.types import Endpoints, EndpointSlice
from controllers.policy.types import PodDisruptionBudget
from controllers.storage.types import PersistentVolume, StorageClass
from informer.resources import Resource

BUILTIN_KINDS: Sequence[type[Resource]] = (
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    ControllerRevision,
    Job,
    CronJob,
    HorizontalPodAutoscaler,
    Pod,
    Node,
    Namespace,
    Service,
    Endpoints,
    EndpointSlice,
    ConfigMap,
    Secret,
    ServiceAccount,
    PersistentVolumeClaim,
    PersistentVolume,
    StorageClass,
    PodDisruptionBudget,
    PriorityClass,
    ResourceQuota,
    LimitRange,
    Lease,
    Event,
)
