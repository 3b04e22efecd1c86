"""Where the HorizontalPodAutoscaler has its metrics from: a protocol for anybody's, and those of simulated nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from controllers.autoscaling.algorithm import Sample
from controllers.autoscaling.usage import PERIOD, RESOURCES, PodUsage, metrics_of
from controllers.core.quantities import scaled
from controllers.core.types import ConfigMap, Pod
from controllers.manager import Manager
from informer.errors import ApiError, Invalid
from informer.resources import SCHEME
from informer.selectors import Selector

EXTERNAL = "external-metrics"  # the ConfigMap of a namespace that has its external metrics


class MetricsUnavailable(Exception):
    """There is no such metric, or nobody answers; the text says which."""


class MetricsSource(Protocol):
    """What the metrics APIs of Kubernetes tell: resource, custom and external metrics.

    Values are whole thousandths: 250 is 250m. Every method may raise MetricsUnavailable; the autoscaler tells of it and
    tries again after its period. It is called on the manager's loop, and cancelled when the manager stops.
    """

    async def resource(
        self, namespace: str, selector: Selector, name: str, container: str = ""
    ) -> Mapping[str, Sample]:
        """metrics.k8s.io: what the selected pods use of a resource, by the pod's name; of one container if it is
        named. Pods of which nothing is known are left out."""
        ...

    async def pods(
        self, namespace: str, selector: Selector, metric: str, metric_selector: Selector | None = None
    ) -> Mapping[str, Sample]:
        """custom.metrics.k8s.io: a metric of the selected pods, by the pod's name."""
        ...

    async def object(
        self, namespace: str, api_version: str, kind: str, name: str, metric: str, selector: Selector | None = None
    ) -> int:
        """custom.metrics.k8s.io: a metric of one object."""
        ...

    async def external(self, namespace: str, metric: str, selector: Selector | None = None) -> Sequence[int]:
        """external.metrics.k8s.io: the values of all series of a metric; they are added up."""
        ...


class SimulatedMetrics:
    """The metrics that users write into annotations, see `controllers.autoscaling.usage`; external ones are the data of
    the ConfigMap `external-metrics` of the namespace, `queue-length: "30"`."""

    def __init__(self, manager: Manager, usage: PodUsage) -> None:
        self._manager = manager
        self._usage = usage

    async def resource(
        self, namespace: str, selector: Selector, name: str, container: str = ""
    ) -> Mapping[str, Sample]:
        """See `MetricsSource`. Nodes here know of cpu and memory."""
        if name not in RESOURCES:
            raise MetricsUnavailable(f"no metrics known for resource {name}")
        return self._samples(namespace, selector, name, container)

    async def pods(
        self, namespace: str, selector: Selector, metric: str, metric_selector: Selector | None = None
    ) -> Mapping[str, Sample]:
        """See `MetricsSource`. Selectors of metrics select nothing here: there is one series of each."""
        return self._samples(namespace, selector, metric)

    async def object(
        self, namespace: str, api_version: str, kind: str, name: str, metric: str, selector: Selector | None = None
    ) -> int:
        """See `MetricsSource`."""
        try:
            cls = SCHEME.by_gvk(api_version or "v1", kind)
            found = await self._manager.client.get(cls, name, namespace if cls.TYPE.namespaced else None)
        except ApiError as error:
            raise MetricsUnavailable(str(error)) from error
        values = metrics_of(found, self._manager.now())
        if metric not in values:
            raise MetricsUnavailable(f'the server could not find the metric {metric} for {cls.TYPE.qualified} "{name}"')
        return values[metric]

    async def external(self, namespace: str, metric: str, selector: Selector | None = None) -> Sequence[int]:
        """See `MetricsSource`."""
        try:
            found = await self._manager.client.get(ConfigMap, EXTERNAL, namespace)
            text = found.data[metric]
        except (ApiError, KeyError):
            raise MetricsUnavailable(f"no external metric {metric} found") from None
        try:
            return [scaled(text, 1000)]
        except Invalid as error:
            raise MetricsUnavailable(f"the external metric {metric} is {error.problem}") from error

    def _samples(self, namespace: str, selector: Selector, name: str, container: str = "") -> Mapping[str, Sample]:
        now = self._manager.now()
        samples = {}
        for stored in self._manager.informer(Pod).cache.list(namespace, selector=selector):
            used = self._usage.of(stored, now, container)
            if name in used:
                samples[stored.name] = Sample(used[name], now, PERIOD)
        return samples
