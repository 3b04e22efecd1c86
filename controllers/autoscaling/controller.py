"""The HorizontalPodAutoscaler controller: every 15 s from metrics to the scale of a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec

from controllers.autoscaling import algorithm
from controllers.autoscaling.algorithm import (
    CannotCompute,
    History,
    PodState,
    Policy,
    Proposal,
    Rules,
    Sample,
    Tolerances,
)
from controllers.autoscaling.metrics import MetricsSource, MetricsUnavailable
from controllers.autoscaling.types import HorizontalPodAutoscaler
from controllers.conditions import set_status_condition
from controllers.context import Context
from controllers.core.events import EventBroadcaster, Recorder
from controllers.core.quantities import scaled
from controllers.core.types import Pod
from controllers.discovery.backends import PacedQueue
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer import patch
from informer.client import ObjectClient
from informer.codecs import format_time
from informer.crd import CustomResourceDefinition, resources_from_crd
from informer.errors import ApiError, Conflict, Invalid, UnknownKind, Unreachable
from informer.resources import SCHEME, Resource
from informer.scale import CurrentScale
from informer.selectors import Selector

WORKERS = 5  # kube-controller-manager's --concurrent-horizontal-pod-autoscaler-syncs
PERIOD = 15.0  # seconds; its --horizontal-pod-autoscaler-sync-period
_TRIES = 5  # to write a number to a target that others write to

Raw = dict[str, Any]


class AutoscalerController:
    """Scales the targets of HorizontalPodAutoscalers. metrics: where their metrics are from; period: seconds."""

    def __init__(
        self, manager: Manager, events: EventBroadcaster, metrics: MetricsSource, *, period: float = PERIOD
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("horizontal-pod-autoscaler")
        self._metrics = metrics
        self._period = period
        self._queue = PacedQueue()
        # uid and history of each: what was recommended and done.
        self._histories: dict[Request, tuple[str, History]] = {}

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(
            HorizontalPodAutoscaler,
            self.reconcile,
            reads=[Pod],
            workers=WORKERS,
            name="horizontalpodautoscaler",
            queue=lambda: self._queue,
        )

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync. Whatever triggers them, two of one autoscaler are a period apart."""
        hpa = ctx.get(HorizontalPodAutoscaler, request)
        if hpa is None or hpa.deleting:
            self._histories.pop(request, None)
            self._queue.forget_rest(request)
            return None
        self._queue.rest(request, self._period)
        sync = _Sync(self._manager, ctx, hpa, self._metrics, self._recorder, self._history(hpa, request))
        try:
            await sync.run()
        except ApiError as error:
            # Not before its time: a scale of which the answer was lost may have taken place.
            ctx.log.warning("autoscaling_failed", error=str(error), seconds=self._period)
        return Result(requeue_after=self._period)

    def _history(self, hpa: HorizontalPodAutoscaler, request: Request) -> History:
        uid, known = hpa.metadata.uid or "", self._histories.get(request)
        if known is None or known[0] != uid:
            history = History()
            if (last := hpa.status.last_scale_time) is not None:
                # Another process scaled, and what it remembers is gone: the policies' time has to pass first.
                rules = rules_of(hpa)
                periods = [policy.period for each in rules or () for policy in each.policies]
                history.unknown_until = last + timedelta(seconds=max(periods, default=self._period))
            known = self._histories[request] = (uid, history)
        return known[1]


class _NotScaled(Exception):
    """Why nothing can be decided: the conditions and events say it."""


