"""`create deployment`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.create.containers import containers_of
from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `create deployment web --image=nginx --replicas=3 --port=80`, "
    "`create deploy once --image=busybox -- sleep 1000`.",
)
@click.argument("name")
@click.argument("command", nargs=-1, metavar="[-- COMMAND [ARGS]...]")
@click.option("--image", "images", multiple=True, required=True, help="A container's image; several are possible.")
@click.option("-r", "--replicas", type=click.IntRange(min=0), default=1, help="How many pods.  [default: 1]")
@click.option("--port", type=click.IntRange(1, 65535), help="The port that the (first) container listens on.")
@making_options
@global_options
@with_session
async def deployment(
    session: Session,
    name: str,
    command: Sequence[str],
    images: Sequence[str],
    replicas: int,
    port: int | None,
    making: Making,
) -> None:
    """Create a Deployment of images."""
    if len(images) > 1 and command:
        raise click.UsageError("cannot specify multiple --image options and a command")
    labels = {"app": name}
    await making.make(
        session,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": containers_of(images, command, port)},
                },
            },
        },
    )
