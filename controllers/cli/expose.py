"""`listwatch expose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from controllers.cli.choosing import chosen
from controllers.cli.errors import CliError
from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, file_options, global_options, resource_arguments
from controllers.cli.raw import dig, items, mapping
from controllers.cli.session import Session, with_session
from controllers.cli.targets import reference
from informer.errors import ApiError, Invalid
from informer.resources import Resource
from informer.selectors import Operator, Selector

_WORKLOADS = ("deployments.apps", "replicasets.apps", "statefulsets.apps")


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `expose deployment web --port=80 --target-port=8080`, `expose pod/db --cluster-ip=None`.",
)
@resource_arguments
@click.option("--port", type=click.IntRange(1, 65535), help="The Service's port; those of the containers if not given.")
@click.option("--target-port", metavar="PORT|NAME", help="The port of the pods; the same if not given.")
@click.option("--protocol", type=click.Choice(["TCP", "UDP", "SCTP"]), help="TCP if neither this nor the pods say.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["ClusterIP", "NodePort", "LoadBalancer"]),
    help="What Service.  [default: ClusterIP]",
)
@click.option("--name", help="The Service's name; that of the object if not given.")
@click.option("--selector", metavar="KEY=VALUE,...", default="", help="Which pods; the object's if not given.")
@click.option(
    "-l", "--labels", "labels", metavar="KEY=VALUE,...", help="The Service's labels; the object's if not given."
)
@click.option("--cluster-ip", help="Its address; None for a Service without one.")
@click.option("--external-ip", help="An address of a machine that also leads to it.")
@click.option("--session-affinity", type=click.Choice(["None", "ClientIP"]), help="Whether a client keeps its pod.")
@file_options
@making_options
@global_options
@with_session
async def expose(
    session: Session,
    resources: Sequence[str],
    port: int | None,
    target_port: str | None,
    protocol: str | None,
    kind: str | None,
    name: str | None,
    selector: str,
    labels: str | None,
    cluster_ip: str | None,
    external_ip: str | None,
    session_affinity: str | None,
    files: Sequence[str],
    recursive: bool,
    making: Making,
) -> int:
    """Make a Service of a Deployment, ReplicaSet, StatefulSet, Pod or another Service."""
    given = _pairs(selector, "--selector")
    marked = None if labels is None else _pairs(labels, "--labels")
    found, problems = await chosen(session, resources, making.namespace, files=files, recursive=recursive)
    if name is not None and len(found) > 1:
        raise click.UsageError("--name goes with one object only")
    for obj in found:
        try:
            ports = [_port(port, protocol)] if port is not None else _ports_of(obj, protocol)
            if not ports and cluster_ip != "None":
                raise CliError(f"couldn't find port via --port flag or introspection of {reference(obj)}")
            for each in ports:
                if target_port is not None:
                    each["targetPort"] = int(target_port) if target_port.isdigit() else target_port
            spec: dict[str, Any] = {"selector": given or _selector_of(obj)}
            if ports:
                spec["ports"] = ports
            more = {
                "type": kind,
                "clusterIP": cluster_ip,
                "externalIPs": [external_ip] if external_ip else None,
                "sessionAffinity": session_affinity,
            }
            spec |= {field: value for field, value in more.items() if value}
            metadata: dict[str, Any] = {"name": name or obj.name, "namespace": obj.namespace}
            own = marked if marked is not None else dict(mapping(obj.raw, "metadata", "labels"))
            if own:
                metadata["labels"] = own
            raw = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
            await making.make(session, raw, "exposed")
        except CliError as error:
            problems += error.lines
        except ApiError as error:
            problems.append(str(error))
    if problems:
        raise CliError(*problems)
    return 0


def _pairs(text: str, option: str) -> dict[str, str]:
    """`a=b,c=d`. Raises `UsageError` for anything else."""
    try:
        requirements = Selector.parse(text).requirements
    except Invalid as error:
        raise click.UsageError(f"{option}: {error.problem}") from None
    if any(each.operator is not Operator.IN or len(each.values) != 1 for each in requirements):
        raise click.UsageError(f'{option}: write KEY=VALUE,..., got "{text}"')
    return {each.key: next(iter(each.values)) for each in requirements}


def _port(number: int, protocol: str | None) -> dict[str, Any]:
    return {"port": number, "protocol": protocol or "TCP", "targetPort": number}


def _ports_of(obj: Resource, protocol: str | None) -> list[dict[str, Any]]:
    """The ports that its containers, or the Service's, have; with names if they are several."""
    if obj.TYPE.qualified == "services":
        found = [(each.get("port"), each.get("protocol")) for each in items(obj.raw, "spec", "ports")]
    else:
        pod = ("spec",) if obj.TYPE.qualified == "pods" else ("spec", "template", "spec")
        found = [
            (port.get("containerPort"), port.get("protocol"))
            for container in items(obj.raw, *pod, "containers")
            for port in items(container, "ports")
        ]
    ports = [_port(number, protocol or own) for number, own in dict.fromkeys(found) if isinstance(number, int)]
    if len(ports) > 1:
        for index, each in enumerate(ports, 1):
            each["name"] = f"port-{index}"
    return ports


def _selector_of(obj: Resource) -> dict[str, str]:
    """Which pods are behind the object. Raises `CliError` if it does not say by plain labels."""
    kind = obj.TYPE.qualified
    if kind == "pods":
        labels: Mapping[str, str] = mapping(obj.raw, "metadata", "labels")
        if not labels:
            raise CliError(f"{reference(obj)} has no labels and cannot be exposed")
        return dict(labels)
    if kind == "services":
        labels = mapping(obj.raw, "spec", "selector")
        if not labels:
            raise CliError(f"{reference(obj)} has no selector and cannot be exposed")
        return dict(labels)
    if kind not in _WORKLOADS:
        raise CliError(f"cannot expose a {obj.TYPE.kind}")
    if items(obj.raw, "spec", "selector", "matchExpressions"):
        raise CliError(f"{reference(obj)} selects its pods by expressions, a Service cannot: say --selector")
    return dict(dig(obj.raw, "spec", "selector", "matchLabels") or {})
