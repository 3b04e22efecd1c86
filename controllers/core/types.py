"""The kinds of Kubernetes' core group and Lease, with their defaults.

Only the fields that something here reads or writes are modelled; all others ride along untouched.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from controllers.core.affinity import Affinity, PodSchedulingGate, TopologySpreadConstraint, validate_placement
from controllers.core.defaults import default_pod_spec, pod_requests_from_limits
from controllers.core.label_selector import LabelSelector
from controllers.core.pod_changes import validate_pod_changes
from controllers.core.quantities import scaled
from informer import patch
from informer.errors import Invalid
from informer.names import label_problem
from informer.objects import Key, Model
from informer.resources import Resource

# ---- pods -----------------------------------------------------------------------------------------------------------


class ContainerPort(Model):
    """A port that a container listens on."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int | None


class ResourceRequirements(Model):
    """Quantities by resource: `cpu`, `memory`, `ephemeral-storage`, and what a node calls its own."""

    requests: dict[str, int | float | str]
    limits: dict[str, int | float | str]


class EnvVar(Model):
    """An environment variable; `value_from` rides along."""

    name: str
    value: str = ""
    value_from: dict[str, Any] | None


class VolumeMount(Model):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    read_only: bool = False


class Container(Model):
    """One container of a pod."""

    name: str
    image: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None
    command: list[str]
    args: list[str]
    ports: list[ContainerPort]
    env: list[EnvVar]
    resources: ResourceRequirements
    volume_mounts: list[VolumeMount]
    liveness_probe: dict[str, Any] | None
    readiness_probe: dict[str, Any] | None
    startup_probe: dict[str, Any] | None


class Toleration(Model):
    """A taint that a pod puts up with."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None


class Volume(Model):
    """A volume; what it is made of rides along."""

    name: str


class PodSpec(Model):
    """What a pod runs, and where."""

    containers: list[Container]
    init_containers: list[Container]
    volumes: list[Volume]
    node_name: str = ""
    node_selector: dict[str, str]
    tolerations: list[Toleration]
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    scheduler_name: str = "default-scheduler"
    service_account_name: str = ""
    priority: int | None
    priority_class_name: str = ""
    preemption_policy: Literal["PreemptLowerPriority", "Never"] | None
    affinity: Affinity | None
    topology_spread_constraints: list[TopologySpreadConstraint]
    scheduling_gates: list[PodSchedulingGate]
    overhead: dict[str, int | float | str]
    hostname: str = ""
    host_network: bool = False


class Condition(Model):
    """One aspect of an object's state. `last_transition_time` changes with `status` only."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None
    last_update_time: datetime | None
    last_probe_time: datetime | None
    last_heartbeat_time: datetime | None
    observed_generation: int | None


class ContainerStatus(Model):
    """How one container does. `state` is one of waiting, running, terminated."""

    name: str
    image: str = ""
    image_id: Annotated[str, Key("imageID")] = ""
    container_id: Annotated[str, Key("containerID")] = ""
    ready: bool = False
    started: bool | None
    restart_count: int = 0
    state: dict[str, Any]
    last_state: dict[str, Any]


class PodStatus(Model):
    """What became of a pod."""

    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Pending"
    reason: str = ""
    message: str = ""
    conditions: list[Condition]
    host_ip: Annotated[str, Key("hostIP")] = ""
    pod_ip: Annotated[str, Key("podIP")] = ""
    nominated_node_name: str = ""
    start_time: datetime | None
    container_statuses: list[ContainerStatus]
    init_container_statuses: list[ContainerStatus]
    qos_class: str = ""
    observed_generation: int | None


