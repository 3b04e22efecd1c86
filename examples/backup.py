"""An operator of something that lasts: copies of SQLite databases, taken on a schedule, kept for a while, and removed.

    python examples/backup.py                        # until Ctrl-C; copies go to ./backups
    python examples/backup.py --demo                 # makes a database and its Backup, and stops after three copies
    listwatch run examples/backup.py                 # the same as the first; copies go where BACKUP_DIRECTORY says

    listwatch apply -f - <<END                       # in another terminal
    {"apiVersion": "example.com/v1", "kind": "Backup", "metadata": {"name": "shop"},
     "spec": {"database": "/srv/shop.sqlite", "everySeconds": 3600, "keep": 24}}
    END
    listwatch describe backup shop

What it teaches, beyond examples/website.py:
- The finalizer is stored before the first copy is made. Otherwise who deletes the Backup in between leaves copies that
  nobody knows of.
- What is outside the store cannot be written in one step with the store. So the directory is the truth and the status
  only tells of it: a crash between the two is made up for by the next run, which looks at the directory again.
- A copy gets its name when it is complete and on the disk. What else is there was left by a crash, and is removed.
- The store's fence keeps a deposed leader from writing objects, not files. So two processes at once must do no harm:
  each has a file of its own until it is complete, and nothing is removed before the store itself, not the cache, says
  that this Backup still is the one.
- `ctx.now()` and `requeue_after` make the schedule. After a restart nothing is remembered: the newest copy says when
  the next one is due.
- A failure is told to people three times: in a condition (how it is now), an event (what happened) and the log. It is
  raised as well, so that the runtime tries again, later and later.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from controllers import Context, LeaderElection, Manager, Request, Result
from controllers.conditions import set_status_condition
from controllers.core.types import Condition
from controllers.finalizers import add_finalizer, has_finalizer, remove_finalizer
from informer import Resource

FINALIZER = "example.com/copies"
STAMP = "%Y%m%dT%H%M%SZ"
COPY, PARTIAL = ".sqlite", ".partial"
BUSY = 5.0  # seconds for which a database that somebody writes to is waited for


class Backup(Resource, group="example.com", version="v1"):
    class Spec:
        database: Annotated[str, msgspec.Meta(min_length=1)]
        every_seconds: Annotated[int, msgspec.Meta(ge=1)] = 3600
        keep: Annotated[int, msgspec.Meta(ge=1)] = 24

    class Status:
        copies: list[str]
        last_copy: datetime | None
        observed_generation: int = 0
        conditions: list[Condition]


# ---- the directory: plain functions that block, for threads ---------------------------------------------------------


class Copies:
    """The copies of one Backup. Those of another object that had its name are in another directory."""

    def __init__(self, root: Path, backup: Backup) -> None:
        self.directory = root / f"{backup.namespace}.{backup.name}.{backup.metadata.uid}"

    def names(self) -> list[str]:
        """From the oldest on; a name is the time of the copy."""
        return sorted(path.stem for path in self.directory.glob(f"*{COPY}"))

    def take(self, database: Path, stamp: str, run: str) -> None:
        """Copy a database that may be in use. Raises sqlite3.Error or OSError, and leaves nothing half done."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f"{stamp}.{run}{PARTIAL}"
        try:
            # Read-only, or a database that is not there would be made. SQLite's own copying sees one moment of it.
            address = f"{database.absolute().as_uri()}?mode=ro"
            with (
                closing(sqlite3.connect(address, timeout=BUSY, uri=True)) as source,
                closing(sqlite3.connect(partial)) as target,
            ):
                source.backup(target)
                damage = target.execute("PRAGMA quick_check").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(f"the copy is damaged: {damage}")
            _sync(partial)
            partial.replace(self.directory / f"{stamp}{COPY}")
            _sync(self.directory)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a copy; one that is gone is fine."""
        (self.directory / f"{name}{COPY}").unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove what crashes have left."""
        for path in self.directory.glob(f"*{PARTIAL}"):
            path.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove everything; again if need be."""
        if self.directory.exists():
            shutil.rmtree(self.directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- the reconciler -------------------------------------------------------------------------------------------------


class BackupController:
    """Keeps the copies of each Backup as it wishes them. root: where all copies are."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def register(self, manager: Manager) -> None:
        """Add it to a manager. Copies take long: four Backups at a time do not wait for each other."""
        manager.add_controller(Backup, self.reconcile, workers=4)

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        backup = ctx.get(Backup, request)
        if backup is None:
            return None
        copies = Copies(self.root, backup)
        if backup.deleting:
            await self.clean_up(ctx, backup, copies)
            return None
        if add_finalizer(backup, FINALIZER):
            backup = await ctx.update(backup)
        await asyncio.to_thread(copies.remove_partial)
        try:
            taken = await self.take_if_due(ctx, backup, copies)
        except (sqlite3.Error, OSError) as error:
            ctx.event(backup, "Warning", "BackupFailed", str(error))
            await self.retain(ctx, backup, copies)  # fewer may be wished all the same
            await self.tell(ctx, backup, copies, "CopyFailed", str(error))
            raise
        if taken:
            ctx.event(backup, "Normal", "BackupTaken", f"Copied {backup.spec.database} as {taken}{COPY}")
        await self.retain(ctx, backup, copies)
        await self.tell(ctx, backup, copies, "UpToDate", "")
        names = await asyncio.to_thread(copies.names)
        return Result(requeue_after=max(0.001, (self.due(ctx, backup, names) - ctx.now()).total_seconds()))

    def due(self, ctx: Context, backup: Backup, names: list[str]) -> datetime:
        """When the next copy is to be taken: at once if there is none."""
        if not names:
            return ctx.now()
        return when(names[-1]) + timedelta(seconds=backup.spec.every_seconds)

    async def take_if_due(self, ctx: Context, backup: Backup, copies: Copies) -> str | None:
        """The name of the copy that was taken."""
        if self.due(ctx, backup, await asyncio.to_thread(copies.names)) > ctx.now():
            return None
        stamp = ctx.now().strftime(STAMP)
        await asyncio.to_thread(copies.take, Path(backup.spec.database), stamp, ctx.reconcile_id)
        return stamp

    async def retain(self, ctx: Context, backup: Backup, copies: Copies) -> None:
        """Remove the oldest copies, as many as are too many."""
        names = await asyncio.to_thread(copies.names)
        if len(names) <= backup.spec.keep:
            return
        live = await ctx.fetch(Backup, backup.name, backup.namespace)
        if live is None or live.metadata.uid != backup.metadata.uid:
            return
        for name in names[: -live.spec.keep]:  # as many as are wished now: they cannot be brought back
            await asyncio.to_thread(copies.remove, name)

    async def clean_up(self, ctx: Context, backup: Backup, copies: Copies) -> None:
        """Remove all copies, then let the object go. In this order: a crash in between does it again."""
        if not has_finalizer(backup, FINALIZER):
            return
        await asyncio.to_thread(copies.remove_all)
        remove_finalizer(backup, FINALIZER)
        await ctx.update(backup)

    async def tell(self, ctx: Context, backup: Backup, copies: Copies, reason: str, message: str) -> None:
        """Bring the status up to date. Nothing is written if it is: there is no time in it but that of copies."""
        names = await asyncio.to_thread(copies.names)
        status = backup.status
        status.copies = names
        status.last_copy = when(names[-1]) if names else None
        status.observed_generation = backup.metadata.generation
        set_status_condition(
            status.conditions,
            "Ready",
            not message,
            reason,
            message,
            now=ctx.now(),
            observed_generation=backup.metadata.generation,
        )
        await ctx.update_status(backup)


