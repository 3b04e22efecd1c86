"""`listwatch set image`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.options import KubectlCommand, completing
from controllers.cli.session import Session, with_session
from controllers.cli.set.command import named, set_each, setting_options
from informer.resources import Resource


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `set image deployment/web nginx=nginx:1.27`, `set image deploy web '*=web:2'`.",
)
@click.argument(
    "resources",
    nargs=-1,
    metavar="KIND[/NAME] [NAME]... CONTAINER=IMAGE...",
    shell_complete=completing("resources"),
)
@setting_options
@with_session
async def image(session: Session, /, resources: Sequence[str], **options: Any) -> int:
    """Change the images of containers; `*` is every container."""
    named_ones = [argument for argument in resources if "=" not in argument]
    images = dict(argument.split("=", 1) for argument in resources if "=" in argument)
    if not images:
        raise click.UsageError("say which image: CONTAINER=IMAGE")
    if empty := [name for name, value in images.items() if not name or not value]:
        raise click.UsageError(f'"{empty[0]}={images[empty[0]]}": expected CONTAINER=IMAGE')

    def change(obj: Resource) -> bool:
        changed = False
        for name, wanted in images.items():
            for each in named(obj, name):
                changed = changed or each.get("image") != wanted
                each["image"] = wanted
        return changed

    return await set_each(session, named_ones, change, "image updated", **options)