class Pod(Resource, group="", version="v1", short_names=("po",)):
    """Containers that run together on one node."""

    spec: PodSpec
    status: PodStatus

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((each for each in self.status.conditions if each.type == kind), None)

    @property
    def ready(self) -> bool:
        """Whether the pod's Ready condition is true. Read straight from the JSON: lists of pods ask for it a lot."""
        conditions = (self.raw.get("status") or {}).get("conditions") or ()
        return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good."""
        return (self.raw.get("status") or {}).get("phase") in ("Succeeded", "Failed")

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        default_pod_spec(spec)
        pod_requests_from_limits(spec)
        spec.setdefault("enableServiceLinks", True)
        self.raw.setdefault("status", {}).setdefault("phase", "Pending")
        if spec.get("schedulingGates"):
            _tell_gated(self.raw["status"])

    def validate(self) -> None:
        """Containers have names of their own, and an image."""
        spec = self.raw["spec"]
        validate_pod_spec(spec, "spec")
        if spec.get("schedulingGates") and spec.get("nodeName"):
            raise Invalid("spec.nodeName", "cannot be set until all schedulingGates have been cleared")

    def validate_update(self, old: Pod) -> None:
        """Little changes in a pod, and scheduling gates only go."""
        validate_pod_changes(old.raw["spec"], self.raw["spec"])
        gates = self.raw["spec"].get("schedulingGates")
        if gates:
            before = {gate["name"] for gate in old.raw["spec"].get("schedulingGates") or ()}
            for gate in gates:
                if gate["name"] not in before:
                    problem = f"only deletion is allowed, but found new scheduling gate '{gate['name']}'"
                    raise Invalid("spec.schedulingGates", problem)

    def deletion_grace(self, requested: int | None) -> int:
        """None for a pod that no node has, or that has ended: nobody is there who would stop it."""
        if not self.spec.node_name or self.finished:
            return 0
        return max(0, self.spec.termination_grace_period_seconds if requested is None else requested)


def _tell_gated(status: dict[str, Any]) -> None:
    """The scheduler never sees a gated pod, so its condition is told here, as kube-apiserver does."""
    conditions = status.setdefault("conditions", [])
    if not any(each["type"] == "PodScheduled" for each in conditions):
        message = "Scheduling is blocked due to non-empty scheduling gates"
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message}
        conditions.append(gated)


def validate_pod_spec(spec: dict[str, Any], path: str) -> None:
    """Raise `Invalid` for a pod spec that could not run. `path` is where it stands."""
    validate_placement(spec, path)
    if not spec.get("containers"):
        raise Invalid(f"{path}.containers", "required")
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            where = f"{path}.{field}[{index}]"
            name = container["name"]
            if problem := label_problem(name):
                raise Invalid(f"{where}.name", problem)
            if name in seen:
                raise Invalid(f"{where}.name", f'"{name}" is there already')
            seen.add(name)
            if not container.get("image"):
                raise Invalid(f"{where}.image", "required")
            if resources := container.get("resources"):
                _validate_resources(resources, f"{where}.resources")
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            for number, mount in enumerate(container.get("volumeMounts") or ()):
                if mount["name"] not in volumes:
                    where = f"{path}.{field}[{index}].volumeMounts[{number}].name"
                    raise Invalid(where, f'there is no volume "{mount["name"]}"')


def _validate_resources(resources: dict[str, Any], path: str) -> None:
    amounts: dict[str, dict[str, int]] = {"limits": {}, "requests": {}}
    for field, found in amounts.items():
        for name, quantity in (resources.get(field) or {}).items():
            try:
                found[name] = scaled(quantity, 1000)
            except Invalid as error:
                raise Invalid(f"{path}.{field}[{name}]", error.problem) from None
            if found[name] < 0:
                raise Invalid(f"{path}.{field}[{name}]", f"must not be negative, got {quantity}")
    for name, requested in amounts["requests"].items():
        if requested > amounts["limits"].get(name, requested):
            told = f"must not be more than the limit of {resources['limits'][name]}"
            raise Invalid(f"{path}.requests[{name}]", f"{told}, got {resources['requests'][name]}")


class PodTemplateMeta(Model):
    """The metadata of pods made of a template."""

    name: str = ""
    labels: dict[str, str]
    annotations: dict[str, str]
    finalizers: list[str]


class PodTemplate(Model):
    """What the pods of a controller look like."""

    metadata: PodTemplateMeta
    spec: PodSpec


# ---- nodes ----------------------------------------------------------------------------------------------------------


class Taint(Model):
    """What keeps pods off a node unless they tolerate it."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    time_added: datetime | None


