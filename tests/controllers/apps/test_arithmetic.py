"""The arithmetic of rollouts: its worked examples, and what must hold of any numbers."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controllers.apps import hash as hashing
from controllers.apps.deployment import arithmetic, revisions
from controllers.apps.deployment.arithmetic import (
    Size,
    fenceposts,
    new_size,
    old_budget,
    proportional,
    without_spare,
    without_unhealthy,
)
from controllers.core import quantities

counts = st.integers(0, 50)
amounts = counts | st.integers(0, 100).map(lambda percent: f"{percent}%")


@pytest.mark.parametrize("module", [arithmetic, hashing, revisions, quantities])
def test_worked_examples(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


@given(amounts, amounts, counts)
def test_a_rollout_can_always_move(max_surge: int | str, max_unavailable: int | str, replicas: int) -> None:
    surge, unavailable = fenceposts(max_surge, max_unavailable, replicas)
    assert surge + unavailable > 0


@given(counts, counts, counts, counts)
def test_the_new_one_grows_into_the_room_there_is(replicas: int, surge: int, others: int, new: int) -> None:
    size = new_size(replicas, surge, others + new, new)
    assert size <= replicas
    if new <= replicas:
        assert size >= new
        assert size == new or others + size <= replicas + surge


@given(st.lists(st.tuples(counts, counts), max_size=6), counts, counts)
def test_only_what_does_not_serve_and_what_is_to_spare_goes(
    pairs: list[tuple[int, int]], replicas: int, unavailable: int
) -> None:
    olds = [Size(spec, min(spec, available)) for spec, available in pairs]
    budget = old_budget(replicas, unavailable, sum(old.spec for old in olds), Size(0))
    if budget <= 0:
        return
    sizes = without_unhealthy(olds, budget)
    assert all(old.available <= size <= old.spec for old, size in zip(olds, sizes, strict=True))
    assert sum(old.spec for old in olds) - sum(sizes) <= budget
    available = sum(old.available for old in olds)
    rest = without_spare(sizes, available, replicas - unavailable)
    assert sum(sizes) - sum(rest) <= max(0, available - (replicas - unavailable))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), counts, counts)
@example([1] * 6, 3, 0)
def test_shares_add_up_to_what_is_allowed(specs: list[int], replicas: int, surge: int) -> None:
    total = sum(specs)
    sizes = [Size(spec, max_replicas=total) for spec in sorted(specs, reverse=True)]
    result = proportional(sizes, replicas, surge, total)
    allowed = replicas + surge if replicas else 0
    # What rounding leaves is the first one's alone, as in Kubernetes: when it has nothing left to give, some stay over.
    assert sum(result) == allowed or (sum(result) > allowed and result[0] == 0)
    assert all(size >= 0 for size in result)


def test_an_empty_one_gets_no_share() -> None:
    assert proportional([Size(4, max_replicas=5), Size(0, max_replicas=5)], 8, 2, 5) == [10, 0]


def test_without_a_note_the_share_is_of_what_there_is() -> None:
    assert proportional([Size(3), Size(1)], replicas=8, surge=0, status_replicas=4) == [6, 2]
