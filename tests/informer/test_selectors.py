from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from informer import Invalid, Model, Selector
from informer.selectors import Operator, Requirement

KEYS = ["app", "tier", "example.com/size"]
VALUES = ["web", "1", "23", "", "a.b_c-d"]


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("", {}, True),
        ("app=web", {"app": "web"}, True),
        ("app = web", {"app": "web", "x": "y"}, True),
        ("app==web", {"app": "db"}, False),
        ("app=web", {}, False),
        ("app=", {"app": ""}, True),
        ("app=", {}, False),
        ("app!=web", {"app": "db"}, True),
        ("app!=web", {"app": "web"}, False),
        ("app!=web", {}, True),
        ("app in (web, db)", {"app": "db"}, True),
        ("app in (web, db)", {"app": "x"}, False),
        ("app in (web,)", {"app": ""}, True),
        ("app notin (web,db)", {"app": "x"}, True),
        ("app notin (web,db)", {"app": "db"}, False),
        ("app notin (web,db)", {}, True),
        ("app", {"app": ""}, True),
        ("app", {}, False),
        ("!app", {"app": ""}, False),
        ("! app", {}, True),
        ("size>3", {"size": "4"}, True),
        ("size>3", {"size": "3"}, False),
        ("size<10", {"size": "9"}, True),
        ("size<10", {"size": "big"}, False),
        ("size<10", {}, False),
        ("app=web,tier in (a,b),!old", {"app": "web", "tier": "b"}, True),
        ("app=web,tier in (a,b),!old", {"app": "web", "tier": "b", "old": ""}, False),
        ("in in (in, notin)", {"in": "notin"}, True),
        ("app.kubernetes.io/name=x", {"app.kubernetes.io/name": "x"}, True),
    ],
)
def test_the_string_grammar(text: str, labels: dict[str, str], selected: bool) -> None:
    assert Selector.parse(text).matches(labels) is selected


@pytest.mark.parametrize(
    ("text", "problem", "position"),
    [
        ("app=web,", "expected a requirement", 8),
        ("=web", "expected a label key, got '='", 0),
        ("app in web", "expected '(', got 'web'", 7),
        ("app in (web", "expected ')', got 'the end'", 11),
        ("app ~ web", "expected an operator (= == != in notin > <), got '~'", 4),
        ("app=web db", "expected ',', got 'db'", 8),
        ("size>big", "expected an integer, got 'big'", 5),
        ("app=!", "expected a label value, got '!'", 4),
        ("a/b/c=1", "prefix", 0),
        ("app=-x", "must consist of", 4),
        (f"app={'x' * 64}", "at most 63", 4),
    ],
)
def test_parse_errors_tell_the_position(text: str, problem: str, position: int) -> None:
    with pytest.raises(Invalid) as caught:
        Selector.parse(text)
    assert problem in str(caught.value)
    assert str(caught.value).endswith(f"at position {position}")


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({}, {}, True),
        ({}, {"a": "b"}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "b", "c": "d"}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "c"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}, {"a": "c"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": []}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}, {"a": "b"}, False),
        ({"a": "b"}, {"a": "b"}, True),
        ({"a": "b"}, {}, False),
        (None, {}, False),
        (None, {"a": "b"}, False),
    ],
)
def test_the_label_selector_object(selector: Any, labels: dict[str, str], selected: bool) -> None:
    assert Selector.of(selector).matches(labels) is selected


@pytest.mark.parametrize(
    ("selector", "path"),
    [
        ({"matchLabels": {"a": 1}}, "matchLabels[a]"),
        ({"matchLabels": ["a"]}, "matchLabels"),
        ({"matchExpressions": [{"key": "a", "operator": "Is"}]}, "matchExpressions[0].operator"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "matchExpressions[0].key"),
        ({"matchLabel": {"a": "b"}}, "matchLabel"),
    ],
)
def test_a_wrong_label_selector_selects_nothing_by_accident(selector: Any, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        Selector.of(selector)
    assert caught.value.path == path


def test_a_model_of_a_label_selector_will_do() -> None:
    class LabelSelector(Model):
        match_labels: dict[str, str]

    assert Selector.of(LabelSelector(match_labels={"a": "b"})) == Selector.parse("a=b")


def test_everything_and_nothing() -> None:
    assert Selector.everything().empty
    assert Selector.of("") == Selector.of({}) == Selector.everything()
    assert not Selector.nothing().empty
    assert Selector.nothing() != Selector.everything()
    assert not Selector.nothing().matches({})
    assert len({Selector.parse("a=b,c"), Selector.parse("c,a==b"), Selector.nothing()}) == 2


requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(KEYS),
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.frozensets(st.sampled_from(VALUES), min_size=1),
    ),
    st.builds(Requirement, st.sampled_from(KEYS), st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
    st.builds(
        Requirement,
        st.sampled_from(KEYS),
        st.sampled_from([Operator.GREATER, Operator.LESS]),
        st.integers(0, 99).map(lambda n: frozenset([str(n)])),
    ),
)


@given(st.lists(requirements, max_size=4), st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)))
def test_the_string_form_says_the_same(found: list[Requirement], labels: dict[str, str]) -> None:
    selector = Selector(found)
    again = Selector.parse(str(selector))
    assert again == selector
    assert again.matches(labels) == selector.matches(labels) == all(each.matches(labels) for each in found)


@given(st.text(alphabet="ab=!<>(), innot/.-", max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except Invalid:
        return
    assert Selector.parse(str(selector)) == selector
