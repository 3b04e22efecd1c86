"""`listwatch set image`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.editing import edit_each
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    global_options,
    namespace_option,
    selector_option,
)
from controllers.cli.session import Session, with_session
from controllers.cli.targets import parse_targets, read_targets, reference
from controllers.cli.telling import dry_run_option, output_option
from informer.resources import Resource


@click.group(name="set")
def set_() -> None:
    """Change a part of objects."""


@set_.command(
    cls=KubectlCommand,
    epilog="Examples: `set image deployment/web nginx=nginx:1.27`, `set image deploy web '*=web:2'`.",
)
@click.argument("arguments", nargs=-1, metavar="KIND[/NAME] [NAME]... CONTAINER=IMAGE...")
@namespace_option
@selector_option
@dry_run_option
@output_option
@global_options
@with_session
async def image(
    session: Session, arguments: Sequence[str], namespace: str | None, selector: str, dry_run: bool, output: str | None
) -> int:
    """Change the images of containers, in pods and in what has a pod template; `*` is every container."""
    resources = [argument for argument in arguments if "=" not in argument]
    images = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if not images:
        raise click.UsageError("say which image: CONTAINER=IMAGE")
    if empty := [name for name, value in images.items() if not name or not value]:
        raise click.UsageError(f'"{empty[0]}={images[empty[0]]}": expected CONTAINER=IMAGE')
    targets = parse_targets(session.kinds, resources, namespace)
    if any(target.name is None for target in targets) and not selector:
        raise click.UsageError("name the objects, or select them by -l")
    found, problems = await read_targets(session.objects, targets, selector)

    return await edit_each(
        session,
        found,
        lambda obj: _set(obj, images),
        "image updated",
        problems=problems,
        quiet_if_unchanged=True,
        output=output,
        dry_run=dry_run,
    )


def _set(obj: Resource, images: dict[str, str]) -> bool:
    """Put the images in; whether that changed anything."""
    spec: dict[str, Any] = obj.raw.get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") or ({} if "template" in spec else spec)
    containers = [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]
    if not containers:
        raise CliError(f"{reference(obj)} has no containers")
    changed = False
    for name, wanted in images.items():
        chosen = [each for each in containers if name in ("*", each.get("name"))]
        if not chosen:
            there = ", ".join(str(each.get("name")) for each in containers)
            raise CliError(f'unable to find container named "{name}" in {reference(obj)}; it has {there}')
        for each in chosen:
            changed = changed or each.get("image") != wanted
            each["image"] = wanted
    return changed
