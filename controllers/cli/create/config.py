"""`create configmap` and `create secret`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.create.sources import read_sources, source_options
from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, completing, global_options
from controllers.cli.session import Session, with_session


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `create configmap web --from-literal=level=info --from-file=web.conf`, `create cm web "
    "--from-file=conf.d/`.",
)
@click.argument("name")
@source_options
@making_options
@global_options
@with_session
async def configmap(
    session: Session,
    name: str,
    literals: Sequence[str],
    files: Sequence[str],
    env_files: Sequence[str],
    making: Making,
) -> None:
    """Create a ConfigMap of literals, files, directories and env files."""
    raw: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    for key, value in sorted(read_sources(literals, files, env_files).items()):
        try:
            raw.setdefault("data", {})[key] = value.decode("utf-8")
        except UnicodeDecodeError:
            raw.setdefault("binaryData", {})[key] = base64.b64encode(value).decode()
    await making.make(session, raw)


@click.group()
def secret() -> None:
    """Create a Secret: generic of literals and files, tls of a key pair."""


@secret.command(
    cls=KubectlCommand, epilog="Example: `create secret generic db --from-literal=password=s3cret --from-file=ca.crt`."
)
@click.argument("name")
@source_options
@click.option("--type", "kind", help="What kind of secret it is.  [default: Opaque]")
@making_options
@global_options
@with_session
async def generic(
    session: Session,
    name: str,
    literals: Sequence[str],
    files: Sequence[str],
    env_files: Sequence[str],
    kind: str | None,
    making: Making,
) -> None:
    """Create a Secret of literals, files, directories and env files."""
    await making.make(session, _secret(name, read_sources(literals, files, env_files), kind))


@secret.command(cls=KubectlCommand)
@click.argument("name")
@click.option("--cert", required=True, metavar="FILE", help="The certificate.", shell_complete=completing("files"))
@click.option("--key", required=True, metavar="FILE", help="Its private key.", shell_complete=completing("files"))
@making_options
@global_options
@with_session
async def tls(session: Session, name: str, cert: str, key: str, making: Making) -> None:
    """Create a Secret of a certificate and its private key."""
    data = read_sources((), (f"tls.crt={cert}", f"tls.key={key}"), ())
    await making.make(session, _secret(name, data, "kubernetes.io/tls"))


def _secret(name: str, data: dict[str, bytes], kind: str | None) -> dict[str, Any]:
    raw: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    if data:
        raw["data"] = {key: base64.b64encode(value).decode() for key, value in sorted(data.items())}
    if kind:
        raw["type"] = kind
    return raw