class _Sync:
    """One run for one autoscaler."""

    def __init__(
        self,
        manager: Manager,
        ctx: Context,
        hpa: HorizontalPodAutoscaler,
        metrics: MetricsSource,
        recorder: Recorder,
        history: History,
    ) -> None:
        self._manager = manager
        self._ctx = ctx
        self._hpa = hpa
        self._metrics = metrics
        self._recorder = recorder
        self._history = history
        self._now = ctx.now()
        self._status: Raw = patch.copy(hpa.raw.get("status") or {})
        self._status.setdefault("conditions", [])
        self._current: list[Raw] = []
        self._rules = rules_of(hpa)
        given = [each.tolerance if each.tolerance is not None else algorithm.TOLERANCE for each in self._rules or ()]
        self._tolerances = Tolerances(up=given[0], down=given[1]) if given else algorithm.DEFAULT_TOLERANCES

    async def run(self) -> None:
        """Read the scale, decide, write the scale, and the status if it differs."""
        hpa, status = self._hpa, self._status
        target = hpa.spec.scale_target_ref
        if hpa.metadata.generation is not None:
            status["observedGeneration"] = hpa.metadata.generation
        try:
            cls = await self._target_class()
            scale = await self._client.get_scale(cls, target.name, hpa.namespace if cls.TYPE.namespaced else None)
        except (ApiError, UnknownKind) as error:
            problem = str(error)
            if isinstance(error, UnknownKind):
                group = target.api_version.rpartition("/")[0] if target.api_version else ""
                problem = f'no matches for kind "{target.kind}" in group "{group}"'
            self._event("Warning", "FailedGetScale", problem)
            message = f"the HPA controller was unable to get the target's current scale: {problem}"
            self._condition("AbleToScale", "False", "FailedGetScale", message)
            await self._write()
            return
        message = "the HPA controller was able to get the target's current scale"
        self._condition("AbleToScale", "True", "SucceededGetScale", message)
        current = scale.replicas
        status["currentReplicas"] = current
        if not self._history.recommendations:
            self._history.recommendations = [(self._now, current)]
        try:
            desired, reason = await self._decide(scale)
        except _NotScaled as error:
            status["desiredReplicas"] = status.get("desiredReplicas", 0)
            self._tell_metrics()
            await self._write()
            self._event("Warning", "FailedComputeMetricsReplicas", str(error))
            return
        unknown = self._history.unknown_until
        if desired != current and unknown is not None and self._now < unknown:
            desired = current
        status["desiredReplicas"] = desired
        self._tell_metrics()
        if desired != current:
            # Before the scale itself: a process that takes over has to know that there may have been one.
            status["lastScaleTime"] = format_time(self._now)
            await self._write()
            try:
                await self._scale(cls, scale, desired)
            except ApiError as error:
                if isinstance(error, Unreachable):
                    algorithm.note_scaled(current, desired, self._history, self._now, self._rules)
                self._event("Warning", "FailedRescale", f"New size: {desired}; reason: {reason}; error: {error}")
                message = f"the HPA controller was unable to update the target scale: {error}"
                self._condition("AbleToScale", "False", "FailedUpdateScale", message)
                status["desiredReplicas"] = current
                await self._write()
                raise
            message = f"the HPA controller was able to update the target scale to {desired}"
            self._condition("AbleToScale", "True", "SucceededRescale", message)
            self._event("Normal", "SuccessfulRescale", f"New size: {desired}; reason: {reason}")
            algorithm.note_scaled(current, desired, self._history, self._now, self._rules)
        await self._write()

    # ---- the target ------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("horizontal-pod-autoscaler")

    async def _target_class(self) -> type[Resource]:
        """The class of the target's kind, whether it is built in or defined in the store. Raises UnknownKind."""
        target = self._hpa.spec.scale_target_ref
        version = target.api_version or "v1"
        try:
            return SCHEME.by_gvk(version, target.kind)
        except UnknownKind:
            for definition in await self._manager.client.list(CustomResourceDefinition):
                if definition.raw["spec"]["names"]["kind"] != target.kind:
                    continue
                for cls in resources_from_crd(definition):
                    if cls.TYPE.api_version == version:
                        return cls
            raise

    async def _scale(self, cls: type[Resource], scale: CurrentScale, replicas: int) -> None:
        """Write the number, unless somebody has written another one meanwhile: that raises Conflict."""
        before = scale.replicas
        for _ in range(_TRIES):
            try:
                await self._client.update_scale(
                    cls, scale.name, replicas, scale.namespace, resource_version=scale.resource_version
                )
            except Conflict:
                scale = await self._client.get_scale(cls, scale.name, scale.namespace)
                if scale.replicas != before:
                    raise
            else:
                return
        raise Conflict(f"{cls.TYPE.qualified} {scale.name!r} keeps changing")

    # ---- the decision ----------------------------------------------------------------------------------------------

    async def _decide(self, scale: CurrentScale) -> tuple[int, str]:
        """How many there are to be, and why if that is another number. Raises _NotScaled."""
        spec, current = self._hpa.spec, scale.replicas
        least, most = spec.min_replicas, spec.max_replicas
        if current == 0 and least != 0:
            message = "scaling is disabled since the replica count of the target is zero"
            self._condition("ScalingActive", "False", "ScalingDisabled", message)
            return 0, ""
        if current > most:
            return most, "Current number of replicas above Spec.MaxReplicas"
        if current < least:
            return least, "Current number of replicas below Spec.MinReplicas"
        wanted, metric = await self._by_metrics(scale)
        limited = algorithm.limit(wanted, current, least, most, self._history, self._now, self._rules)
        self._condition("AbleToScale", *limited.able)
        self._condition("ScalingLimited", *limited.limited)
        return limited.replicas, f"{metric} above target" if wanted > current else "All metrics below target"

    async def _by_metrics(self, scale: CurrentScale) -> tuple[int, str]:
        """The most that one of the metrics asks for, and its name."""
        selector = self._selector(scale)
        best: tuple[int, str] | None = None
        failed: list[tuple[str, str, str]] = []
        specs: Sequence[Raw] = self._hpa.raw["spec"]["metrics"]
        for spec in specs:
            try:
                proposal, name, told = await self._by_metric(spec, scale, selector)
            except (CannotCompute, MetricsUnavailable, Invalid) as error:
                reason, (outer, inner) = _failure(spec)
                self._event("Warning", reason, f"{inner}{error}")
                message = f"the HPA was unable to compute the replica count: {inner}{error}"
                failed.append((reason, message, f"{outer}{inner}{error}"))
                continue
            self._current.append(told)
            if best is None or proposal.replicas > best[0]:
                best = (proposal.replicas, name)
        # One that fails may have asked for more: then there is no going down.
        if best is None or (failed and best[0] < scale.replicas):
            reason, message, first = failed[0]
            self._condition("ScalingActive", "False", reason, message)
            raise _NotScaled(f"invalid metrics ({len(failed)} invalid out of {len(specs)}), first error is: {first}")
        message = f"the HPA was able to successfully calculate a replica count from {best[1]}"
        self._condition("ScalingActive", "True", "ValidMetricFound", message)
        return best

    def _selector(self, scale: CurrentScale) -> Selector:
        if not scale.selector:
            self._event("Warning", "SelectorRequired", "selector is required")
            message = "the HPA target's scale is missing a selector"
            self._condition("ScalingActive", "False", "InvalidSelector", message)
            raise _NotScaled("selector is required")
        try:
            return Selector.parse(scale.selector)
        except Invalid as error:
            text = f"couldn't convert selector into a corresponding internal selector object: {error}"
            self._event("Warning", "InvalidSelector", text)
            self._condition("ScalingActive", "False", "InvalidSelector", text)
            raise _NotScaled(text) from error

    async def _by_metric(self, spec: Raw, scale: CurrentScale, selector: Selector) -> tuple[Proposal, str, Raw]:
        """What one metric asks for, its name, and what the status tells of it."""
        namespace = self._hpa.namespace or ""
        match spec["type"]:
            case "Resource" | "ContainerResource":
                return await self._by_resource(spec, scale, selector)
            case "Pods":
                source = spec["pods"]
                metric = source["metric"]
                samples = await self._metrics.pods(namespace, selector, metric["name"], _metric_selector(metric))
                goal = scaled(source["target"]["averageValue"], 1000)
                states = self._states(selector)
                proposal = algorithm.by_average(
                    scale.replicas, goal, states, samples, now=self._now, tolerances=self._tolerances
                )
                told = {"metric": metric, "current": {"averageValue": quantity(proposal.usage)}}
                return proposal, f"pods metric {metric['name']}", {"type": "Pods", "pods": told}
            case kind:
                return await self._by_other(kind, spec, scale, selector)

    async def _by_resource(self, spec: Raw, scale: CurrentScale, selector: Selector) -> tuple[Proposal, str, Raw]:
        contained = spec["type"] == "ContainerResource"
        field = "containerResource" if contained else "resource"
        source = spec[field]
        name, container, goal = source["name"], source.get("container", ""), source["target"]
        try:
            samples: Mapping[str, Sample] = await self._metrics.resource(
                self._hpa.namespace or "", selector, name, container
            )
        except MetricsUnavailable as error:
            raise MetricsUnavailable(f"unable to get metrics for resource {name}: {error}") from error
        states = self._states(selector, name)
        common: dict[str, Any] = {"resource": name, "now": self._now, "tolerances": self._tolerances}
        if goal.get("averageValue") is not None:
            average = scaled(goal["averageValue"], 1000)
            proposal = algorithm.by_average(scale.replicas, average, states, samples, **common)
            label = f"{name} resource"
        else:
            percent = goal["averageUtilization"]
            proposal = algorithm.by_utilization(scale.replicas, percent, states, samples, container=container, **common)
            label = f"{name} {'container ' if contained else ''}resource utilization (percentage of request)"
        current: Raw = {"averageValue": quantity(proposal.usage)}
        if proposal.utilization is not None:
            current["averageUtilization"] = proposal.utilization
        told = {"name": name, **({"container": container} if contained else {}), "current": current}
        return proposal, label, {"type": spec["type"], field: told}

    async def _by_other(
        self, kind: str, spec: Raw, scale: CurrentScale, selector: Selector
    ) -> tuple[Proposal, str, Raw]:
        source = spec[kind.lower()]
        metric, goal = source["metric"], source["target"]
        namespace, labels = self._hpa.namespace or "", _metric_selector(metric)
        told: Raw = {"metric": metric}
        if kind == "Object":
            about = source["describedObject"]
            told["describedObject"] = about
            usage = await self._metrics.object(
                namespace, about.get("apiVersion", ""), about["kind"], about["name"], metric["name"], labels
            )
        else:
            usage = sum(await self._metrics.external(namespace, metric["name"], labels))
        label = f"external metric {metric['name']}({_shown(metric.get('selector'))})"
        if goal.get("averageValue") is not None:
            average = scaled(goal["averageValue"], 1000)
            proposal = algorithm.by_share(scale.ready, average, usage, tolerances=self._tolerances)
            told["current"] = {"averageValue": quantity(proposal.usage)}
        else:
            ready = sum(state.phase == "Running" and bool(state.ready) for state in self._states(selector))
            value = scaled(goal["value"], 1000)
            proposal = algorithm.by_value(scale.replicas, value, usage, ready, tolerances=self._tolerances)
            told["current"] = {"value": quantity(proposal.usage)}
            if kind == "Object":
                label = f"{about['kind']} metric {metric['name']}"
        return proposal, label, {"type": kind, kind.lower(): told}

    def _states(self, selector: Selector, resource: str = "") -> list[PodState]:
        pods = self._ctx.stored(Pod, self._hpa.namespace, selector=selector)
        return [pod_state(each.data, resource) for each in pods]

    # ---- what is told ----------------------------------------------------------------------------------------------

    def _tell_metrics(self) -> None:
        self._status.pop("currentMetrics", None)
        if self._current:
            self._status["currentMetrics"] = self._current

    def _condition(self, kind: str, status: Any, reason: str, message: str) -> None:
        set_status_condition(self._status["conditions"], kind, status, reason, message, now=self._now)

    def _event(self, kind: Any, reason: str, message: str) -> None:
        self._recorder.event(self._hpa, kind, reason, message)

    async def _write(self) -> None:
        if not patch.equal(self._status, self._hpa.raw.get("status") or {}):
            self._hpa.raw["status"] = patch.copy(self._status)
            self._hpa = await self._ctx.update_status(self._hpa)


