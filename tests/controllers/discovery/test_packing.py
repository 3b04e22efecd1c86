"""How endpoints are dealt out to slices."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controllers.discovery.packing import Packed, Slice, identity, pack


def endpoint(number: int, **more: Any) -> dict[str, Any]:
    return {"addresses": [f"10.0.0.{number}"], "targetRef": {"uid": f"uid-{number}"}, **more}


def endpoints(*numbers: int) -> list[dict[str, Any]]:
    return [endpoint(number) for number in numbers]


def desired(*numbers: int, **more: Any) -> dict[Any, dict[str, Any]]:
    return {identity(each): each for each in (endpoint(number, **more) for number in numbers)}


def numbers(packed: Packed) -> tuple[list[list[int]], dict[str, list[int]], list[str]]:
    def of(content: list[dict[str, Any]]) -> list[int]:
        return [int(each["targetRef"]["uid"][4:]) for each in content]

    return [of(each) for each in packed.create], {name: of(each) for name, each in packed.update.items()}, packed.delete


def test_new_ones_fill_slices_to_the_brim() -> None:
    assert numbers(pack([], desired(*range(7)), 3)) == ([[0, 1, 2], [3, 4, 5], [6]], {}, [])


def test_slices_that_are_right_are_left_alone() -> None:
    existing = [Slice("a", endpoints(1, 2)), Slice("b", endpoints(3))]
    assert numbers(pack(existing, desired(1, 2, 3), 3)) == ([], {}, [])


def test_a_slice_that_is_written_anyway_is_filled_first() -> None:
    existing = [Slice("a", endpoints(1, 2, 9)), Slice("b", endpoints(3, 4))]
    assert numbers(pack(existing, desired(1, 2, 3, 4, 5), 3)) == ([], {"a": [1, 2, 5]}, [])


def test_what_is_left_goes_into_the_fullest_slice_that_has_room_for_all_of_it() -> None:
    existing = [Slice("a", endpoints(1)), Slice("b", endpoints(2, 3)), Slice("c", endpoints(4, 5, 6))]
    assert numbers(pack(existing, desired(1, 2, 3, 4, 5, 6, 7), 4)) == ([], {"c": [4, 5, 6, 7]}, [])
    assert numbers(pack(existing, desired(1, 2, 3, 4, 5, 6, 7, 8), 4)) == ([], {"b": [2, 3, 7, 8]}, [])


def test_a_new_slice_rather_than_two_others_changed() -> None:
    existing = [Slice("a", endpoints(1, 2)), Slice("b", endpoints(3, 4))]
    assert numbers(pack(existing, desired(1, 2, 3, 4, 5, 6), 3)) == ([[5, 6]], {}, [])


def test_a_slice_without_endpoints_goes_or_is_used_again() -> None:
    existing = [Slice("a", endpoints(1, 2, 3)), Slice("b", endpoints(4, 5, 6))]
    assert numbers(pack(existing, desired(4, 5, 6), 3)) == ([], {}, ["a"])
    assert numbers(pack(existing, desired(4, 5, 6, 7), 3)) == ([], {"a": [7]}, [])


def test_a_changed_condition_or_label_is_a_write_of_that_slice_alone() -> None:
    existing = [Slice("a", endpoints(1)), Slice("b", [endpoint(2, zone="x")]), Slice("c", endpoints(3), current=False)]
    assert numbers(pack(existing, desired(1, 2, 3), 1)) == ([], {"b": [2], "c": [3]}, [])


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_everything_is_in_one_slice_and_none_has_too_much(seed: int, capacity: int) -> None:
    rng = random.Random(seed)
    slices: dict[str, list[dict[str, Any]]] = {}
    for step in range(6):
        wanted = desired(*rng.sample(range(20), rng.randint(0, 20)))
        packed = pack([Slice(name, content) for name, content in slices.items()], wanted, capacity)
        assert not packed.update.keys() & set(packed.delete)
        # A write that changes nothing is none.
        assert all(slices[name] != content for name, content in packed.update.items())
        for name in packed.delete:
            del slices[name]
        slices.update(packed.update)
        slices.update({f"{step}-{number}": content for number, content in enumerate(packed.create)})
        listed = [identity(each) for content in slices.values() for each in content]
        assert len(listed) == len(set(listed))
        assert set(listed) == set(wanted)
        assert all(0 < len(content) <= capacity for content in slices.values())
