"""What is simulated: a kind, the manager that reconciles it, what users wish, and what must hold."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from controllers.leader import LeaderElection
from controllers.manager import Manager
from controllers.settings import Settings
from controllers.simulation.client import Faults, SimulatedClient
from controllers.simulation.user import OPERATIONS, Operation
from informer import Resource

Raw = dict[str, Any]

# What two lives with the same end differ in.
VOLATILE = frozenset(
    {
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "observedGeneration",
        "lastTransitionTime",
        "managedFields",
    }
)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Process(msgspec.Struct, frozen=True):
    """One process of the operator, from its start to its crash: what its Manager is to be made of."""

    name: str
    client: SimulatedClient
    now: Callable[[], datetime]
    rng: random.Random
    leader_election: LeaderElection | None

    @property
    def options(self) -> dict[str, Any]:
        """For `Manager(**process.options)`."""
        return {
            "client": self.client,
            "now": self.now,
            "rng": self.rng,
            "leader_election": self.leader_election,
            "settings": Settings(),  # not what this machine's environment says
        }


class Revision(msgspec.Struct, frozen=True):
    """The registry at a revision: key -> object, as JSON. `author` wrote it: a process, "user", "cluster" (the
    surroundings), or "somebody" (who wrote what was there once more); `changed` are the keys."""

    number: int
    author: str
    objects: Mapping[str, Raw]
    changed: Sequence[str]

    def of(self, cls: type[Resource]) -> Iterator[Raw]:
        """All objects of a kind."""
        prefix = cls.TYPE.prefix().decode()
        return (obj for key, obj in self.objects.items() if key.startswith(prefix))


class Scenario:
    """Subclass it; there is one for each life. Only `kind`, `manager` and `spec` have to be given.

    kind: what users make. children: what the reconciler makes of it in the store.
    processes: how many run at the same time, as candidates for one office. 1 = one, without leader election.
    steps, pauses: how often users or faults strike, and the seconds between them, drawn evenly.
    rest: seconds for which nothing may be written once the end is reached; runs: how many runs an object may have then.
    patience: seconds within which the end has to be reached after the last fault.
    directory: an empty one, for what is outside the store.
    """

    kind: type[Resource]
    children: Sequence[type[Resource]] = ()
    processes: int = 1
    faults: Faults = Faults()
    steps: int = 15
    pauses: Sequence[float] = (0.0, 0.05, 0.5, 3.0, 20.0)
    rest: float = 60.0
    runs: int = 3
    patience: float = 600.0
    operations: ClassVar[Mapping[str, Operation]] = OPERATIONS

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def manager(self, process: Process) -> Manager:
        """The operator, not started: called for each process, and again after each crash. Required."""
        raise NotImplementedError

    def spec(self, rng: random.Random) -> Raw:
        """A spec that a user may wish. Required."""
        raise NotImplementedError

    def surroundings(self, manager: Manager) -> None:
        """Add what else runs in the cluster and never fails; a garbage collector is there."""

    def check(self, revision: Revision) -> None:
        """Raise AssertionError if the registry must not look like this. Called for every revision, in order."""

    def check_outside(self) -> None:
        """The same for what is outside the store; called after revisions."""

    def end_state(self, last: Revision) -> Any:
        """What counts of the end: has to be that of a life without faults in which users wished the same at once."""
        return comparable(last, [self.kind, *self.children])


def comparable(revision: Revision, kinds: Sequence[type[Resource]]) -> list[Raw]:
    """The objects of these kinds without what differs from life to life: uids, versions, times, generated names."""
    found = [_comparable(obj) for cls in kinds for obj in revision.of(cls)]
    return sorted(found, key=lambda obj: msgspec.json.encode(obj, order="deterministic"))


def _comparable(obj: Raw) -> Raw:
    result: Raw = _without(obj)
    metadata = result["metadata"]
    if "generateName" in metadata:
        metadata["name"] = metadata["generateName"]
    # What `apply` and the user's `touch` leave behind.
    for field, ours in (("annotations", LAST_APPLIED), ("labels", "touched")):
        metadata[field] = {key: value for key, value in metadata.get(field, {}).items() if key != ours}
    return result


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(each) for key, each in value.items() if key not in VOLATILE}
    return [_without(each) for each in value] if isinstance(value, list) else value
