"""`listwatch snapshot`: a store as a file, and data carried between stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Protocol, cast

import click

from controllers.cli.logs import configure_logs
from controllers.cli.options import KubectlCommand, Settings, global_options
from controllers.cli.session import run_until_done
from controllers.cli.table import table
from controllers.stores import open_store
from kvstore import snapshot as snapshots
from kvstore.api import Client
from kvstore.carry import Carried, carry

FILE = click.Path(path_type=Path, dir_okay=False)


class _Source(Protocol):
    """What both clients have beside `Client`."""

    def snapshot(self) -> AsyncGenerator[bytes, None]: ...


@click.group()
def snapshot() -> None:
    """Save, look at and restore a store; carry its data to and from an etcd."""


@snapshot.command(
    cls=KubectlCommand, epilog="Examples: `snapshot save backup.db`, `snapshot save backup.db --store ./data`."
)
@click.argument("file", type=FILE)
@global_options
def save(file: Path) -> int | None:
    """Write the store, as it is at one revision, to FILE. Writers go on meanwhile."""

    async def body(client: Client) -> None:
        async with aclosing(cast(_Source, client).snapshot()) as pieces:
            size = await snapshots.save(pieces, file)
        click.echo(f"snapshot of {size} bytes saved at {file}")

    return _on_store(body)


@snapshot.command(cls=KubectlCommand)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@global_options
def status(file: Path) -> None:
    """Check FILE, a snapshot of this store or of an etcd, and tell what is in it, in etcdctl's terms."""
    found = snapshots.status(file)
    row = (f"{found.hash:08x}", str(found.revision), str(found.records), str(found.size))
    for line in table(("HASH", "REVISION", "RECORDS", "BYTES"), [row]):
        click.echo(line)


@snapshot.command(cls=KubectlCommand, epilog="Example: `snapshot restore backup.db --data-dir ./restored`.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new directory.")
@click.option("--skip-hash-check", is_flag=True, help="FILE has no checksum behind it: an etcd's member/snap/db.")
@click.option("--bump-revision", type=click.IntRange(min=0), default=0, metavar="N", help="Raise the revision by N.")
@click.option("--mark-compacted", is_flag=True, help="Compact up to the raised revision; goes with --bump-revision.")
@global_options
def restore(file: Path, data_dir: Path, skip_hash_check: bool, bump_revision: int, mark_compacted: bool) -> None:
    """Make a data directory of FILE, a snapshot of this store or of an etcd, for `serve` or --store.

    It is a new cluster, with new ids. Keys, history, leases, users and alarms are those of FILE.
    """
    if mark_compacted != bool(bump_revision):
        raise click.UsageError("--bump-revision and --mark-compacted go together")
    snapshots.restore(file, data_dir, verify=not skip_hash_check, bump_revision=bump_revision)
    click.echo(f"snapshot {file} restored into {data_dir}")


@snapshot.command(
    "import", cls=KubectlCommand, epilog="Example: `snapshot import etcd://10.0.0.1:2379 --store ./data`."
)
@click.argument("source", metavar="STORE")
@click.option("--merge", is_flag=True, help="The store to write to need not be empty; what both have is overwritten.")
@global_options
def import_(source: str, merge: bool) -> int | None:
    """Carry every key and lease of another STORE, such as an etcd, into this one. History stays behind."""

    async def body(client: Client) -> None:
        async with open_store(source) as other:
            _tell(await carry(other, client, merge=merge))

    return _on_store(body)


@snapshot.command(cls=KubectlCommand, epilog="Example: `snapshot export etcd://10.0.0.1:2379 --store ./data`.")
@click.argument("target", metavar="STORE")
@click.option("--merge", is_flag=True, help="The store to write to need not be empty; what both have is overwritten.")
@global_options
def export(target: str, merge: bool) -> int | None:
    """Carry every key and lease of this store into another STORE, such as an etcd. History stays behind."""

    async def body(client: Client) -> None:
        async with open_store(target) as other:
            _tell(await carry(client, other, merge=merge))

    return _on_store(body)


def _tell(carried: Carried) -> None:
    click.echo(
        f"carried {carried.keys} keys and {carried.leases} leases, read at revision {carried.source_revision}; "
        f"written, the store is at revision {carried.target_revision}"
    )


def _on_store(body: Callable[[Client], Awaitable[None]]) -> int | None:
    settings: Settings = click.get_current_context().ensure_object(Settings)
    configure_logs("warning")

    async def run() -> None:
        async with open_store(settings.store) as client:
            await body(client)

    return run_until_done(run())