def when(name: str) -> datetime:
    """The time that is a copy's name."""
    return datetime.strptime(name, STAMP).replace(tzinfo=UTC)


# ---- the program ----------------------------------------------------------------------------------------------------

manager = Manager(leader_election=LeaderElection("backups"))
controller = BackupController(Path(os.environ.get("BACKUP_DIRECTORY", "backups")))
controller.register(manager)


async def demo(directory: Path) -> None:
    """Make a small database and its Backup, and stop when there are three copies of it."""
    database = directory / "shop.sqlite"
    with closing(sqlite3.connect(database)) as shop:
        shop.executescript("CREATE TABLE orders (item TEXT); INSERT INTO orders VALUES ('a backup');")
    spec = {"database": str(database), "everySeconds": 1, "keep": 3}
    await manager.client.apply(Backup(name="shop", namespace="default", spec=spec))
    while len((await manager.client.get(Backup, "shop", "default")).status.copies) < 3:
        await asyncio.sleep(0.1)
    print(*sorted(path.name for path in controller.root.glob(f"*/*{COPY}")), sep="\n")
    await manager.client.delete(Backup, "shop", "default")
    while await manager.client.list(Backup, "default"):
        await asyncio.sleep(0.1)
    print("the Backup is deleted, and", len(list(controller.root.iterdir())), "copies are left")
    manager.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies of SQLite databases, taken on a schedule.")
    parser.add_argument("--store", help="etcd://HOST:PORT,... or a data directory; default: the local store")
    parser.add_argument("--copies", type=Path, help="where copies go (default: BACKUP_DIRECTORY, or ./backups)")
    parser.add_argument("--demo", action="store_true", help="make a database, copy it three times, clean up, stop")
    options = parser.parse_args()
    manager.store = options.store
    controller.root = options.copies or controller.root
    if not options.demo:
        manager.run()
        return
    with tempfile.TemporaryDirectory() as name:
        controller.root = options.copies or Path(name) / "copies"
        manager.add_runnable(lambda: demo(Path(name)), "demo")
        manager.run()


if __name__ == "__main__":
    main()
