"""In which order waiting pods are tried, and when again."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.core.scheduling import Change
from controllers.core.scheduling.queue import SchedulingQueue


def drained(queue: SchedulingQueue, now: float = 0.0) -> list[str]:
    found = []
    while (key := queue.pop(now)) is not None:
        found.append(key)
    return found


def test_higher_priority_first_then_the_older() -> None:
    queue = SchedulingQueue()
    queue.add("young", 0, "2026-01-02")
    queue.add("old", 0, "2026-01-01")
    queue.add("urgent", 7, "2026-01-03")
    queue.add("later", 0, "2026-01-01")
    queue.add("least", -1, "2026-01-01")
    assert drained(queue) == ["urgent", "old", "later", "young", "least"]


def test_a_failure_backs_off_up_to_ten_seconds() -> None:
    queue = SchedulingQueue()
    queue.add("pod", 0, "")
    now, waits = 0.0, []
    for _ in range(6):
        assert queue.pop(now) == "pod"
        queue.retry("pod", now)
        due = queue.next_time()
        assert due is not None
        assert queue.pop(due - 0.001) is None
        waits.append(due - now)
        now = due
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_parked_pod_waits_for_a_change_that_may_help() -> None:
    queue = SchedulingQueue()
    queue.add("pod", 0, "")
    queue.pop(0.0)
    queue.park("pod", 0.0, [Change.NODE])
    assert queue.parked == 1
    assert queue.next_time() is None
    assert not queue.wake(Change.POD_GONE)
    assert drained(queue, 100.0) == []
    assert queue.wake(Change.NODE)
    assert not queue.wake(Change.NODE)
    assert queue.pop(0.5) is None
    assert queue.pop(1.0) == "pod"


def test_a_pod_that_changes_is_tried_again() -> None:
    queue = SchedulingQueue()
    queue.add("pod", 0, "")
    queue.pop(0.0)
    queue.add("pod", 0, "")  # in hand
    queue.park("pod", 0.0, [])
    assert queue.pop(1.0) == "pod"
    queue.park("pod", 1.0, [])
    queue.add("pod", 0, "")
    assert queue.pop(2.9) is None
    assert queue.pop(3.0) == "pod"


class QueueMachine(RuleBasedStateMachine):
    """No pod is lost, none is handed out twice."""

    keys = st.sampled_from("abcde")

    def __init__(self) -> None:
        super().__init__()
        self.queue = SchedulingQueue()
        self.now = 0.0
        self.known: set[str] = set()
        self.in_hand: set[str] = set()

    @rule(key=keys, priority=st.integers(0, 2))
    def add(self, key: str, priority: int) -> None:
        self.queue.add(key, priority, "")
        self.known.add(key)

    @rule(key=keys)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.known.discard(key)
        self.in_hand.discard(key)

    @rule()
    def pop(self) -> None:
        key = self.queue.pop(self.now)
        if key is not None:
            assert key in self.known - self.in_hand
            self.in_hand.add(key)

    @rule(data=st.data(), park=st.booleans(), change=st.sampled_from(Change))
    def fail(self, data: st.DataObject, park: bool, change: Change) -> None:
        if self.in_hand:
            key = data.draw(st.sampled_from(sorted(self.in_hand)))
            self.in_hand.discard(key)
            if park:
                self.queue.park(key, self.now, [change])
            else:
                self.queue.retry(key, self.now)

    @rule(change=st.sampled_from(Change))
    def wake(self, change: Change) -> None:
        self.queue.wake(change)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agrees(self) -> None:
        self.queue._check()
        assert {key for key in "abcde" if key in self.queue} == self.known
        assert len(self.queue._backing_off) + len(self.queue._active) <= 200

    def teardown(self) -> None:
        for change in Change:
            self.queue.wake(change)
        assert set(drained(self.queue, self.now + 10.0)) == self.known - self.in_hand


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
