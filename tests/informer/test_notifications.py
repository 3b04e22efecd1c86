from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from informer.cache import Change, Metadata, Stored
from informer.notifications import Notifications, coalesce


def stored(revision: int) -> Stored:
    return Stored("a/x", b"%d" % revision, str(revision), Metadata())


A, B, C = stored(1), stored(2), stored(3)


@pytest.mark.parametrize(
    ("notifications", "expected"),
    [
        ([Change(None, A), Change(A, B)], (Change(None, B),)),
        ([Change(None, A, initial=True), Change(A, B)], (Change(None, B, initial=True),)),
        ([Change(None, A), Change(A, B), Change(B, None)], ()),
        ([Change(A, B), Change(B, C)], (Change(A, C),)),
        ([Change(A, B), Change(B, None, final_state_known=False)], (Change(B, None, final_state_known=False),)),
        ([Change(A, None), Change(None, B)], (Change(A, None), Change(None, B))),
        ([Change(A, None), Change(None, B), Change(B, C)], (Change(A, None), Change(None, C))),
        ([Change(A, None), Change(None, B), Change(B, None)], (Change(A, None),)),
    ],
)
def test_coalescing_rules(notifications: list[Change], expected: tuple[Change, ...]) -> None:
    pending: tuple[Change, ...] = ()
    for change in notifications:
        pending = coalesce(pending, change)
    assert pending == expected


@given(exists=st.booleans(), steps=st.lists(st.sampled_from(["put", "delete", "resync"]), max_size=30))
def test_coalesced_notifications_lead_to_the_same_state(exists: bool, steps: list[str]) -> None:
    told = now = stored(1) if exists else None
    pending: tuple[Change, ...] = ()
    for revision, step in enumerate(steps, start=2):
        if now is None and step != "put":
            continue
        new = {"put": stored(revision), "delete": None, "resync": now}[step]
        pending = coalesce(pending, Change(now, new))
        now = new
        assert len(pending) <= 2
    for change in pending:
        if change.old is not None:
            assert told is not None
            assert change.new is None or change.old == told
        else:
            assert told is None
        told = change.new
    assert told == now


KEYS = st.sampled_from(["a", "b", "c", "d"])


class NotificationsMachine(RuleBasedStateMachine):
    """Whatever happens while a handler takes its time: what it is told of an object joins up and ends in the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        self.there: dict[str, Stored] = {}
        self.told: dict[str, Stored] = {}
        self.taken = self.put_in = 0
        self.ended = False

    def state(self, key: str) -> Stored:
        self.revision += 1
        return Stored(key, b"%d" % self.revision, str(self.revision), Metadata())

    @initialize(keys=st.sets(KEYS), limit=st.integers(1, 8))
    def begin(self, keys: set[str], limit: int) -> None:
        self.queue = Notifications(limit)
        self.first = [self.state(key) for key in sorted(keys)]
        self.there = {stored.key: stored for stored in self.first}
        self.queue.begin(self.first, 0.0)
        self.put_in = len(self.first)

    @rule(key=KEYS)
    def write(self, key: str) -> None:
        new = self.state(key)
        self.happened([Change(self.there.get(key), new)])
        self.there[key] = new

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        if key in self.there:
            self.happened([Change(self.there.pop(key), None)])

    @rule(key=KEYS)
    def replace(self, key: str) -> None:
        if key in self.there:
            old, new = self.there[key], self.state(key)
            self.happened([Change(old, None), Change(None, new)])
            self.there[key] = new

    def happened(self, changes: list[Change]) -> None:
        self.put_in += len(changes)
        self.queue.put(changes, float(self.revision))

    @rule()
    def take(self) -> None:
        oldest = self.queue.oldest()
        taken = self.queue.take()
        if taken is None:
            assert oldest is None
            return
        came, changes = taken
        assert came == oldest
        if not changes:
            assert not self.ended
            self.ended = True
        self.taken += len(changes)
        for change in changes:
            assert not (change.initial and self.ended)
            told = self.told.pop(change.key, None)
            if change.new is None:
                assert told is not None  # the last state, which it was perhaps spared
            else:
                assert told == change.old
            if change.new is not None:
                self.told[change.key] = change.new

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "queue"):
            self.queue._check()
            assert self.taken + self.queue.coalesced + self.queue.pending == self.put_in

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            while self.queue.oldest() is not None:
                self.take()
            assert self.told == self.there
            assert self.ended
            assert self.queue.pending == 0


TestNotifications = NotificationsMachine.TestCase
TestNotifications.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_forgetting_leaves_nothing() -> None:
    queue = Notifications(1)
    queue.begin([stored(1)], 1.0)
    queue.put([Change(A, B)], 2.0)
    queue.clear()
    assert (queue.pending, queue.oldest(), queue.take()) == (0, None, None)
