"""A pod as the scheduler sees it: what it asks of a node, and what it is to other pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from controllers.core.node_affinity import NodeAffinity
from controllers.core.quantities import scaled
from controllers.core.taints import Toleration
from informer.cache import OwnerRef, Stored
from informer.selectors import Selector

Quantity = int | float | str

CPU, MEMORY = "cpu", "memory"
# What a pod that asks for nothing counts as where nodes are compared (not where it is decided whether it fits).
# kube-scheduler's figures, of a small web server.
SMALL_CPU, SMALL_MEMORY = 100, 200 << 20

# ---- what is asked of a node ----------------------------------------------------------------------------------------


class HostPort(msgspec.Struct, frozen=True, gc=False):
    """A port of the machine itself. ip 0.0.0.0: on every address."""

    port: int
    protocol: str
    ip: str


class Constraint(msgspec.Struct, frozen=True, gc=False):
    """A topology spread constraint. selector None selects no pod."""

    max_skew: int
    topology_key: str
    hard: bool
    selector: Mapping[str, Any] | None
    min_domains: int
    honors_affinity: bool
    honors_taints: bool
    label_keys: tuple[str, ...]

    def selects(self, labels: Mapping[str, str]) -> Selector:
        """The pods that are counted, for a pod with these labels: `matchLabelKeys` add its own values."""
        return _selector(self.selector, labels, self.label_keys, ())


class Needs(msgspec.Struct, frozen=True, eq=False):
    """What a pod spec asks for. One object for all pods of the same spec. cpu in millicores, memory in bytes.

    compared_cpu, compared_memory: the same with kube-scheduler's small figures in place of nothing. pinned: the only
    nodes it may run on, if its affinity names them. claims: names of PersistentVolumeClaims. priority None: not said.
    gated: the scheduler is to leave it.
    """

    requests: dict[str, int] = {}
    compared_cpu: int = SMALL_CPU
    compared_memory: int = SMALL_MEMORY
    node_selector: dict[str, str] = {}
    node_affinity: NodeAffinity | None = None
    pinned: frozenset[str] | None = None
    tolerations: tuple[Toleration, ...] = ()
    ports: tuple[HostPort, ...] = ()
    claims: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    pod_affinity: bytes = b""
    priority: int | None = None
    priority_class: str = ""
    preemption_policy: str | None = None
    gated: bool = False
    scheduler: str = ""


class _Resources(msgspec.Struct, gc=False):
    requests: dict[str, Quantity] | None = None


class _Port(msgspec.Struct, gc=False, rename="camel"):
    container_port: int = 0
    host_port: int | None = None
    protocol: str | None = None
    host_ip: str | None = msgspec.field(name="hostIP", default=None)


class _Container(msgspec.Struct, gc=False, rename="camel"):
    resources: _Resources | None = None
    ports: list[_Port] | None = None
    restart_policy: str | None = None


class _ClaimSource(msgspec.Struct, gc=False, rename="camel"):
    claim_name: str = ""


class _Volume(msgspec.Struct, gc=False, rename="camel"):
    persistent_volume_claim: _ClaimSource | None = None


class _Affinity(msgspec.Struct, gc=False, rename="camel"):
    node_affinity: NodeAffinity | None = None
    pod_affinity: msgspec.Raw = msgspec.Raw()
    pod_anti_affinity: msgspec.Raw = msgspec.Raw()


class _Constraint(msgspec.Struct, gc=False, rename="camel"):
    max_skew: int
    topology_key: str
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: dict[str, Any] | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None
    volumes: list[_Volume] | None = None
    resources: _Resources | None = None
    overhead: dict[str, Quantity] | None = None
    host_network: bool | None = None
    node_selector: dict[str, str] | None = None
    affinity: _Affinity | None = None
    tolerations: list[Toleration] | None = None
    topology_spread_constraints: list[_Constraint] | None = None
    scheduling_gates: list[Any] | None = None
    priority: int | None = None
    priority_class_name: str | None = None
    preemption_policy: str | None = None
    scheduler_name: str | None = None


_decode_spec: Final = msgspec.json.Decoder(_Spec).decode


# Pods of one template have the same spec until they are bound.
@lru_cache(maxsize=1024)
def needs_of(spec: bytes) -> Needs:
    """What the JSON of a pod spec asks for. Raises Invalid, msgspec.ValidationError."""
    said = _decode_spec(spec)
    requests = _requests(said)
    affinity = said.affinity or _Affinity()
    pods = bytes(affinity.pod_affinity), bytes(affinity.pod_anti_affinity)
    return Needs(
        requests={resource: amount for resource, amount in requests.items() if amount > 0},
        compared_cpu=requests.get(CPU, 0) or SMALL_CPU,
        compared_memory=requests.get(MEMORY, 0) or SMALL_MEMORY,
        node_selector=said.node_selector or {},
        node_affinity=affinity.node_affinity,
        pinned=_pinned(affinity.node_affinity),
        tolerations=tuple(said.tolerations or ()),
        ports=tuple(_host_ports(said)),
        claims=tuple(
            each.persistent_volume_claim.claim_name
            for each in said.volumes or ()
            if each.persistent_volume_claim is not None
        ),
        constraints=tuple(_constraint(each) for each in said.topology_spread_constraints or ()),
        pod_affinity=b"[%s,%s]" % (pods[0] or b"null", pods[1] or b"null") if any(pods) else b"",
        priority=said.priority,
        priority_class=said.priority_class_name or "",
        preemption_policy=said.preemption_policy,
        gated=bool(said.scheduling_gates),
        scheduler=said.scheduler_name or "",
    )


def _requests(spec: _Spec) -> dict[str, int]:
    """The containers together, or one init container with the sidecars before it if that asks for more."""
    steady: dict[str, int] = {}
    for container in spec.containers:
        _add(steady, container.resources)
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.init_containers or ():
        if container.restart_policy == "Always":
            _add(steady, container.resources)
            _add(sidecars, container.resources)
            moment = sidecars
        else:
            moment = dict(sidecars)
            _add(moment, container.resources)
        _raise_to(peak, moment)
    _raise_to(steady, peak)
    if spec.resources is not None:
        # What the pod says as a whole takes the place of what its containers say.
        for resource, quantity in (spec.resources.requests or {}).items():
            steady[resource] = _amount(resource, quantity)
    _add(steady, _Resources(spec.overhead))
    return steady


def _add(total: dict[str, int], resources: _Resources | None) -> None:
    for resource, quantity in ((resources.requests if resources is not None else None) or {}).items():
        total[resource] = total.get(resource, 0) + _amount(resource, quantity)


def _raise_to(total: dict[str, int], least: Mapping[str, int]) -> None:
    for resource, amount in least.items():
        total[resource] = max(total.get(resource, 0), amount)


def _amount(resource: str, quantity: Quantity) -> int:
    return scaled(quantity, 1000 if resource == CPU else 1)


def amounts(quantities: Mapping[str, Quantity] | None) -> dict[str, int]:
    """Quantities by resource as whole numbers: cpu in millicores. Raises Invalid."""
    return {resource: _amount(resource, quantity) for resource, quantity in (quantities or {}).items()}


def _host_ports(spec: _Spec) -> list[HostPort]:
    found = []
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    for container in (*spec.containers, *sidecars):
        for port in container.ports or ():
            number = port.host_port or (port.container_port if spec.host_network else 0)
            if number:
                found.append(HostPort(number, port.protocol or "TCP", port.host_ip or "0.0.0.0"))  # noqa: S104
    return found


def _pinned(affinity: NodeAffinity | None) -> frozenset[str] | None:
    """The names of nodes that every term of the required affinity comes down to."""
    if affinity is None or affinity.required is None:
        return None
    found: set[str] = set()
    for term in affinity.required.node_selector_terms:
        named = [
            set(each.values)
            for each in term.match_fields or ()
            if each.key == "metadata.name" and each.operator == "In"
        ]
        if not named:
            return None
        found |= set.intersection(*named)
    return frozenset(found)


def _constraint(said: _Constraint) -> Constraint:
    return Constraint(
        max_skew=said.max_skew,
        topology_key=said.topology_key,
        hard=said.when_unsatisfiable != "ScheduleAnyway",
        selector=said.label_selector,
        min_domains=said.min_domains or 1,
        honors_affinity=said.node_affinity_policy != "Ignore",
        honors_taints=said.node_taints_policy == "Honor",
        label_keys=tuple(said.match_label_keys or ()),
    )


# ---- what it is to other pods ---------------------------------------------------------------------------------------


class Term(msgspec.Struct, frozen=True, gc=False):
    """Some pods, and the node label whose equal value makes neighbours."""

    topology_key: str
    selector: Selector
    namespaces: frozenset[str]
    namespace_selector: Selector | None

    def matches(self, other: Traits, namespace_labels: Callable[[str], Mapping[str, str]]) -> bool:
        """Whether a pod with these traits is one of them. namespace_labels: of a namespace by its name."""
        if other.namespace not in self.namespaces and (
            self.namespace_selector is None or not self.namespace_selector.matches(namespace_labels(other.namespace))
        ):
            return False
        return self.selector.matches(other.labels)


class Traits:
    """Namespace, labels and pod affinity: all that other pods look at. One object for all pods that share them."""

    __slots__ = ("affinity", "anti_affinity", "dislikes", "labels", "likes", "namespace")

    def __init__(self, namespace: str, labels: dict[str, str], affinity: bytes) -> None:
        self.namespace = namespace
        self.labels = labels
        self.affinity: list[Term] = []
        self.anti_affinity: list[Term] = []
        self.likes: list[tuple[int, Term]] = []
        self.dislikes: list[tuple[int, Term]] = []
        if affinity:
            to, off = _decode_affinity(affinity)
            self.affinity, self.likes = self._terms(to)
            self.anti_affinity, self.dislikes = self._terms(off)

    @property
    def cares(self) -> bool:
        """Whether it says anything about other pods."""
        return bool(self.affinity or self.anti_affinity or self.likes or self.dislikes)

    def _terms(self, said: _PodAffinity | None) -> tuple[list[Term], list[tuple[int, Term]]]:
        if said is None:
            return [], []
        wishes = [(wish.weight, self._term(wish.term)) for wish in said.preferred or ()]
        return [self._term(term) for term in said.required or ()], wishes

    def _term(self, said: _Term) -> Term:
        named, selector = said.namespaces or [], said.namespace_selector
        return Term(
            topology_key=said.topology_key,
            selector=_selector(
                said.label_selector, self.labels, said.match_label_keys or (), said.mismatch_label_keys or ()
            ),
            # Without any word about namespaces the pod's own is meant.
            namespaces=frozenset(named or ([self.namespace] if selector is None else [])),
            namespace_selector=None if selector is None else Selector.of(selector),
        )


class _Term(msgspec.Struct, gc=False, rename="camel"):
    topology_key: str
    label_selector: dict[str, Any] | None = None
    namespaces: list[str] | None = None
    namespace_selector: dict[str, Any] | None = None
    match_label_keys: list[str] | None = None
    mismatch_label_keys: list[str] | None = None


class _Wish(msgspec.Struct, gc=False):
    weight: int
    term: _Term = msgspec.field(name="podAffinityTerm")


class _PodAffinity(msgspec.Struct, gc=False):
    required: list[_Term] | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)
    preferred: list[_Wish] | None = msgspec.field(name="preferredDuringSchedulingIgnoredDuringExecution", default=None)


_decode_affinity: Final = msgspec.json.Decoder(tuple[_PodAffinity | None, _PodAffinity | None]).decode
_decode_labels: Final = msgspec.json.Decoder(dict[str, str]).decode


def _selector(
    said: Mapping[str, Any] | None, labels: Mapping[str, str], same: tuple[str, ...] | list[str], other: Any
) -> Selector:
    if said is None:
        return Selector.nothing()
    own = [{"key": key, "operator": "In", "values": [labels[key]]} for key in same if key in labels]
    own += [{"key": key, "operator": "NotIn", "values": [labels[key]]} for key in other if key in labels]
    if own:
        said = {**said, "matchExpressions": [*(said.get("matchExpressions") or ()), *own]}
    return Selector.of(said)


@lru_cache(maxsize=4096)
def _traits(namespace: str, labels: bytes, affinity: bytes) -> Traits:
    return Traits(namespace, _decode_labels(labels) if labels else {}, affinity)


# ---- one pod --------------------------------------------------------------------------------------------------------


class PodInfo(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A pod at one revision. node: the one it is bound to, or "". owner: the uid of its controller, or ""."""

    key: str
    uid: str
    traits: Traits
    needs: Needs
    priority: int = 0
    preempts: bool = True
    node: str = ""
    nominated: str = ""
    owner: str = ""
    created: str = ""
    finished: bool = False
    deleting: bool = False
    generation: int | None = None
    raw_labels: bytes = b""

    @property
    def namespace(self) -> str:
        """metadata.namespace."""
        return self.traits.namespace

    @property
    def labels(self) -> dict[str, str]:
        """metadata.labels; shared, to be read only."""
        return self.traits.labels


