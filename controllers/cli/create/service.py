"""`create service`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session


class Port(click.ParamType[dict[str, Any]]):
    """`80` or `80:8080`: the Service's port, and the port or the name of one of the pods."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """As a Service has it."""
        if isinstance(value, dict):
            return value
        port, colon, target = value.partition(":")
        if not port.isdigit() or not 1 <= int(port) <= 65535 or (colon and not target):
            self.fail(f'"{value}" is no port such as 80 or 80:8080', param, ctx)
        if target.isdigit() and not 1 <= int(target) <= 65535:
            self.fail(f'"{value}": {target} is no port', param, ctx)
        aim = int(target) if target.isdigit() else target or int(port)
        return {"name": value.replace(":", "-"), "port": int(port), "protocol": "TCP", "targetPort": aim}


_TCP = click.option("--tcp", "ports", type=Port(), multiple=True, metavar="PORT[:TARGET]", help="A port.")


@click.group()
def service() -> None:
    """Create a Service for the pods with the label app=NAME."""


def _raw(name: str, kind: str, ports: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    spec: dict[str, Any] = {"type": kind, "selector": labels, **more}
    if ports:
        spec["ports"] = [*ports]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec}


@service.command(cls=KubectlCommand, epilog="Example: `create service clusterip web --tcp=80:8080`.")
@click.argument("name")
@_TCP
@click.option("--clusterip", help="Its address; None for a Service without one.")
@making_options
@global_options
@with_session
async def clusterip(
    session: Session, name: str, ports: Sequence[dict[str, Any]], clusterip: str | None, making: Making
) -> None:
    """Create a Service with an address inside the cluster."""
    if not ports and clusterip != "None":
        raise click.UsageError("at least one tcp port specifier must be provided")
    more = {"clusterIP": clusterip} if clusterip else {}
    await making.make(session, _raw(name, "ClusterIP", ports, **more))


@service.command(cls=KubectlCommand)
@click.argument("name")
@_TCP
@click.option("--node-port", type=click.IntRange(1, 65535), help="The port of each node; of one --tcp.")
@making_options
@global_options
@with_session
async def nodeport(
    session: Session, name: str, ports: Sequence[dict[str, Any]], node_port: int | None, making: Making
) -> None:
    """Create a Service that has a port on each node."""
    if not ports:
        raise click.UsageError("at least one tcp port specifier must be provided")
    if node_port is not None:
        if len(ports) > 1:
            raise click.UsageError("--node-port goes with one --tcp only")
        ports = [{**ports[0], "nodePort": node_port}]
    await making.make(session, _raw(name, "NodePort", ports))


@service.command(cls=KubectlCommand)
@click.argument("name")
@_TCP
@making_options
@global_options
@with_session
async def loadbalancer(session: Session, name: str, ports: Sequence[dict[str, Any]], making: Making) -> None:
    """Create a Service behind a load balancer."""
    if not ports:
        raise click.UsageError("at least one tcp port specifier must be provided")
    await making.make(session, _raw(name, "LoadBalancer", ports))


@service.command(cls=KubectlCommand)
@click.argument("name")
@_TCP
@click.option("--external-name", required=True, help="The name that it stands for.")
@making_options
@global_options
@with_session
async def externalname(
    session: Session, name: str, ports: Sequence[dict[str, Any]], external_name: str, making: Making
) -> None:
    """Create a Service that stands for a name outside."""
    await making.make(session, _raw(name, "ExternalName", ports, externalName=external_name))
