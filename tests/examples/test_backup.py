"""The backup example: on virtual time with real databases, and as the command that it is. Its failures are simulated in
tests/simulation."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from controllers import Manager
from controllers.core.types import Event
from informer import Invalid, ObjectClient
from kvstore.api import Client
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.controllers.cluster import virtual_now
from tests.simulation.examples import EXAMPLES, example

backup = example("backup")
virtual_time = pytest.mark.virtual_time


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedClient]:
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False, inline_commits=True)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()


def make_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE orders (item TEXT); INSERT INTO orders VALUES ('first');")
    return path


@asynccontextmanager
async def running(store: Client, copies: Path) -> AsyncIterator[ObjectClient]:
    manager = Manager(client=store, now=virtual_now, rng=random.Random(1))
    backup.BackupController(copies).register(manager)
    async with manager:
        yield manager.client


async def make(client: ObjectClient, database: Path, **spec: Any) -> None:
    wished = {"database": str(database), "everySeconds": 3600, "keep": 3, **spec}
    await client.create(backup.Backup(name="shop", namespace="default", spec=wished))


async def get(client: ObjectClient) -> Any:
    return await client.get(backup.Backup, "shop", "default")


def files(copies: Path) -> list[Path]:
    return sorted(copies.glob("*/*"))


@virtual_time
async def test_copies_are_taken_on_schedule_kept_and_removed(store: EmbeddedClient, tmp_path: Path) -> None:
    database, copies = make_database(tmp_path / "shop.sqlite"), tmp_path / "copies"
    async with running(store, copies) as client:
        await make(client, database)
        await asyncio.sleep(10)
        shop = await get(client)
        assert shop.status.copies == ["20260101T000000Z"]
        assert shop.metadata.finalizers == [backup.FINALIZER]
        (ready,) = shop.status.conditions
        assert (ready.type, ready.status, ready.reason) == ("Ready", "True", "UpToDate")

        with closing(sqlite3.connect(database)) as orders:
            orders.executescript("INSERT INTO orders VALUES ('second');")
        await asyncio.sleep(5 * 3600)
        assert [each[9:13] for each in (await get(client)).status.copies] == ["0300", "0400", "0500"]
        newest = files(copies)[-1]
        with closing(sqlite3.connect(newest)) as copy:
            assert [item for (item,) in copy.execute("SELECT item FROM orders")] == ["first", "second"]

        await client.patch(backup.Backup, "shop", {"spec": {"keep": 1}}, "default")
        await asyncio.sleep(1)
        assert files(copies) == [newest]
        await client.delete(backup.Backup, "shop", "default")
        await asyncio.sleep(1)
        assert not (await client.list(backup.Backup, "default")).items
        assert files(copies) == []


@virtual_time
async def test_the_directory_is_the_truth_after_a_restart(store: EmbeddedClient, tmp_path: Path) -> None:
    database, copies = make_database(tmp_path / "shop.sqlite"), tmp_path / "copies"
    async with running(store, copies) as client:
        await make(client, database)
        await asyncio.sleep(1800)
    (taken,) = files(copies)
    half = taken.with_name("20260101T001500Z.x.partial")
    half.touch()  # a crash while a copy was made
    async with running(store, copies) as client:
        await asyncio.sleep(1790)
        assert files(copies) == [taken]  # not due yet
        await asyncio.sleep(20)
        assert [path.name[9:13] for path in files(copies)] == ["0000", "0100"]
        taken.unlink()  # somebody cleans up by hand
        await asyncio.sleep(3600)
        assert [each[9:13] for each in (await get(client)).status.copies] == ["0100", "0200"]


@virtual_time
async def test_a_failure_is_told_and_tried_again(store: EmbeddedClient, tmp_path: Path) -> None:
    database, copies = tmp_path / "shop.sqlite", tmp_path / "copies"
    async with running(store, copies) as client:
        await make(client, database)
        await asyncio.sleep(10)
        (ready,) = (await get(client)).status.conditions
        assert (ready.status, ready.reason, ready.message) == ("False", "CopyFailed", "unable to open database file")
        assert not database.exists()
        assert files(copies) == []
        make_database(database)
        await asyncio.sleep(60)
        (ready,) = (await get(client)).status.conditions
        assert (ready.status, ready.reason) == ("True", "UpToDate")
        events = {each.reason: each for each in (await client.list(Event, "default")).items}
        assert events.keys() == {"BackupFailed", "BackupTaken"}
        assert events["BackupFailed"].type == "Warning"
        assert events["BackupFailed"].count > 1
        database.write_bytes(b"no database at all" * 100)
        await asyncio.sleep(3700)
        shop = await get(client)
        assert shop.status.conditions[0].message == "file is not a database"
        assert len(shop.status.copies) == len(files(copies)) == 1


@virtual_time
async def test_fewer_copies_are_kept_though_no_new_one_can_be_made(store: EmbeddedClient, tmp_path: Path) -> None:
    database, copies = make_database(tmp_path / "shop.sqlite"), tmp_path / "copies"
    async with running(store, copies) as client:
        await make(client, database)
        await asyncio.sleep(2 * 3600 + 10)
        assert len(files(copies)) == 3
        database.unlink()
        await asyncio.sleep(3600)
        await client.patch(backup.Backup, "shop", {"spec": {"keep": 1}}, "default")
        await asyncio.sleep(1)
        assert [path.name[9:13] for path in files(copies)] == ["0200"]


@virtual_time
async def test_a_wish_that_cannot_be_is_refused(store: EmbeddedClient, tmp_path: Path) -> None:
    async with running(store, tmp_path / "copies") as client:
        with pytest.raises(Invalid, match="keep"):
            await make(client, tmp_path / "x", keep=0)
        with pytest.raises(Invalid, match="everySeconds"):
            await make(client, tmp_path / "x", everySeconds=0)


def test_the_demonstration_takes_three_copies_and_removes_them(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "backup.py"), "--demo", "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len([line for line in told if line.endswith("Z.sqlite")]) == 3
    assert "the Backup is deleted, and 0 copies are left" in told
