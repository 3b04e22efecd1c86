"""Everything that was asked and answered over many lives of one server, and the check that it fits one history.

The history is what a watch from the first revision gave: revision by revision, without a gap. Against it:

- each revision is the work of one operation that had been sent before it was seen, acknowledged or undecided, or of a
  lease that ran out; the model, given the state before, makes the very same changes;
- each acknowledged operation has the answer that the model gives at its revision; each read that of the state at the
  revision in its header;
- what was acknowledged before something else was sent has the smaller revision (linearizability in real time), and
  nobody is told of a revision before the operation that made it was sent;
- what a server that was killed had not done by then never happens.
"""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from kvstore.api import EventType, KeyValue, Range, WatchResponse
from tests.kvstore.validators import Change
from tests.robustness.model import LeaseRevoke, State, Write, run

FOREVER = float("inf")


@dataclasses.dataclass
class Call:
    """One operation. `returned` and `revision` (of the answer's header) only when it was acknowledged."""

    operation: Write
    life: int
    invoked: float
    returned: float = FOREVER
    revision: int = 0
    answer: object = None
    refused: bool = False  # an error that says that nothing was done

    def __str__(self) -> str:
        return f"{self.operation} sent {self.invoked:.4f}, answered {self.returned:.4f}: {self.revision} {self.answer}"


@dataclasses.dataclass
class Seen:
    """One revision as the watch gave it."""

    revision: int
    at: float
    puts: dict[bytes, KeyValue]
    changes: list[tuple[bytes, bytes | None]]


@dataclasses.dataclass
class Granted:
    """A lease; `invoked` is when it was asked for, `returned` when it was acknowledged, if it was."""

    id: int
    ttl: int
    invoked: float
    returned: float = FOREVER