class NodeSpec(Model):
    """What an operator or the cloud says about a node."""

    unschedulable: bool = False
    taints: list[Taint]
    pod_cidr: Annotated[str, Key("podCIDR")] = ""
    provider_id: Annotated[str, Key("providerID")] = ""


class NodeAddress(Model):
    """One address of a node, of type Hostname, InternalIP, ..."""

    type: str
    address: str


class NodeStatus(Model):
    """What the node says about itself. Quantities by resource."""

    capacity: dict[str, int | float | str]
    allocatable: dict[str, int | float | str]
    conditions: list[Condition]
    addresses: list[NodeAddress]
    node_info: dict[str, Any]


class Node(Resource, group="", version="v1", namespaced=False, short_names=("no",)):
    """A machine that runs pods."""

    spec: NodeSpec
    status: NodeStatus

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((each for each in self.status.conditions if each.type == kind), None)

    @property
    def ready(self) -> bool:
        """Whether the node's Ready condition is true."""
        ready = self.condition("Ready")
        return ready is not None and ready.status == "True"


CONTENT_FINALIZER = "kubernetes"  # in a namespace's spec
BUILTIN_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class NamespaceSpec(Model):
    """Its finalizers, of which `kubernetes` stands for the content."""

    finalizers: list[str]


class NamespaceStatus(Model):
    """Active, or Terminating while its content is deleted."""

    phase: Literal["Active", "Terminating"] = "Active"
    conditions: list[Condition]


class Namespace(Resource, group="", version="v1", namespaced=False, short_names=("ns",)):
    """A room for names."""

    spec: NamespaceSpec
    status: NamespaceStatus

    def default(self) -> None:
        """A new one is active, and bears its own name as a label; `kubernetes` keeps it until its content is gone."""
        self.raw["metadata"].setdefault("labels", {}).setdefault("kubernetes.io/metadata.name", self.name)
        self.raw.setdefault("status", {}).setdefault("phase", "Active")
        if not self.deleting:
            self._keep_for_content()

    def validate(self) -> None:
        """Its name is part of other names."""
        if problem := label_problem(self.name):
            raise Invalid("metadata.name", problem)

    def mark_deleted(self) -> None:
        """It takes nothing new from now on."""
        self.raw.setdefault("status", {})["phase"] = "Terminating"
        self._keep_for_content()

    def held(self) -> bool:
        """Whether its own finalizers are left, which stand apart from those of its metadata."""
        return bool(self.raw.get("spec", {}).get("finalizers"))

    def _keep_for_content(self) -> None:
        finalizers = self.raw.setdefault("spec", {}).setdefault("finalizers", [])
        if CONTENT_FINALIZER not in finalizers:
            finalizers.append(CONTENT_FINALIZER)


# ---- services and configuration -------------------------------------------------------------------------------------


class ServicePort(Model):
    """A port of a service, and the port of the pods behind it."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None
    node_port: int | None
    app_protocol: str | None


class ServiceSpec(Model):
    """Which pods, under which ports."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: dict[str, str]
    ports: list[ServicePort]
    cluster_ip: Annotated[str, Key("clusterIP")] = ""
    cluster_ips: Annotated[list[str], Key("clusterIPs")]
    ip_families: list[str]
    external_name: str = ""
    session_affinity: str = "None"
    publish_not_ready_addresses: bool = False


class ServiceStatus(Model):
    """Its load balancer, if it has one."""

    load_balancer: dict[str, Any]
    conditions: list[Condition]


