"""What the autoscaler computes: the worked examples of Kubernetes' documentation, and a case a rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
import structlog

from controllers.autoscaling.algorithm import (
    CannotCompute,
    History,
    PodState,
    Policy,
    Rules,
    Sample,
    Tolerances,
    by_average,
    by_share,
    by_utilization,
    by_value,
    limit,
    note_scaled,
)
from controllers.autoscaling.usage import parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
UP = Rules(0, "Max", (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DOWN = Rules(300, "Max", (Policy("Percent", 100, 15),))


def pod(name: str, request: int = 1000, **fields: Any) -> PodState:
    given = {"phase": "Running", "ready": True, "ready_since": LONG_AGO, "started": LONG_AGO, **fields}
    return PodState(name, requests={"web": request}, **given)


def pods(count: int, **fields: Any) -> list[PodState]:
    return [pod(f"p{number}", **fields) for number in range(count)]


def samples(*values: int) -> dict[str, Sample]:
    return {f"p{number}": Sample(value, NOW, 15) for number, value in enumerate(values)}


def cpu(current: int, target: int, states: list[PodState], used: dict[str, Sample], **options: Any) -> int:
    return by_utilization(current, target, states, used, resource="cpu", now=NOW, **options).replicas


# ---- from metrics to replicas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "target", "current", "wanted"),
    [
        (200, 100, 3, 6),  # twice the target: twice as many
        (50, 100, 4, 2),  # half of it: half as many
        (105, 100, 4, 4),  # within the tolerance
        (110, 100, 10, 10),
        (111, 100, 10, 12),  # rounded up
        (90, 100, 10, 10),
        (89, 100, 10, 9),
    ],
)
def test_the_ratio_of_usage_and_target(usage: int, target: int, current: int, wanted: int) -> None:
    """desired = ceil(current x usage / target)"""
    states, used = pods(current), samples(*[usage] * current)
    assert by_average(current, target, states, used, now=NOW).replicas == wanted


def test_utilization_is_the_sum_of_usage_by_the_sum_of_requests() -> None:
    found = by_utilization(3, 30, pods(3), samples(300, 500, 700), resource="cpu", now=NOW)
    assert (found.replicas, found.utilization, found.usage) == (5, 50, 500)
    # Containers are added up, and one that says nothing of its request makes it impossible.
    state = PodState("p0", "Running", ready=True, ready_since=LONG_AGO, started=LONG_AGO, requests={"a": 100, "b": 300})
    found = by_utilization(1, 50, [state], samples(400), resource="cpu", now=NOW)
    assert (found.replicas, found.utilization) == (2, 100)
    found = by_utilization(1, 50, [state], samples(100), resource="cpu", container="a", now=NOW)
    assert (found.replicas, found.utilization) == (2, 100)
    with pytest.raises(CannotCompute, match="missing request for cpu in container web of Pod p0"):
        cpu(1, 50, pods(1, request=0), samples(400))
    with pytest.raises(CannotCompute, match="container sidecar not found in Pod p0"):
        by_utilization(1, 50, pods(1), samples(400), resource="cpu", container="sidecar", now=NOW)


def test_pods_without_metrics_damp() -> None:
    # Going up they are taken to use nothing: 3 of 1000 in 4 pods are 75 %, not 100 %.
    assert cpu(4, 50, pods(4), samples(1000, 1000, 1000)) == 6
    # Going down they are taken to use all that they request, so 2 of 3 pods at 10 % do not halve them.
    assert cpu(3, 50, pods(3), samples(100, 100)) == 3
    # With a target beyond the request they are taken to use that.
    assert cpu(2, 200, pods(2), samples(100)) == 2
    # By average: the target itself.
    assert by_average(4, 100, pods(4), samples(20, 20, 20), now=NOW).replicas == 2


def test_a_direction_is_never_reversed() -> None:
    # 2 of 6 at 60 % of a target of 50: up; the four others taken as idle would mean down.
    assert cpu(6, 50, pods(6), samples(600, 600)) == 6


def test_pods_that_are_not_ready_damp_the_way_up_only() -> None:
    fresh = pod("p1", ready=False, ready_since=NOW - timedelta(seconds=10), started=NOW - timedelta(seconds=10))
    assert cpu(2, 50, [pod("p0"), fresh], samples(2000, 2000)) == 4
    # Going down they do not count at all.
    assert cpu(2, 50, [pod("p0"), fresh], samples(100, 2000)) == 1
    pending = pod("p1", phase="Pending", ready=None)
    assert by_average(2, 100, [pod("p0"), pending], samples(400), now=NOW).replicas == 4


@pytest.mark.parametrize(
    ("started", "since", "ready", "counts"),
    [
        (60, 40, True, True),  # ready for longer than a window
        (60, 5, True, False),  # ready for less
        (60, 40, False, False),
        (400, 5, True, True),  # beyond the initialization period the window is no matter
        (400, 380, False, False),  # never was ready: since 20 s after its start
        (400, 100, False, True),  # was ready, and is no more
    ],
)
def test_cpu_samples_of_pods_that_warm_up_do_not_count(started: int, since: int, ready: bool, counts: bool) -> None:
    moments: dict[str, Any] = {
        "started": NOW - timedelta(seconds=started),
        "ready_since": NOW - timedelta(seconds=since),
    }
    warm = pod("p1", ready=ready, **moments)
    # At the target's double: with it 4; taken as idle, 2.
    assert cpu(2, 50, [pod("p0"), warm], samples(1000, 1000)) == (4 if counts else 2)
    # Memory counts at once.
    assert by_utilization(2, 50, [pod("p0"), warm], samples(1000, 1000), resource="memory", now=NOW).replicas == 4


def test_pods_that_go_or_have_failed_are_left_out() -> None:
    states = [pod("p0"), pod("p1", deleting=True), pod("p2", phase="Failed")]
    assert cpu(1, 50, states, samples(1000, 1000, 1000)) == 2
    with pytest.raises(CannotCompute, match="did not receive metrics"):
        cpu(1, 50, states, {})
    with pytest.raises(CannotCompute, match="no pods returned by selector"):
        cpu(1, 50, [], {})


def test_one_value_for_all() -> None:
    assert by_value(3, 100, 200, ready=3).replicas == 6
    assert by_value(3, 100, 105, ready=3).replicas == 3
    assert by_value(4, 100, 200, ready=2).replicas == 4  # of those that are ready
    assert by_value(0, 100, 250, ready=0).replicas == 3  # from zero
    found = by_share(3, 10, 100)
    assert (found.replicas, found.usage) == (10, 34)
    assert by_share(10, 10, 105).replicas == 10
    assert by_share(0, 10, 25).replicas == 3


def test_tolerances_of_ones_own() -> None:
    loose = Tolerances(up=Fraction(1, 2), down=Fraction(0))
    assert by_average(4, 100, pods(4), samples(*[150] * 4), now=NOW, tolerances=loose).replicas == 4
    assert by_average(4, 100, pods(4), samples(*[151] * 4), now=NOW, tolerances=loose).replicas == 7
    assert by_average(4, 100, pods(4), samples(*[99] * 4), now=NOW, tolerances=loose).replicas == 4
    assert by_average(4, 100, pods(4), samples(*[74] * 4), now=NOW, tolerances=loose).replicas == 3


# ---- how fast -------------------------------------------------------------------------------------------------------


def steps(
    desired: int,
    current: int,
    count: int,
    rules: tuple[Rules, Rules] | None,
    *,
    every: float = 15,
    history: History | None = None,
    least: int = 1,
    most: int = 1000,
) -> list[int]:
    """What a target goes through while the metrics ask for one number."""
    past, taken = history or History(), []
    for number in range(count):
        now = NOW + timedelta(seconds=number * every)
        replicas = limit(desired, current, least, most, past, now, rules).replicas
        note_scaled(current, replicas, past, now, rules)
        current = replicas
        taken.append(current)
    return taken


def test_without_a_behavior_it_doubles_and_waits_five_minutes_to_go_down() -> None:
    assert steps(30, 1, 6, None) == [4, 8, 16, 30, 30, 30]
    busy = History(recommendations=[(NOW - timedelta(seconds=15), 10)])
    assert steps(2, 10, 21, None, history=busy) == [10] * 19 + [2] * 2


def test_the_defaults_of_a_behavior_are_four_pods_or_all_again() -> None:
    assert steps(30, 1, 4, (UP, DOWN)) == [5, 10, 20, 30]
    busy = History(recommendations=[(NOW - timedelta(seconds=15), 10)])
    assert steps(2, 10, 21, (UP, DOWN), history=busy) == [10] * 19 + [2] * 2


def test_policies_count_what_was_done_in_their_period() -> None:
    slow = Rules(0, "Max", (Policy("Pods", 4, 60),))
    assert steps(100, 10, 9, (slow, DOWN)) == [14] * 4 + [18] * 4 + [22]
    down = Rules(0, "Max", (Policy("Percent", 10, 60),))
    assert steps(1, 80, 9, (UP, down)) == [72] * 4 + [64] * 4 + [57]


def test_the_documentations_example_of_two_policies() -> None:
    """4 pods or 10 % in a minute, whichever is more: by percent from 80 down to 40, then by fours."""
    both = Rules(0, "Max", (Policy("Pods", 4, 60), Policy("Percent", 10, 60)))
    assert steps(1, 80, 5, (UP, both), every=60) == [72, 64, 57, 51, 45]
    assert steps(1, 40, 5, (UP, both), every=60) == [36, 32, 28, 24, 20]
    less = Rules(0, "Min", both.policies)
    assert steps(1, 80, 2, (UP, less), every=60) == [76, 72]


def test_disabled_is_not_at_all() -> None:
    never = Rules(0, "Disabled", (Policy("Percent", 100, 15),))
    assert steps(1, 80, 3, (UP, never)) == [80] * 3
    assert steps(100, 80, 3, (never, DOWN)) == [80] * 3


def test_a_window_up_takes_the_lowest_recommendation() -> None:
    patient = Rules(60, "Max", UP.policies)
    calm = History(recommendations=[(NOW - timedelta(seconds=10), 2)])
    assert steps(6, 2, 6, (patient, DOWN), history=calm) == [2, 2, 2, 2, 6, 6]


def test_conditions() -> None:
    def told(desired: int, current: int, rules: tuple[Rules, Rules] | None, **options: Any) -> tuple[str, str, str]:
        given = {"least": 2, "most": 10, "history": History(), **options}
        found = limit(desired, current, given["least"], given["most"], given["history"], NOW, rules)
        return found.able[1], found.limited[0], found.limited[1]

    busy = History(recommendations=[(NOW - timedelta(seconds=15), 8)])
    calm = History(recommendations=[(NOW - timedelta(seconds=15), 3)])
    for rules in (None, (UP, DOWN)):
        assert told(4, 4, rules) == ("ReadyForNewScale", "False", "DesiredWithinRange")
        assert told(20, 8, rules) == ("ReadyForNewScale", "True", "TooManyReplicas")
        assert told(20, 2, rules, most=50) == ("ReadyForNewScale", "True", "ScaleUpLimit")
        assert told(1, 3, rules) == ("ReadyForNewScale", "True", "TooFewReplicas")
        past = History(recommendations=[*busy.recommendations])
        assert told(3, 8, rules, history=past) == ("ScaleDownStabilized", "False", "DesiredWithinRange")
    slow = Rules(0, "Max", (Policy("Pods", 1, 60),))
    assert told(2, 8, (UP, slow)) == ("ReadyForNewScale", "True", "ScaleDownLimit")
    patient = Rules(60, "Max", UP.policies)
    assert told(6, 3, (patient, DOWN), history=calm) == ("ScaleUpStabilized", "False", "DesiredWithinRange")


def test_history_has_a_bound() -> None:
    history = History()
    steps(30, 1, 500, (UP, DOWN), history=history)
    assert len(history.recommendations) <= 21
    assert len(history.ups) + len(history.downs) <= 4


def test_an_amount_that_makes_no_sense_is_left_out_and_told_once() -> None:
    text = "cpu=lots, memory=1Gi, =3, "
    with structlog.testing.capture_logs() as logs:
        assert dict(parse(text)) == dict(parse(text)) == {"memory": (1024**3 * 1000,) * 2}
    told = [(each["event"], each["log_level"], each["entry"]) for each in logs]
    assert told == [("usage_not_understood", "warning", "cpu=lots"), ("usage_not_understood", "warning", "=3")]