# ---- from JSON to the algorithm -------------------------------------------------------------------------------------


class _Resources(msgspec.Struct, gc=False):
    requests: dict[str, int | float | str] | None = None


class _Container(msgspec.Struct, gc=False, rename="camel"):
    name: str = ""
    resources: _Resources | None = None
    restart_policy: str | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None


class _Condition(msgspec.Struct, gc=False, rename="camel"):
    type: str = ""
    status: str = ""
    last_transition_time: datetime | None = None


class _Status(msgspec.Struct, gc=False, rename="camel"):
    phase: str = ""
    start_time: datetime | None = None
    conditions: list[_Condition] | None = None


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    name: str = ""
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Pod).decode


def pod_state(data: bytes, resource: str = "") -> PodState:
    """What of a stored pod the algorithm looks at. Raises msgspec.ValidationError."""
    pod = _decode(data)
    ready = next((each for each in pod.status.conditions or () if each.type == "Ready"), None)
    containers = [*pod.spec.containers]
    containers += [each for each in pod.spec.init_containers or () if each.restart_policy == "Always"]
    requests = {
        each.name: scaled(((each.resources.requests if each.resources else None) or {}).get(resource, 0), 1000)
        for each in containers
    }
    return PodState(
        name=pod.metadata.name,
        phase=pod.status.phase,
        deleting=pod.metadata.deletion_timestamp is not None,
        ready=None if ready is None else ready.status == "True",
        ready_since=None if ready is None else ready.last_transition_time,
        started=pod.status.start_time,
        requests=requests if resource else {},
    )


