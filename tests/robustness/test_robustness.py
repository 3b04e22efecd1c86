"""A short run of what `make robustness` does for long, and that its checks find what is wrong."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest

from kvstore.api import Put, Range
from kvstore.client import RemoteClient
from kvstore.errors import Compacted, Unavailable
from tests.robustness.history import Call, Granted, History, Seen
from tests.robustness.memory import measure
from tests.robustness.model import LeaseRevoke, State, Write, run
from tests.robustness.run import Run
from tests.robustness.server import serving

MIB = 1 << 20


async def test_killed_again_and_again_it_loses_nothing_and_tells_nothing_twice(tmp_path: Path) -> None:
    report = await Run(tmp_path / "data", seed=41).run(kills=5)
    assert report.killed == 5
    assert min(report.acknowledged, report.revisions, report.compactions, report.events, report.resumed) > 0


@pytest.mark.parametrize("point", ["in-commit", "in-removal"])
async def test_a_server_dies_at_the_point_it_was_told_and_keeps_what_it_acknowledged(
    tmp_path: Path, point: str
) -> None:
    acknowledged = compacted = 0
    async with serving(tmp_path, failpoint=f"{point}:2") as (server, address), RemoteClient([address]) as client:
        with pytest.raises(Unavailable):
            while True:
                acknowledged = (await client.put(b"k", b"v")).header.revision
                if acknowledged % 5 == 0:
                    await client.compact(acknowledged, physical=True)
                    compacted = acknowledged
        assert await server.wait() == -signal.SIGKILL
    async with serving(tmp_path) as (_, address), RemoteClient([address]) as client:
        revision = (await client.range(Range(b"k"))).header.revision
        assert revision - acknowledged in (0, 1)
        if point == "in-removal":
            assert compacted == 5
            with pytest.raises(Compacted):
                await client.compact(10)  # it was in force when the server died while it made room


@pytest.mark.parametrize("streams", [1, 100])
async def test_watches_that_nobody_reads_cost_a_bounded_amount_and_are_given_everything(
    tmp_path: Path, streams: int
) -> None:
    """The events are 15 MB."""
    result = await measure(tmp_path / "data", watches=500, streams=streams, events=30_000)
    assert result.unread < 150 * MIB


# ---- the checks themselves ------------------------------------------------------------------------------------------

A, B = Put(b"a", b"1"), Put(b"b", b"2", prev_kv=True)


def recorded(*operations: Write) -> History:
    """Operations one after the other, each acknowledged a second after it was sent, all of it right."""
    history = History()
    history.began(1)
    state: State = {}
    for number, operation in enumerate(operations):
        at = float(2 * number + 1)
        revision = history.revision + 1
        answer, changes, state = run(operation, state, revision)
        if changes:
            puts = {key: kv for key, kv in state.items() if kv.mod_revision == revision}
            history.seen.append(Seen(revision, at + 1, puts, [(change.key, change.value) for change in changes]))
        history.calls.append(Call(operation, 0, at, at + 1, history.revision, answer))
    return history


def test_a_right_history_passes() -> None:
    recorded(A, Range(b"a"), B, A, LeaseRevoke(5), Range(b"\0", b"\0")).check()


def test_an_undecided_write_may_have_happened_or_not() -> None:
    happened = recorded(A, B)
    happened.calls[1] = Call(B, 0, 3.0)
    happened.check()
    history = recorded(A)
    history.calls.append(Call(B, 0, 3.0))
    history.check()


def test_an_acknowledged_write_that_was_lost_is_found() -> None:
    history = recorded(A, B)
    del history.seen[1]
    with pytest.raises(AssertionError):
        history.check()


def test_a_revision_that_went_back_is_found() -> None:
    with pytest.raises(AssertionError, match="lost"):
        recorded(A, B).began(2)


def test_a_write_that_nobody_asked_for_is_found() -> None:
    history = recorded(A, B)
    del history.calls[1]
    with pytest.raises(AssertionError, match="nobody asked for"):
        history.check()


def test_a_write_of_a_killed_server_that_happens_later_is_found() -> None:
    history = recorded(A, B)
    history.calls[1] = Call(B, 0, 3.0)
    history.lives = [1, 2]
    with pytest.raises(AssertionError, match="nobody asked for"):
        history.check()


def test_a_stale_read_is_found() -> None:
    history = recorded(A, B, Range(b"a"))
    history.calls[2].revision = 2
    with pytest.raises(AssertionError, match="was known before"):
        history.check()


def test_a_read_of_another_state_is_found() -> None:
    history = recorded(A, Range(b"a"))
    history.calls[1].answer = (0, [])
    with pytest.raises(AssertionError, match="expected"):
        history.check()


def test_writes_in_the_wrong_order_are_found() -> None:
    history = recorded(A, B)
    first, second = history.calls
    first.invoked, first.returned, second.invoked, second.returned = 3.0, 4.0, 1.0, 2.0
    history.seen[1] = dataclasses.replace(history.seen[1], at=9.0)
    history.seen[0] = dataclasses.replace(history.seen[0], at=9.0)
    with pytest.raises(AssertionError, match=r"was known before|nobody had asked for"):
        history.check()


def test_a_lease_that_ran_out_early_is_found() -> None:
    history = recorded(Put(b"a", b"1", 5), LeaseRevoke(5))
    history.leases[5] = Granted(5, 2, 0.0, 0.5)
    del history.calls[1]
    history.seen[1] = dataclasses.replace(history.seen[1], at=2.5)
    history.check()
    history.seen[1] = dataclasses.replace(history.seen[1], at=1.5)
    with pytest.raises(AssertionError, match="ran out early"):
        history.check()
