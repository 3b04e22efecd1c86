"""The containers of a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controllers.cli.page import Page
from controllers.cli.raw import Raw, dig, items, mapping, number, text

# Of a state: field and title, in kubectl's order.
_DETAILS = {
    "reason": "Reason",
    "message": "Message",
    "exitCode": "Exit Code",
    "signal": "Signal",
    "startedAt": "Started",
    "finishedAt": "Finished",
}


def containers(page: Page, title: str, found: Sequence[Raw], states: Mapping[str, Raw]) -> None:
    """A section for each of them. states: their statuses by name."""
    if not found:
        return
    with page.section(title):
        for container in found:
            with page.section(str(container.get("name"))):
                _container(page, container, states.get(str(container.get("name"))))


def _container(page: Page, container: Raw, state: Raw | None) -> None:
    page.field("Image", container.get("image"))
    ports = [f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}" for port in items(container, "ports")]
    page.field("Ports" if len(ports) > 1 else "Port", ", ".join(ports))
    hosts = [f"{number(port, 'hostPort')}/{port.get('protocol', 'TCP')}" for port in items(container, "ports")]
    page.field("Host Ports" if len(hosts) > 1 else "Host Port", ", ".join(hosts))
    for field, title in (("command", "Command"), ("args", "Args")):
        if container.get(field):
            page.many(title, map(str, container[field]))
    if state is not None:
        _container_state(page, state)
    for field, title in (("limits", "Limits"), ("requests", "Requests")):
        if quantities := dig(container, "resources", field):
            page.many(title, [f"{key}: {value}" for key, value in sorted(quantities.items())])
    for field, title in (("livenessProbe", "Liveness"), ("readinessProbe", "Readiness"), ("startupProbe", "Startup")):
        if probe := container.get(field):
            page.field(title, _probe(probe))
    if sources := items(container, "envFrom"):
        page.many("Environment Variables from", [_env_source(each) for each in sources])
    page.many("Environment", [f"{each.get('name')}: {_env(each)}" for each in items(container, "env")])
    mounts = [
        f"{each.get('mountPath')} from {each.get('name')} ({'ro' if each.get('readOnly') else 'rw'})"
        for each in items(container, "volumeMounts")
    ]
    page.many("Mounts", mounts)


def _container_state(page: Page, status: Raw) -> None:
    for title, field in (("State", "state"), ("Last State", "lastState")):
        for kind, details in mapping(status, field).items():
            page.field(title, kind.title())
            with page.indented():
                for key, name in _DETAILS.items():
                    # As kubectl: an exit code is told of what ended, zero too, all else if there is something to tell.
                    if dig(details, key) or (key == "exitCode" and kind == "terminated"):
                        page.field(name, text(details, key, otherwise="0"))
    page.field("Ready", bool(status.get("ready")))
    page.field("Restart Count", number(status, "restartCount"))


def _probe(probe: Raw) -> str:
    http, tcp, command, grpc = (dig(probe, kind) for kind in ("httpGet", "tcpSocket", "exec", "grpc"))
    what = "unknown"
    if http is not None:
        scheme, host = http.get("scheme", "http").lower(), http.get("host", "")
        what = f"http-get {scheme}://{host}:{http.get('port')}{http.get('path', '/')}"
    elif tcp is not None:
        what = f"tcp-socket {tcp.get('host', '')}:{tcp.get('port')}"
    elif command is not None:
        what = f"exec [{' '.join(command.get('command') or ())}]"
    elif grpc is not None:
        what = f"grpc <pod>:{grpc.get('port')}"
    return (
        f"{what} delay={number(probe, 'initialDelaySeconds')}s timeout={number(probe, 'timeoutSeconds')}s "
        f"period={number(probe, 'periodSeconds')}s #success={number(probe, 'successThreshold')} "
        f"#failure={number(probe, 'failureThreshold')}"
    )


def _env_source(source: Raw) -> str:
    kind = "configMapRef" if "configMapRef" in source else "secretRef"
    prefix = f" with prefix {source['prefix']}" if source.get("prefix") else ""
    return f"{dig(source, kind, 'name')} ({'ConfigMap' if kind == 'configMapRef' else 'Secret'}){prefix}"


def _env(variable: Raw) -> str:
    source = dig(variable, "valueFrom")
    if not source:
        return str(variable.get("value", ""))
    for kind, title in (("configMapKeyRef", "config map"), ("secretKeyRef", "secret")):
        if kind in source:
            return f"<set to the key '{source[kind].get('key')}' in {title} '{source[kind].get('name')}'>"
    if "fieldRef" in source:
        return f"({source['fieldRef'].get('apiVersion', 'v1')}:{source['fieldRef'].get('fieldPath')})"
    return f"({dig(source, 'resourceFieldRef', 'resource')})"