def rules_of(hpa: HorizontalPodAutoscaler) -> tuple[Rules, Rules] | None:
    """How fast it may scale, up and down; None without a behavior."""
    behavior = hpa.raw["spec"].get("behavior")
    if behavior is None:
        return None
    up, down = (_rules(behavior[field]) for field in ("scaleUp", "scaleDown"))
    return up, down


def _rules(raw: Raw) -> Rules:
    tolerance = raw.get("tolerance")
    return Rules(
        window=raw.get("stabilizationWindowSeconds", algorithm.DOWNSCALE_WINDOW),
        select=raw["selectPolicy"],
        policies=tuple(Policy(each["type"], each["value"], each["periodSeconds"]) for each in raw["policies"]),
        tolerance=None if tolerance is None else Fraction(scaled(tolerance, 1000), 1000),
    )


def quantity(thousandths: int) -> str:
    """As Kubernetes writes a decimal quantity.

    >>> quantity(250), quantity(3000), quantity(64_000_000), quantity(1_500)
    ('250m', '3', '64k', '1500m')
    """
    if thousandths % 1000:
        return f"{thousandths}m"
    whole, suffixes = thousandths // 1000, ["", "k", "M", "G", "T", "P", "E"]
    power = 0
    while whole and whole % 1000 == 0 and power < len(suffixes) - 1:
        whole, power = whole // 1000, power + 1
    return f"{whole}{suffixes[power]}"


