"""Fields of manifests that Kubernetes does not have, as kubectl's `--validate` tells of them: mostly typos.

The names are those of Kubernetes 1.34, whether anything here heeds the field or not. What is below a name without
fields of its own is not looked at: a warning has to be right, it need not be everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]  # name to the fields inside, None where nobody looks


def unknown_fields(raw: Mapping[str, Any]) -> list[str]:
    """The paths of what Kubernetes would not know in a manifest; none for a kind that is not in the table."""
    known = _KINDS.get(f"{raw.get('apiVersion')} {raw.get('kind')}")
    return [] if known is None else list(_unknown(raw, known, ""))


def _unknown(value: Any, known: Fields, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unknown(each, known, f"{path}[{index}]")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            where = f"{path}.{name}" if path else str(name)
            if name not in known:
                yield where
            elif known[name] is not None:
                yield from _unknown(each, known[name], where)


def _fields(plain: str = "", **inner: Fields) -> Fields:
    return {**dict.fromkeys(plain.split()), **inner}


def _kind(plain: str = "status", **inner: Fields) -> Fields:
    return _fields(f"apiVersion kind {plain}", metadata=_METADATA, **inner)


_METADATA = _fields(
    "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation "
    "labels managedFields name namespace resourceVersion selfLink uid",
    ownerReferences=_fields("apiVersion blockOwnerDeletion controller kind name uid"),
)
_SELECTOR = _fields("matchLabels", matchExpressions=_fields("key operator values"))

# ---- pods -----------------------------------------------------------------------------------------------------------

_PROBE = _fields(
    "exec failureThreshold grpc httpGet initialDelaySeconds periodSeconds successThreshold tcpSocket "
    "terminationGracePeriodSeconds timeoutSeconds"
)
_RESOURCES = _fields("claims limits requests")
_CONTAINER = _fields(
    "args command envFrom image imagePullPolicy lifecycle name resizePolicy restartPolicy restartPolicyRules "
    "securityContext stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices workingDir",
    env=_fields("name value valueFrom"),
    livenessProbe=_PROBE,
    ports=_fields("containerPort hostIP hostPort name protocol"),
    readinessProbe=_PROBE,
    resources=_RESOURCES,
    startupProbe=_PROBE,
    volumeMounts=_fields("mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr"),
)
_POD = _fields(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
    "ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets "
    "nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims "
    "restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount serviceAccountName "
    "setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds volumes",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
    resources=_RESOURCES,
    tolerations=_fields("effect key operator tolerationSeconds value"),
    topologySpreadConstraints=_fields(
        "matchLabelKeys maxSkew minDomains nodeAffinityPolicy nodeTaintsPolicy topologyKey whenUnsatisfiable",
        labelSelector=_SELECTOR,
    ),
)
_TEMPLATE = _fields(metadata=_METADATA, spec=_POD)
_CLAIM = _fields(
    "accessModes dataSource dataSourceRef storageClassName volumeAttributesClassName volumeMode volumeName",
    resources=_fields("limits requests"),
    selector=_SELECTOR,
)

# ---- workloads ------------------------------------------------------------------------------------------------------

_DEPLOYMENT = _fields(
    "minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit",
    selector=_SELECTOR,
    strategy=_fields("type", rollingUpdate=_fields("maxSurge maxUnavailable")),
    template=_TEMPLATE,
)
_REPLICA_SET = _fields("minReadySeconds replicas", selector=_SELECTOR, template=_TEMPLATE)
_STATEFUL_SET = _fields(
    "minReadySeconds podManagementPolicy replicas revisionHistoryLimit serviceName",
    ordinals=_fields("start"),
    persistentVolumeClaimRetentionPolicy=_fields("whenDeleted whenScaled"),
    selector=_SELECTOR,
    template=_TEMPLATE,
    updateStrategy=_fields("type", rollingUpdate=_fields("maxUnavailable partition")),
    volumeClaimTemplates=_kind(spec=_CLAIM),
)
_DAEMON_SET = _fields(
    "minReadySeconds revisionHistoryLimit",
    selector=_SELECTOR,
    template=_TEMPLATE,
    updateStrategy=_fields("type", rollingUpdate=_fields("maxSurge maxUnavailable")),
)
_JOB = _fields(
    "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy manualSelector "
    "maxFailedIndexes parallelism podReplacementPolicy suspend ttlSecondsAfterFinished",
    podFailurePolicy=_fields(
        rules=_fields(
            "action",
            onExitCodes=_fields("containerName operator values"),
            onPodConditions=_fields("status type"),
        )
    ),
    selector=_SELECTOR,
    successPolicy=_fields(rules=_fields("succeededCount succeededIndexes")),
    template=_TEMPLATE,
)
_CRON_JOB = _fields(
    "concurrencyPolicy failedJobsHistoryLimit schedule startingDeadlineSeconds successfulJobsHistoryLimit suspend "
    "timeZone",
    jobTemplate=_fields(metadata=_METADATA, spec=_JOB),
)
_SCALING = _fields("selectPolicy stabilizationWindowSeconds tolerance", policies=_fields("periodSeconds type value"))
_AUTOSCALER = _fields(
    "maxReplicas metrics minReplicas",
    behavior=_fields(scaleDown=_SCALING, scaleUp=_SCALING),
    scaleTargetRef=_fields("apiVersion kind name"),
)
_BUDGET = _fields("maxUnavailable minAvailable unhealthyPodEvictionPolicy", selector=_SELECTOR)
_SERVICE = _fields(
    "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy "
    "healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
    "loadBalancerSourceRanges publishNotReadyAddresses selector sessionAffinity sessionAffinityConfig "
    "trafficDistribution type",
    ports=_fields("appProtocol name nodePort port protocol targetPort"),
)
_QUOTA = _fields("hard scopeSelector scopes")
_LIMITS = _fields(limits=_fields("default defaultRequest max maxLimitRequestRatio min type"))

_KINDS: Mapping[str, Fields] = {
    "apps/v1 DaemonSet": _kind(spec=_DAEMON_SET),
    "apps/v1 Deployment": _kind(spec=_DEPLOYMENT),
    "apps/v1 ReplicaSet": _kind(spec=_REPLICA_SET),
    "apps/v1 StatefulSet": _kind(spec=_STATEFUL_SET),
    "autoscaling/v2 HorizontalPodAutoscaler": _kind(spec=_AUTOSCALER),
    "batch/v1 CronJob": _kind(spec=_CRON_JOB),
    "batch/v1 Job": _kind(spec=_JOB),
    "policy/v1 PodDisruptionBudget": _kind(spec=_BUDGET),
    "scheduling.k8s.io/v1 PriorityClass": _kind("description globalDefault preemptionPolicy value"),
    "v1 ConfigMap": _kind("binaryData data immutable"),
    "v1 LimitRange": _kind("", spec=_LIMITS),
    "v1 Namespace": _kind(spec=_fields("finalizers")),
    "v1 PersistentVolumeClaim": _kind(spec=_CLAIM),
    "v1 Pod": _kind(spec=_POD),
    "v1 ResourceQuota": _kind(spec=_QUOTA),
    "v1 Secret": _kind("data immutable stringData type"),
    "v1 Service": _kind(spec=_SERVICE),
    "v1 ServiceAccount": _kind("automountServiceAccountToken imagePullSecrets secrets"),
}
