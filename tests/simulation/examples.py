"""The reconcilers of examples/, and a composite, to be simulated."""

from __future__ import annotations

import importlib.util
import random
import sqlite3
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from controllers import Children, Context, Desired, Manager, Request
from controllers.apps.types import Deployment
from controllers.simulation import Process, Revision, Scenario
from tests.simulation.parts import Part, Parts, Site, part

EXAMPLES = Path(__file__).parents[2] / "examples"


@cache
def example(name: str) -> ModuleType:
    """The module of an example, which is not started."""
    spec = importlib.util.spec_from_file_location(f"simulated_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the names in its annotations are looked up
    spec.loader.exec_module(module)
    return module


class Websites(Scenario):
    """examples/website.py, beside a stand-in for the Deployment controller."""

    kind, children = example("website").Website, (Deployment,)

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)
        manager.add_controller(self.kind, example("website").reconcile, owns=[Deployment])
        return manager

    def surroundings(self, manager: Manager) -> None:
        @manager.reconciler(Deployment)
        async def run_pods(ctx: Context, request: Request) -> None:
            deployment = ctx.get(Deployment, request)
            if deployment is not None:
                deployment.status.ready_replicas = deployment.spec.replicas
                await ctx.update_status(deployment)

    def spec(self, rng: random.Random) -> dict[str, Any]:
        return {"image": rng.choice(["nginx", "caddy"]), "replicas": rng.randint(0, 3)}


class Composites(Parts):
    """A pure function of the parent."""

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)

        @manager.composite(Site, children=[Part])
        def desired(site: Site, children: Children) -> Desired:
            wanted = [part(site, number) for number in range(site.spec.replicas)]
            return Desired(wanted, {"ready": len(wanted)})

        return manager


class Backups(Scenario):
    """examples/backup.py, with directories and databases that are real."""

    kind = example("backup").Backup
    pauses = (0.0, 0.5, 20.0, 100.0, 200.0)
    runs = 20  # a copy that fails is tried again and again at first
    # Who takes finalizers off by force leaves copies behind: that is what they are for.
    operations: ClassVar = {name: each for name, each in Scenario.operations.items() if name != "force"}

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.copies = directory / "copies"
        self.checked: set[Path] = set()
        for name in ("x", "y"):
            with closing(sqlite3.connect(directory / f"{name}.sqlite")) as database:
                database.executescript(f"CREATE TABLE names (name TEXT); INSERT INTO names VALUES ('{name}');")

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)
        example("backup").BackupController(self.copies).register(manager)
        return manager

    def spec(self, rng: random.Random) -> dict[str, Any]:
        # Once in a while one that is not there.
        database = self.directory / f"{rng.choice('xxyyz')}.sqlite"
        return {"database": str(database), "everySeconds": rng.choice([150, 400]), "keep": rng.randint(1, 3)}

    def check_outside(self) -> None:
        for path in {*self.copies.glob("*/*.sqlite")} - self.checked:
            with closing(sqlite3.connect(path)) as copy:
                assert copy.execute("SELECT name FROM names").fetchone()[0] in ("x", "y")
            self.checked.add(path)

    def end_state(self, last: Revision) -> Any:
        found = {}
        for backup in last.of(self.kind):
            metadata, spec, status = backup["metadata"], backup["spec"], backup.get("status", {})
            directory = self.copies / f"default.{metadata['name']}.{metadata['uid']}"
            there = sorted(path.name for path in directory.glob("*"))
            ready = {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", ())}
            told = [f"{name}.sqlite" for name in status.get("copies", ())] == there
            # How many there are by now depends on how long it lived, and one that is not there can be copied no more.
            enough = len(there) <= spec["keep"] and (bool(there) or not ready or ready["Ready"][0] == "False")
            found[metadata["name"]] = (spec, ready, told, enough, metadata.get("finalizers"))
        living = {backup["metadata"]["uid"] for backup in last.of(self.kind)}
        left = [path.name for path in self.copies.glob("*") if path.suffix[1:] not in living]
        return found, len(left)


class ElectedBackups(Backups):
    """Two processes, of which one leads: files are not fenced."""

    processes = 2