class Service(Resource, group="", version="v1", short_names=("svc",)):
    """One name for many pods."""

    spec: ServiceSpec
    status: ServiceStatus

    def default(self) -> None:
        """As kube-apiserver; addresses are handed out later, see `controllers.discovery.addresses`."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        if spec["type"] != "ExternalName":
            spec.setdefault("internalTrafficPolicy", "Cluster")
            if spec.get("clusterIP"):
                spec.setdefault("clusterIPs", [spec["clusterIP"]])
            if spec.get("clusterIP") == "None" and spec.get("selector"):
                spec.setdefault("ipFamilies", ["IPv4"])
                spec.setdefault("ipFamilyPolicy", "SingleStack")
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, 0, "") and spec.get("clusterIP") != "None":
                port["targetPort"] = port["port"]

    def validate(self) -> None:
        """It has a DNS name of its own, and several ports need names to tell them apart."""
        if problem := label_problem(self.name):
            raise Invalid("metadata.name", problem)
        ports = self.spec.ports
        if not ports and self.spec.type != "ExternalName" and self.spec.cluster_ip != "None":
            raise Invalid("spec.ports", "required")
        for index, port in enumerate(ports):
            if not 1 <= port.port <= 65535:
                raise Invalid(f"spec.ports[{index}].port", f"expected a port from 1 to 65535, got {port.port}")
            if len(ports) > 1 and not port.name:
                raise Invalid(f"spec.ports[{index}].name", "required")
            if any(port.name == each.name for each in ports[:index]):
                raise Invalid(f"spec.ports[{index}].name", f"duplicate value: {port.name}")
            if any((port.protocol, port.port) == (each.protocol, each.port) for each in ports[:index]):
                raise Invalid(f"spec.ports[{index}]", f"duplicate value: {port.port}/{port.protocol}")
        if self.spec.type == "ExternalName" and not self.spec.external_name:
            raise Invalid("spec.externalName", "required")

    def prepare_update(self, old: Service) -> None:
        """Who does not name its address keeps it."""
        before, after = old.raw["spec"], self.raw["spec"]
        if after["type"] != "ExternalName" and not after.get("clusterIP") and before.get("clusterIP"):
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if before.get(field) and not after.get(field):
                    after[field] = before[field]

    def validate_update(self, old: Service) -> None:
        """Its address stays as long as it has one."""
        before = old.raw["spec"].get("clusterIP")
        if before and self.spec.type != "ExternalName" and self.spec.cluster_ip != before:
            raise Invalid("spec.clusterIPs[0]", "may not change once set")


class ConfigMap(Resource, group="", version="v1", short_names=("cm",), status=False):
    """Settings."""

    data: dict[str, str]
    binary_data: dict[str, str]
    immutable: bool = False

    def validate_update(self, old: ConfigMap) -> None:
        """One that is immutable stays as it is."""
        _check_immutable(old, self, ("data", "binaryData"))


class Secret(Resource, group="", version="v1", status=False):
    """Settings to be kept quiet: `data` in base64."""

    type: str = "Opaque"
    data: dict[str, str]
    string_data: dict[str, str]
    immutable: bool = False

    def default(self) -> None:
        """`stringData` is for writing only: it goes into `data`."""
        self.raw.setdefault("type", "Opaque")
        plain = self.raw.pop("stringData", None) or {}
        if plain:
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
            self.raw["data"] = {**(self.raw.get("data") or {}), **encoded}

    def validate_update(self, old: Secret) -> None:
        """Its type stays, and one that is immutable stays as it is."""
        if self.type != old.type:
            raise Invalid("type", "field is immutable")
        _check_immutable(old, self, ("data",))


def _check_immutable(old: ConfigMap | Secret, new: ConfigMap | Secret, fields: tuple[str, ...]) -> None:
    if not old.immutable:
        return
    if not new.immutable:
        raise Invalid("immutable", "field is immutable when `immutable` is set")
    for field in fields:
        if not patch.semantic_equal(old.raw.get(field), new.raw.get(field)):
            raise Invalid(field, "field is immutable when `immutable` is set")


class ServiceAccount(Resource, group="", version="v1", short_names=("sa",), status=False):
    """Whom a pod acts as."""

    secrets: list[dict[str, Any]]
    image_pull_secrets: list[dict[str, Any]]
    automount_service_account_token: bool | None


class VolumeResources(Model):
    """Quantities by resource; `storage` is the one there is."""

    requests: dict[str, int | float | str]
    limits: dict[str, int | float | str]


class PersistentVolumeClaimSpec(Model):
    """How much storage of which kind. `storage_class_name`: "" is no class at all, unset the cluster's default."""

    access_modes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]]
    selector: LabelSelector | None
    storage_class_name: str | None
    volume_name: str = ""
    volume_mode: Literal["Filesystem", "Block"] = "Filesystem"
    resources: VolumeResources


