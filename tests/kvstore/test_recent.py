"""Recent records: right whatever was dropped, and never more than the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.recent import ENTRY_OVERHEAD, RecentRecords

LIMIT = 20 * (ENTRY_OVERHEAD + 10)


def record(revision: int) -> bytes:
    return b"%010d" % revision


@given(st.lists(st.one_of(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=8))))
def test_it_gives_what_the_disk_would(steps: list[int | list[int]]) -> None:
    recent = RecentRecords(LIMIT)
    for step in steps:
        if isinstance(step, int):
            recent.add(step, record(step))
        else:
            assert recent.get_many(step, lambda missing: [record(each) for each in missing]) == list(map(record, step))
        recent._check()


def test_what_is_in_use_is_not_read_again() -> None:
    recent = RecentRecords(LIMIT)
    reads: list[int] = []

    def load(missing: list[int]) -> list[bytes]:
        reads.extend(missing)
        return [record(each) for each in missing]

    for turn in range(50):
        recent.get_many([1, 2, 3], load)
        recent.add(100 + turn, record(100 + turn))
    assert reads == [1, 2, 3]
