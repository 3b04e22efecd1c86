"""`create poddisruptionbudget`, `create priorityclass` and `create quota`."""

from __future__ import annotations

from typing import Any

import click

from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session
from informer.selectors import Operator, Selector

_HIGHEST = 1_000_000_000  # of a priority that is not the system's own


def _amount(text: str) -> int | str:
    """A number, or a percentage as it is."""
    return int(text) if text.isdigit() else text


@click.command(cls=KubectlCommand, epilog="Example: `create pdb web --selector=app=web --min-available=50%`.")
@click.argument("name")
@click.option("--selector", required=True, help="Which pods.")
@click.option("--min-available", help="So many pods, or so much of them, stay.")
@click.option("--max-unavailable", help="So many pods, or so much of them, may be away.")
@making_options
@global_options
@with_session
async def poddisruptionbudget(
    session: Session, name: str, selector: str, min_available: str | None, max_unavailable: str | None, making: Making
) -> None:
    """Create a PodDisruptionBudget."""
    if (min_available is None) == (max_unavailable is None):
        raise click.UsageError("one of --min-available or --max-unavailable must be specified, and not both")
    spec: dict[str, Any] = {"selector": _label_selector(Selector.parse(selector))}
    if min_available is not None:
        spec["minAvailable"] = _amount(min_available)
    if max_unavailable is not None:
        spec["maxUnavailable"] = _amount(max_unavailable)
    raw = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}
    await making.make(session, raw)


def _label_selector(selector: Selector) -> dict[str, Any]:
    """The selector as an object has it."""
    if selector.empty:
        raise click.UsageError("a selector must be specified")
    names = {
        Operator.IN: "In",
        Operator.NOT_IN: "NotIn",
        Operator.EXISTS: "Exists",
        Operator.DOES_NOT_EXIST: "DoesNotExist",
    }
    made: dict[str, Any] = {}
    for each in selector.requirements:
        if each.operator is Operator.IN and len(each.values) == 1:
            made.setdefault("matchLabels", {})[each.key] = next(iter(each.values))
        elif each.operator in names:
            expression: dict[str, Any] = {"key": each.key, "operator": names[each.operator]}
            if each.values:
                expression["values"] = sorted(each.values)
            made.setdefault("matchExpressions", []).append(expression)
        else:
            raise click.UsageError(f'an object cannot select by "{each}"')
    return made


@click.command(cls=KubectlCommand, epilog="Example: `create priorityclass high --value=1000 --description='first'`.")
@click.argument("name")
@click.option("--value", type=click.IntRange(-(2**31), _HIGHEST), default=0, help="The priority; more goes first.")
@click.option("--global-default", is_flag=True, help="Of pods that name no class.")
@click.option("--description", default="", help="What it is for.")
@click.option(
    "--preemption-policy",
    type=click.Choice(["PreemptLowerPriority", "Never"]),
    default="PreemptLowerPriority",
    help="Whether pods of lower priority may be put out for it.",
)
@making_options
@global_options
@with_session
async def priorityclass(
    session: Session,
    name: str,
    value: int,
    global_default: bool,
    description: str,
    preemption_policy: str,
    making: Making,
) -> None:
    """Create a PriorityClass."""
    raw: dict[str, Any] = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "globalDefault": global_default,
        "preemptionPolicy": preemption_policy,
    }
    if description:
        raw["description"] = description
    await making.make(session, raw)


@click.command(cls=KubectlCommand, epilog="Example: `create quota small --hard=pods=10,requests.cpu=2`.")
@click.argument("name")
@click.option("--hard", default="", metavar="RESOURCE=QUANTITY,...", help="What may be used at most.")
@click.option("--scopes", default="", metavar="SCOPE,...", help="Which pods it counts.")
@making_options
@global_options
@with_session
async def quota(session: Session, name: str, hard: str, scopes: str, making: Making) -> None:
    """Create a ResourceQuota."""
    spec: dict[str, Any] = {}
    for each in filter(None, hard.split(",")):
        resource, equals, quantity = each.partition("=")
        if not equals or not resource or not quantity:
            raise click.UsageError(f'--hard: "{each}": expected RESOURCE=QUANTITY')
        spec.setdefault("hard", {})[resource] = quantity
    if scopes:
        spec["scopes"] = [each for each in scopes.split(",") if each]
    raw = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}
    await making.make(session, raw)
