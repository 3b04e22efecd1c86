"""The built-in controllers, put together: a manifest of a Deployment becomes running pods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from controllers.admission import CachedLookups, add_builtin_admission, open_namespace
from controllers.apps.daemonset.controller import DaemonSetController
from controllers.apps.deployment import DeploymentController
from controllers.apps.replicaset import ReplicaSetController
from controllers.apps.statefulset.controller import StatefulSetController
from controllers.autoscaling.controller import AutoscalerController
from controllers.autoscaling.metrics import MetricsSource, SimulatedMetrics
from controllers.autoscaling.usage import PodUsage
from controllers.batch.cronjob import CronJobController
from controllers.batch.job import JobController
from controllers.batch.ttl import TTLAfterFinished
from controllers.core.events import EventBroadcaster
from controllers.core.garbage import GarbageCollector
from controllers.core.namespaces import NamespaceController
from controllers.core.nodelifecycle import EVICTION_AFTER, NodeLifecycle
from controllers.core.nodes import GRACE, NodeOptions, SimulatedNodes
from controllers.core.quota import ResourceQuotaController
from controllers.core.scheduling.framework import Plugin
from controllers.core.scheduling.scheduler import Scheduler
from controllers.core.stages import Delay, read_stages
from controllers.core.types import Event
from controllers.discovery.addresses import ServiceAddresses
from controllers.discovery.backends import Backends
from controllers.discovery.endpoints import EndpointsController
from controllers.discovery.endpointslice import EndpointSliceController
from controllers.kinds import BUILTIN_KINDS
from controllers.manager import Manager
from controllers.policy.disruption import DisruptionController
from controllers.policy.stale import StaleDisruptionTargets
from controllers.storage.binder import VolumeBinder
from kvstore.api import Compare


class Workloads(msgspec.Struct, frozen=True):
    """The parts that `add_workloads` added, for statistics, and for breaking a node."""

    deployments: DeploymentController
    replica_sets: ReplicaSetController
    stateful_sets: StatefulSetController
    daemon_sets: DaemonSetController
    jobs: JobController
    cron_jobs: CronJobController
    scheduler: Scheduler
    nodes: SimulatedNodes
    node_lifecycle: NodeLifecycle
    namespaces: NamespaceController
    garbage: GarbageCollector
    events: EventBroadcaster


def add_workloads(
    manager: Manager,
    *,
    nodes: int = 3,
    stages: Sequence[str | Path] = (),
    pod_start_delay: Delay | None = None,
    pod_ready_delay: Delay | None = None,
    pod_delete_delay: Delay | None = None,
    pod_run_time: Delay | None = None,
    node_grace: float = GRACE,
    eviction_after: float = EVICTION_AFTER,
    metrics: MetricsSource | None = None,
    scheduler_plugins: Sequence[Plugin] | None = None,
) -> Workloads:
    """Add the controllers of workloads (Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs), Services,
    autoscalers, budgets, volumes, namespaces, quotas and the life of nodes, the scheduler, the garbage collector,
    admission and simulated nodes.

    nodes: how many, named node-1, node-2, ... stages: how pods behave on them: YAML files, directories of such, and the
    sets "general" (which is there unless "fast" is named), "fast" and "chaos"; StageError if they make no sense. Delays
    are in seconds, a pair is drawn from evenly, None leaves them to the stages: from bound to Running, from Running to
    Ready, from a deletion's request to the end, and from Ready to the end of a pod that ends by itself without saying
    when. node_grace: how long a node may be silent; eviction_after: how long its pods are
    kept after that. 0 delays make pods ready in one write. scheduler_plugins: the rules about where pods go, instead of
    `controllers.core.scheduling.default_plugins()`. metrics: what autoscalers go by, instead of what pods say about
    themselves.
    """
    events = manager.events
    options = NodeOptions(
        start_delay=pod_start_delay,
        ready_delay=pod_ready_delay,
        delete_delay=pod_delete_delay,
        run_time=pod_run_time,
        grace=node_grace,
    )
    workloads = Workloads(
        deployments=DeploymentController(manager, events),
        replica_sets=ReplicaSetController(manager, events),
        stateful_sets=StatefulSetController(manager, events),
        daemon_sets=DaemonSetController(manager, events),
        jobs=JobController(manager, events),
        cron_jobs=CronJobController(manager, events),
        scheduler=Scheduler(manager, events, scheduler_plugins),
        nodes=SimulatedNodes(manager, events, nodes, options, read_stages(stages)),
        node_lifecycle=NodeLifecycle(manager, events, grace=node_grace, eviction_after=eviction_after),
        namespaces=NamespaceController(manager),
        # Nothing owns an Event, and there are many.
        garbage=GarbageCollector(manager, events, [kind for kind in BUILTIN_KINDS if kind is not Event]),
        events=events,
    )
    workloads.deployments.register()
    workloads.replica_sets.register()
    workloads.stateful_sets.register()
    workloads.daemon_sets.register()
    workloads.jobs.register()
    TTLAfterFinished(manager).register()
    workloads.cron_jobs.register()
    DisruptionController(manager, events).register()
    StaleDisruptionTargets(manager).register()
    VolumeBinder(manager, events).register()
    backends = Backends(manager)
    backends.register()
    EndpointsController(manager, events, backends).register()
    EndpointSliceController(manager, events, backends).register()
    ServiceAddresses(manager, events).register()
    AutoscalerController(manager, events, metrics or SimulatedMetrics(manager, PodUsage(manager, backends))).register()
    workloads.namespaces.register()
    ResourceQuotaController(manager).register()
    workloads.garbage.register()
    workloads.node_lifecycle.register()
    workloads.scheduler.register()
    workloads.nodes.register()
    _admit(manager, eviction_after)
    return workloads


def _admit(manager: Manager, eviction_after: float) -> None:
    """Let the manager write as through kube-apiserver."""
    lookups = CachedLookups(manager)
    add_builtin_admission(manager.admission, lookups, toleration_seconds=eviction_after)

    async def conditions(namespace: str, live: bool) -> Sequence[Compare]:
        return await open_namespace(lookups, namespace, "events", live=live)

    manager.events.conditions = conditions
