"""`listwatch autoscale`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.choosing import chosen
from controllers.cli.errors import CliError
from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, file_options, global_options, resource_arguments
from controllers.cli.session import Session, with_session
from controllers.cli.targets import reference
from informer.errors import ApiError, Invalid
from informer.scale import scale_of

_PERCENT = re.compile(r"([0-9]+)%?")


class Target(click.ParamType[dict[str, Any]]):
    """What a metric is to be at: `70%` of what pods ask for, or a quantity for each pod."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The target, as a metric's spec has it."""
        if isinstance(value, dict):
            return value
        from controllers.core.quantities import scaled

        if value.endswith("%"):
            found = _PERCENT.fullmatch(value)
            if found is None or not int(found[1]):
                self.fail(f'"{value}" is no percentage such as 70%', param, ctx)
            return {"type": "Utilization", "averageUtilization": int(found[1])}
        try:
            if scaled(value, 1000) <= 0:
                raise Invalid("", "not positive")
        except Invalid:
            self.fail(f'"{value}" is no percentage such as 70%, nor a quantity such as 500m', param, ctx)
        return {"type": "AverageValue", "averageValue": value}


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `autoscale deployment web --min=2 --max=10 --cpu=70%`, `autoscale sts/db --max=5 --memory=1Gi`.",
)
@resource_arguments
@click.option("--min", "least", type=click.IntRange(min=1), help="The fewest pods; 1 if not given.")
@click.option("--max", "most", type=click.IntRange(min=1), required=True, help="The most pods.")
@click.option("--cpu", type=Target(), metavar="70%|500m", help="What cpu is to be at: of the requests, or a pod's.")
@click.option("--memory", type=Target(), metavar="70%|200Mi", help="The same for memory.")
@click.option("--cpu-percent", type=click.IntRange(min=1), help="As --cpu=N%, the older way to say it.")
@click.option("--name", help="The name of the autoscaler; that of what it scales if not given.")
@file_options
@making_options
@global_options
@with_session
async def autoscale(
    session: Session,
    resources: Sequence[str],
    least: int | None,
    most: int,
    cpu: dict[str, Any] | None,
    memory: dict[str, Any] | None,
    cpu_percent: int | None,
    name: str | None,
    files: Sequence[str],
    recursive: bool,
    making: Making,
) -> int:
    """Let a HorizontalPodAutoscaler choose the number of pods."""
    if least is not None and least > most:
        raise click.UsageError(f"--max=MAXPODS must be larger or equal to --min=MINPODS, max: {most}, min: {least}")
    if cpu_percent is not None:
        if cpu is not None:
            raise click.UsageError("--cpu and --cpu-percent exclude each other")
        cpu = {"type": "Utilization", "averageUtilization": cpu_percent}
    found, problems = await chosen(session, resources, making.namespace, files=files, recursive=recursive)
    if name is not None and len(found) > 1:
        raise click.UsageError("--name goes with one object only")
    metrics = [
        {"type": "Resource", "resource": {"name": resource, "target": target}}
        for resource, target in (("cpu", cpu), ("memory", memory))
        if target is not None
    ]
    for obj in found:
        try:
            scale_of(obj)
        except Invalid:
            problems.append(f"cannot autoscale {reference(obj)}: it has no scale")
            continue
        target = {"apiVersion": obj.TYPE.api_version, "kind": obj.TYPE.kind, "name": obj.name}
        spec: dict[str, Any] = {"scaleTargetRef": target, "maxReplicas": most}
        if least is not None:
            spec["minReplicas"] = least
        if metrics:
            spec["metrics"] = metrics
        raw = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name or obj.name, "namespace": obj.namespace},
            "spec": spec,
        }
        try:
            await making.make(session, raw, "autoscaled")
        except ApiError as error:
            problems.append(str(error))
    if problems:
        raise CliError(*problems)
    return 0
