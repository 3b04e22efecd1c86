"""What kube-apiserver fills into a pod spec, in a Pod and in a pod template alike.

Templates are compared after this, so it has to give the same again for what it gave before.
"""

from __future__ import annotations

from typing import Any

Raw = dict[str, Any]

# Permission bits of projected files: 0644.
_MODE = 420
_MODED_VOLUMES = ("configMap", "secret", "downwardAPI", "projected")


def default_pod_spec(spec: Raw) -> None:
    """Fill in a pod spec, in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    for container in spec.get("initContainers") or ():
        _default_container(container)
    for container in spec.get("containers") or ():
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def pod_requests_from_limits(spec: Raw) -> None:
    """A limit without a request is the request too; in a Pod only, never in a template."""
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            limits = container["resources"].get("limits")
            if limits:
                container["resources"]["requests"] = {**limits, **(container["resources"].get("requests") or {})}


def pull_policy(image: str) -> str:
    """Always for `:latest` and for no tag at all, else IfNotPresent."""
    name = image.rpartition("/")[2]
    if "@" in name:
        return "IfNotPresent"
    _, _, tag = name.partition(":")
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _default_container(container: Raw) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    if "imagePullPolicy" not in container:
        container["imagePullPolicy"] = pull_policy(container.get("image") or "")
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        source = (variable.get("valueFrom") or {}).get("fieldRef")
        if isinstance(source, dict):
            source.setdefault("apiVersion", "v1")
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe := container.get(field):
            _default_probe(probe)


def _default_probe(probe: Raw) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    request = probe.get("httpGet")
    if isinstance(request, dict):
        request.setdefault("path", "/")
        request.setdefault("scheme", "HTTP")


def _default_volume(volume: Raw) -> None:
    for field in _MODED_VOLUMES:
        source = volume.get(field)
        if isinstance(source, dict):
            source.setdefault("defaultMode", _MODE)
    host_path = volume.get("hostPath")
    if isinstance(host_path, dict):
        host_path.setdefault("type", "")
    # A volume of no kind is an empty directory.
    if len(volume) == 1:
        volume["emptyDir"] = {}