def _metric_selector(metric: Raw) -> Selector | None:
    return None if metric.get("selector") is None else Selector.of(metric["selector"])


def _shown(selector: Raw | None) -> str:
    """A label selector as Go prints it: it is part of the names of metrics in conditions and events."""
    if selector is None:
        return "nil"
    labels = "".join(f"{key}: {value}," for key, value in sorted((selector.get("matchLabels") or {}).items()))
    expressions = "".join(
        f"LabelSelectorRequirement{{Key:{each['key']},Operator:{each['operator']},"
        f"Values:[{' '.join(each.get('values') or ())}],}},"
        for each in selector.get("matchExpressions") or ()
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )


def _failure(spec: Raw) -> tuple[str, tuple[str, str]]:
    """The reason for which a metric gives nothing, what the autoscaler says before, and what the metric."""
    kind = spec["type"]
    if kind in ("Resource", "ContainerResource"):
        source = spec["containerResource" if kind == "ContainerResource" else "resource"]
        utilization = source["target"].get("averageUtilization") is not None
        inner = f"failed to get {source['name']} {'utilization' if utilization else 'usage'}: "
        if kind == "Resource":
            return "FailedGetResourceMetric", (f"failed to get {source['name']} resource metric value: ", inner)
        return "FailedGetContainerResourceMetric", (
            f"failed to get {source['container']} container metric value: ",
            inner,
        )
    if kind == "External":
        name = spec["external"]["metric"]["name"]
        return "FailedGetExternalMetric", (f"failed to get {name} external metric value: ", "")
    return f"FailedGet{kind}Metric", (f"failed to get {kind.lower()} metric value: ", "")