class PersistentVolumeClaimStatus(Model):
    """Whether a volume was found for it, and what that has."""

    phase: Literal["Pending", "Bound", "Lost"] = "Pending"
    access_modes: list[str]
    capacity: dict[str, int | float | str]
    conditions: list[Condition]


class PersistentVolumeClaim(Resource, group="", version="v1", short_names=("pvc",)):
    """A wish for storage."""

    spec: PersistentVolumeClaimSpec
    status: PersistentVolumeClaimStatus

    def default(self) -> None:
        """As kube-apiserver."""
        self.raw.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        self.raw.setdefault("status", {}).setdefault("phase", "Pending")

    def validate(self) -> None:
        """It says how much, and in which ways."""
        validate_claim_spec(self.raw["spec"], "spec")

    def validate_update(self, old: PersistentVolumeClaim) -> None:
        """A claim stays what it is, but for its volume and class while it has none, and for more storage."""
        before, after = dict(old.raw.get("spec") or {}), dict(self.raw["spec"])
        had, wants = (_requested_storage(each.pop("resources", None)) for each in (before, after))
        if not before.get("volumeName"):
            before["volumeName"] = after.get("volumeName")
        if before.get("storageClassName") is None:
            before["storageClassName"] = after.get("storageClassName")
        if not patch.semantic_equal(before, after) or (wants != had and old.status.phase != "Bound"):
            raise Invalid("spec", "is immutable after creation except resources.requests for bound claims")
        if (wants or 0) < (had or 0):
            raise Invalid("spec.resources.requests.storage", "field can not be less than previous value")


def validate_claim_spec(spec: dict[str, Any], path: str) -> None:
    """Raise `Invalid` for a claim that nothing could meet. `path` is where it stands."""
    modes = spec.get("accessModes") or ()
    if not modes:
        raise Invalid(f"{path}.accessModes", "at least 1 access mode is required")
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        raise Invalid(f"{path}.accessModes", "may not use ReadWriteOncePod with other access modes")
    requested = _requested_storage(spec.get("resources"))
    if requested is None:
        raise Invalid(f"{path}.resources.requests.storage", "required")
    if requested <= 0:
        raise Invalid(f"{path}.resources.requests.storage", "must be greater than zero")


def _requested_storage(resources: dict[str, Any] | None) -> int | None:
    """In bytes; None if it does not say."""
    requested = ((resources or {}).get("requests") or {}).get("storage")
    return None if requested is None else scaled(requested)


# ---- events and leases ----------------------------------------------------------------------------------------------


class ObjectReference(Model):
    """An object, named."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EventSource(Model):
    """Who says so."""

    component: str = ""
    host: str = ""


class Event(Resource, group="", version="v1", short_names=("ev",), status=False):
    """Something that happened to an object; a repetition counts up."""

    involved_object: ObjectReference
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    source: EventSource
    count: int = 1
    first_timestamp: datetime | None
    last_timestamp: datetime | None
    event_time: datetime | None
    action: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""


class LeaseSpec(Model):
    """Who holds it, until when."""

    holder_identity: str | None
    lease_duration_seconds: int | None
    acquire_time: datetime | None
    renew_time: datetime | None
    lease_transitions: int = 0


class Lease(Resource, group="coordination.k8s.io", version="v1", status=False):
    """A claim to be renewed: of a leader on its office, of a node on being alive."""

    spec: LeaseSpec