class _BriefSpec(msgspec.Struct, gc=False, rename="camel"):
    node_name: str = ""


class _BriefStatus(msgspec.Struct, gc=False, rename="camel"):
    phase: str = ""
    nominated_node_name: str = ""


class Brief(msgspec.Struct, gc=False):
    """What changes in a pod while its spec and labels stay."""

    spec: _BriefSpec = msgspec.field(default_factory=_BriefSpec)
    status: _BriefStatus = msgspec.field(default_factory=_BriefStatus)

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    creation_timestamp: str = ""


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: msgspec.Raw
    status: _BriefStatus = msgspec.field(default_factory=_BriefStatus)


decode_brief: Final = msgspec.json.Decoder(Brief).decode
_decode_pod: Final = msgspec.json.Decoder(_Pod).decode
_decode_brief_spec: Final = msgspec.json.Decoder(_BriefSpec).decode
_decode_owners: Final = msgspec.json.Decoder(list[OwnerRef]).decode


@lru_cache(maxsize=1024)
def _controller(owners: bytes) -> str:
    return next((owner.uid for owner in _decode_owners(owners) if owner.controller), "")


def pod_info(stored: Stored, priority: Callable[[Needs], tuple[int, bool]] | None = None) -> PodInfo:
    """A stored pod. priority: of what a spec asks for, and whether it may preempt; by default as the spec says.

    Raises Invalid for a quantity or selector that is none, msgspec.ValidationError for other fields that do not fit.
    """
    pod, meta = _decode_pod(stored.data), stored.meta
    spec, labels = bytes(pod.spec), bytes(meta.raw_labels)
    needs = needs_of(spec)
    value, preempts = (priority or _as_said)(needs)
    return PodInfo(
        key=stored.key,
        uid=meta.uid or "",
        traits=_traits(stored.namespace, labels, needs.pod_affinity),
        needs=needs,
        priority=value,
        preempts=preempts,
        node=_decode_brief_spec(spec).node_name,
        nominated=pod.status.nominated_node_name,
        owner=_controller(bytes(meta.raw_owner_references)) if meta.raw_owner_references else "",
        created=pod.metadata.creation_timestamp,
        finished=pod.status.phase in ("Succeeded", "Failed"),
        deleting=bool(meta.deletion_timestamp),
        generation=meta.generation,
        raw_labels=labels,
    )


def _as_said(needs: Needs) -> tuple[int, bool]:
    return needs.priority or 0, needs.preemption_policy != "Never"
