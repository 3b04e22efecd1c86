"""`listwatch set resources`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.options import KubectlCommand, resource_arguments
from controllers.cli.raw import mapping
from controllers.cli.session import Session, with_session
from controllers.cli.set.command import containers_option, named, set_each, setting_options
from informer.errors import Invalid
from informer.resources import Resource


@click.command(
    cls=KubectlCommand,
    epilog="Example: `set resources deploy/web --requests=cpu=100m,memory=64Mi --limits=memory=128Mi -c web`.",
)
@resource_arguments
@click.option(
    "--requests", default="", metavar="RESOURCE=QUANTITY,...", help="What a pod is given for sure; 0 takes it away."
)
@click.option("--limits", default="", metavar="RESOURCE=QUANTITY,...", help="What it gets at most; 0 takes it away.")
@containers_option
@setting_options
@with_session
async def resources(
    session: Session, /, resources: Sequence[str], requests: str, limits: str, names: str, **options: Any
) -> int:
    """Set what containers request and may use."""
    wanted = {"requests": _quantities(requests, "--requests"), "limits": _quantities(limits, "--limits")}
    if not any(wanted.values()):
        raise click.UsageError("you must specify an update to requests or limits")

    def change(obj: Resource) -> bool:
        changed = False
        for container in named(obj, names):
            for field, quantities in wanted.items():
                before = dict(mapping(container, "resources", field))
                after = {key: value for key, value in {**before, **quantities}.items() if value != "0"}
                if after != before:
                    changed = True
                    container.setdefault("resources", {})[field] = after
        return changed

    return await set_each(session, resources, change, "resource requirements updated", **options)


def _quantities(text: str, option: str) -> dict[str, str]:
    from controllers.core.quantities import scaled

    found = {}
    for each in filter(None, text.split(",")):
        resource, equals, quantity = each.partition("=")
        try:
            if not equals or not resource:
                raise Invalid("", "expected RESOURCE=QUANTITY")
            scaled(quantity, 1000)
        except Invalid as error:
            raise click.UsageError(f'{option}: "{each}": {error.problem}') from None
        found[resource] = quantity
    return found