class History:
    """The record of one data directory."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.seen: list[Seen] = []
        self.leases: dict[int, Granted] = {}
        self.compactions: dict[int, float] = {}  # revision -> when it was asked for
        self.compacted = -1  # the newest that was acknowledged
        self.lives: list[int] = []  # the revision at the start of each
        self.changes: list[Change] = []  # with what each replaced; filled by `check`
        self._states: list[State] = []

    @property
    def revision(self) -> int:
        """The newest revision that the watch has given."""
        return self.seen[-1].revision if self.seen else 1

    def watched(self, response: WatchResponse, at: float) -> None:
        """Take over what the watch of everything gave."""
        for revision, group in itertools.groupby(response.events, key=lambda event: event.kv.mod_revision):
            events = list(group)
            assert revision == self.revision + 1, f"after revision {self.revision} came {revision}"
            self.seen.append(
                Seen(
                    revision,
                    at,
                    {event.kv.key: event.kv for event in events if event.type is EventType.PUT},
                    [(event.kv.key, event.kv.value if event.type is EventType.PUT else None) for event in events],
                )
            )

    def began(self, revision: int) -> None:
        """A life of the server begins at a revision."""
        assert revision >= max((call.revision for call in self.calls), default=1), "an acknowledged revision was lost"
        assert revision >= self.revision, "a revision that was watched went away"
        self.lives.append(revision)

    # ---- the check ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError at the first thing that does not fit."""
        made: dict[int, list[Call]] = {}
        undecided = []
        for call in self.calls:
            if call.returned == FOREVER or isinstance(call.operation, LeaseRevoke):
                if not call.refused:
                    undecided.append(call)  # the answer to a revocation does not say at which revision it was
            else:
                made.setdefault(call.revision, []).append(call)
        sent = self._replay(made, undecided)
        self._check_answers()
        self._check_times(sent)
        self._check_leases()

    def _replay(self, acknowledged: dict[int, list[Call]], undecided: list[Call]) -> list[float]:
        """Make the states and changes; gives for each revision when the operation that made it was sent."""
        self._states, self.changes, self._writers = [{}, {}], [], {}
        sent = [0.0, 0.0]
        for seen in self.seen:
            before = self._states[-1]
            makers = [call for call in acknowledged.get(seen.revision, ()) if _made(call, before, seen)]
            assert len(makers) <= 1, f"revision {seen.revision} was given out twice: {makers}"
            maker = makers[0] if makers else self._guess(seen, before, undecided)
            if maker is None:
                lease = self._ran_out(seen, before)
                operation: Write = LeaseRevoke(lease)
                sent.append(0.0)
            else:
                operation = maker.operation
                self._writers[seen.revision] = maker
                sent.append(maker.invoked)
                assert maker.invoked <= seen.at, f"revision {seen.revision} was seen before it was asked for"
            _, changes, after = run(operation, before, seen.revision)
            found = [(change.key, change.value) for change in changes]
            assert found == seen.changes, f"revision {seen.revision}: {maker or operation} cannot make {seen.changes}"
            for key, kv in seen.puts.items():
                assert after.get(key) == kv, f"revision {seen.revision}: watched {kv}, expected {after.get(key)}"
            self.changes += changes
            self._states.append(after)
        return sent

    def _guess(self, seen: Seen, before: State, undecided: list[Call]) -> Call | None:
        life = bisect_left(self.lives, seen.revision) - 1
        for call in undecided:
            if call.life == life and call.invoked <= seen.at:
                _, changes, _ = run(call.operation, before, seen.revision)
                if [(change.key, change.value) for change in changes] == seen.changes:
                    undecided.remove(call)
                    if call.returned < FOREVER:
                        assert seen.revision <= call.revision, f"acknowledged before it was done: {call}"
                        call.revision = seen.revision
                    return call
        return None

    def _ran_out(self, seen: Seen, before: State) -> int:
        key, value = seen.changes[0]
        assert value is None, f"revision {seen.revision}: nobody asked for {seen.changes}"
        lease = self.leases.get(before[key].lease) if key in before else None
        assert lease is not None, f"revision {seen.revision}: nobody asked for the end of {key!r}"
        assert seen.at >= lease.invoked + lease.ttl, f"lease {lease} ran out early, at {seen.at}"
        return lease.id

    def _check_answers(self) -> None:
        for call in self.calls:
            if call.returned == FOREVER:
                continue
            writer = self._writers.get(call.revision) is call
            asked = call.operation.revision if isinstance(call.operation, Range) else 0
            assert asked <= call.revision <= self.revision, f"there is no such revision: {call}"
            state = self._states[call.revision - 1 if writer else asked or call.revision]
            answer, changes, _ = run(call.operation, state, call.revision)
            assert writer or not changes, f"acknowledged, and not in the history: {call}"
            assert answer == call.answer, f"{call}; expected {answer}"

    def _check_times(self, sent: list[float]) -> None:
        newest_sent = list(itertools.accumulate(sent, max))
        answered = [call for call in self.calls if call.returned < FOREVER]
        for call in answered:
            assert newest_sent[call.revision] <= call.returned, f"told of what nobody had asked for: {call}"
        returned = sorted(answered, key=lambda call: call.returned)
        times = [call.returned for call in returned]
        floors = list(itertools.accumulate((call.revision for call in returned), max, initial=0))
        for call in answered:
            floor = floors[bisect_right(times, call.invoked)]
            own = self._writers.get(call.revision) is call
            assert call.revision > floor if own else call.revision >= floor, f"revision {floor} was known before {call}"

    def _check_leases(self) -> None:
        ended = {
            call.operation.lease_id: call.revision
            for call in self.calls
            if isinstance(call.operation, LeaseRevoke) and call.returned < FOREVER
        }
        for seen in self.seen:
            for kv in seen.puts.values():
                known = kv.lease == 0 or kv.lease in self.leases
                assert known, f"nobody granted the lease of {kv}"
                assert seen.revision <= ended.get(kv.lease, seen.revision), f"its lease had been revoked: {kv}"

    def leases_that_must_live(self, now: float) -> Iterable[int]:
        """Acknowledged, not revoked as far as anybody asked, and not old enough to have run out."""
        revoked = {call.operation.lease_id for call in self.calls if isinstance(call.operation, LeaseRevoke)}
        for lease in self.leases.values():
            if lease.returned < FOREVER and lease.id not in revoked and now < lease.invoked + lease.ttl:
                yield lease.id


def _made(call: Call, before: State, seen: Seen) -> bool:
    """Whether the call made the revision. One that changed nothing may carry the same revision in its answer."""
    answer, changes, _ = run(call.operation, before, seen.revision)
    return answer == call.answer and [(change.key, change.value) for change in changes] == seen.changes
