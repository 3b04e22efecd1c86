from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from informer.cache import (
    DEFAULT_INDEXERS,
    Cache,
    Change,
    InformerStopped,
    OwnerRef,
    Stored,
    by_field,
    by_label,
    by_namespace,
    by_owner,
)
from informer.errors import Invalid
from informer.listwatch import Bookmark, Item, Removed, WatchEvent
from informer.transforms import TRANSFORMED, drop_fields, drop_managed_fields


def encoded(uid: str = "u1", **metadata: Any) -> bytes:
    return json.dumps({"kind": "Pod", "metadata": {"uid": uid, **metadata}, "spec": {"deep": [{"a": 1}]}}).encode()


def item(key: str, revision: int, uid: str = "u1", **metadata: Any) -> Item:
    return Item(key, encoded(uid, **metadata), str(revision))


def keys(stored: Any) -> list[str]:
    return [each.key for each in stored]


def test_metadata_that_every_reader_needs() -> None:
    cache = Cache()
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o1", "controller": True}
    (change,) = cache.apply(
        [
            item(
                "default/web-1",
                7,
                uid="u7",
                labels={"app": "web"},
                ownerReferences=[{**owner, "blockOwnerDeletion": True}],
                generation=3,
                deletionTimestamp="2024-01-01T00:00:00Z",
                managedFields=[{"manager": "x"}],
            )
        ]
    )
    stored = cache.get("default/web-1")
    assert stored is not None
    assert change == Change(None, stored)
    assert (stored.name, stored.namespace, stored.revision) == ("web-1", "default", "7")
    meta = stored.meta
    assert (meta.uid, meta.generation, meta.deletion_timestamp) == ("u7", 3, "2024-01-01T00:00:00Z")
    assert meta.labels == {"app": "web"}
    assert meta.owner_references == [OwnerRef("apps/v1", "ReplicaSet", "web", "o1", True)]


def test_a_reader_cannot_change_what_the_cache_holds() -> None:
    cache = Cache({"app": by_label("app"), "owner": by_owner})
    cache.apply([item("a/x", 1, labels={"app": "web"}, ownerReferences=[{"uid": "o"}])])
    stored = cache.get("a/x")
    assert stored is not None
    stored.meta.labels["app"] = "changed"
    stored.meta.owner_references.clear()
    for name in ("data", "revision", "meta"):
        with pytest.raises(AttributeError):
            setattr(stored, name, None)
    listed = list(cache.list())
    listed.clear()
    found = cache.by_index("app", "web")
    assert isinstance(found, list)
    found.clear()
    assert keys(cache.list()) == keys(cache.by_index("app", "web")) == keys(cache.by_index("owner", "o")) == ["a/x"]
    cache._check()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"metadata": 3}', b'{"metadata": {"uid": []}}', b'{"metadata": null}'],
)
def test_an_object_that_makes_no_sense_is_kept_and_harms_nothing(data: bytes) -> None:
    cache = Cache()
    cache.apply([Item("a/x", data, "5"), item("a/y", 6)])
    stored = cache.get("a/x")
    assert stored is not None
    assert stored.data == data
    assert stored.meta.uid is None
    assert stored.meta.labels == {}
    assert cache.statistics().undecodable == (0 if b"null" in data else 1)
    assert keys(cache.by_index("namespace", "a")) == ["a/x", "a/y"]
    cache._check()


@pytest.mark.parametrize("value", ["null", "3", '["a"]', '{"a": 1}'])
def test_malformed_labels_and_owners_are_none(value: str) -> None:
    cache = Cache({"app": by_label("a"), **DEFAULT_INDEXERS})
    cache.apply([Item("x", f'{{"metadata": {{"labels": {value}, "ownerReferences": {value}}}}}'.encode(), "5")])
    stored = cache.get("x")
    assert stored is not None
    assert stored.meta.labels == {}
    assert stored.meta.owner_references == []
    cache._check()


def test_indexes_follow_adds_updates_and_deletes() -> None:
    cache = Cache({"namespace": by_namespace, "app": by_label("app")})
    cache.apply([item("a/x", 1, labels={"app": "web"}), item("a/y", 2, labels={"app": "db"}), item("b/x", 3)])
    assert keys(cache.by_index("namespace", "a")) == ["a/x", "a/y"]
    assert keys(cache.by_index("app", "web")) == ["a/x"]
    cache.apply([item("a/x", 4, labels={"app": "db"})])
    assert cache.index_values("app") == ["db"]  # the empty set of "web" is gone
    assert keys(cache.by_index("app", "db")) == ["a/y", "a/x"]
    cache.apply([Removed("a/x", "5"), Removed("a/y", "6"), Removed("b/x", "7")])
    assert len(cache) == 0
    assert cache.statistics().indexes == {"namespace": 0, "app": 0}
    assert cache.statistics().encoded_bytes == 0


def test_an_indexer_can_come_late_and_give_several_values() -> None:
    cache = Cache({})
    cache.apply([item("a/x", 1, finalizers=[]), item("b/y", 2)])

    def letters(stored: Stored) -> Any:
        yield from stored.key.split("/")

    cache.add_indexer("letter", letters)
    cache.add_indexer("letter", letters)
    assert keys(cache.by_index("letter", "x")) == ["a/x"]
    assert keys(cache.by_index("letter", "b")) == ["b/y"]
    with pytest.raises(ValueError, match="'letter'"):
        cache.add_indexer("letter", by_namespace)
    with pytest.raises(KeyError):
        cache.by_index("other", "x")
    cache._check()


def test_an_indexer_that_fails_costs_only_its_own_index(capsys: pytest.CaptureFixture[str]) -> None:
    def picky(stored: Stored) -> Any:
        if stored.name == "bad":
            raise ValueError("no")
        other: dict[str, Any] = {"str": "text", "none": (None,), "list": [["unhashable"]]}
        return other.get(stored.name, (stored.name,))

    cache = Cache({"picky": picky, "namespace": by_namespace})
    names = ["bad", "str", "none", "list", "good"]
    cache.apply([item(f"a/{name}", revision) for revision, name in enumerate(names, 1)])
    assert keys(cache.by_index("namespace", "a")) == [f"a/{name}" for name in names]
    assert cache.index_values("picky") == ["good"]
    assert cache.statistics().index_errors == 4
    cache._check()


def test_an_indexer_that_fails_at_a_deletion_leaves_nothing_to_find() -> None:
    broken = False

    def fickle(stored: Stored) -> tuple[str, ...]:
        if broken:
            raise ValueError("not now")
        return ("value",)

    cache = Cache({"fickle": fickle})
    cache.apply([item("a", 1), item("b", 2)])
    broken = True
    cache.apply([Removed("a", "3")])
    assert keys(cache.by_index("fickle", "value")) == ["b"]


def test_replace_gives_the_smallest_set_of_changes() -> None:
    cache = Cache()
    cache.replace([item("a", 1), item("b", 2), item("c", 3), item("d", 4, uid="old")], "10")
    before = {stored.key: stored for stored in cache.list()}
    changes = cache.replace([item("a", 1), item("b", 12), item("d", 13, uid="new"), item("e", 14)], "20")
    after = {stored.key: stored for stored in cache.list()}
    assert list(changes) == [
        Change(before["c"], None, final_state_known=False),
        Change(before["d"], None, final_state_known=False),
        Change(before["b"], after["b"]),
        Change(None, after["d"]),
        Change(None, after["e"]),
    ]
    assert after["a"] is before["a"]
    assert cache.revision == "20"
    assert not cache.replace([item("a", 1), item("b", 12), item("d", 13, uid="new"), item("e", 14)], "21")
    assert cache.revision == "21"


def test_a_replacement_shows_when_it_is_whole_and_has_what_was_asked_for_meanwhile() -> None:
    cache = Cache()
    cache.apply([item("a/1", 1), item("a/2", 2, labels={"app": "old"})])
    replacement = cache.replacement()
    replacement.add([item("a/2", 12, labels={"app": "web"}), item("b/3", 3)])
    cache.add_indexer("app", by_label("app"))
    assert keys(cache.list()) == ["a/1", "a/2"]
    assert keys(cache.by_index("app", "old")) == ["a/2"]
    assert cache.revision == "2"
    replacement.add([item("b/4", 4, labels={"app": "web"}), item("b/3", 99)])  # of a key that comes twice the first
    changes = replacement.finish("20")
    assert [(change.key, change.old is None, change.new is None) for change in changes] == [
        ("a/1", False, True),
        ("a/2", False, False),
        ("b/3", True, False),
        ("b/4", True, False),
    ]
    assert keys(cache.by_index("app", "web")) == ["a/2", "b/4"]
    assert keys(cache.by_index("namespace", "b")) == ["b/3", "b/4"]
    assert cache.revision == "20"
    cache._check()


def test_a_replacement_of_what_has_changed_since_is_refused() -> None:
    cache = Cache()
    overtaken, forgotten = cache.replacement(), cache.replacement()
    with pytest.raises(RuntimeError, match="has been changed"):
        overtaken.finish("5")
    cache.apply([item("a", 9)])
    with pytest.raises(RuntimeError, match="has been changed"):
        forgotten.finish("5")
    assert keys(cache.list()) == ["a"]
    assert cache.revision == "9"


def test_an_object_of_the_same_revision_and_other_data_has_changed() -> None:
    # As after a restore of a backup, whose revisions are counted from there a second time.
    cache = Cache(transform=drop_fields("spec.deep"))
    cache.replace([item("a", 1), item("b", 2)], "10")
    (change,) = cache.replace([item("a", 1), item("b", 2, labels={"app": "web"})], "10")
    assert (change.key, change.old is None, change.new is None) == ("b", False, False)
    assert cache.list(selector="app=web") == [change.new]
    cache._check()


@pytest.mark.parametrize("indexer", [by_namespace, by_owner])
def test_a_malformed_owner_and_an_update_leave_the_indexes_right(indexer: Any) -> None:
    cache = Cache({"it": indexer})
    states: list[Any] = [[{"uid": "o1"}], "no list", [{"uid": "o2"}, {"uid": "o1"}], [{"uid": "o2"}], None, [{"no": 1}]]
    for revision, owners in enumerate(states, 1):
        cache.apply([item("a/1", revision, ownerReferences=owners)])
        cache._check()


def test_what_is_not_newer_changes_nothing() -> None:
    cache = Cache()
    cache.apply([item("a", 9)])
    assert not cache.apply([item("a", 9), item("a", 8), Removed("a", "9"), Removed("b", "12")])
    assert cache.revision == "12"
    (change,) = cache.apply([item("a", 100)])  # longer, so newer: revisions are numbers
    assert change.old is not None
    assert change.old.revision == "9"


async def test_wait_for_a_revision() -> None:
    cache = Cache()
    cache.replace([], "9")
    await cache.wait_for("9")
    first, second = asyncio.create_task(cache.wait_for("10")), asyncio.create_task(cache.wait_for("12"))
    abandoned = asyncio.create_task(cache.wait_for("12"))
    await asyncio.sleep(0)
    assert cache.statistics().waiting == 3
    abandoned.cancel()
    cache.apply([Bookmark("11")])
    await first
    assert not second.done()
    cache.apply([item("a", 13)])
    await second
    cache._check()
    statistics = cache.statistics()
    assert (statistics.waiting, statistics.waited, statistics.revision) == (0, 3, "13")
    too_far = asyncio.create_task(cache.wait_for("20"))
    await asyncio.sleep(0)
    cache.close()
    with pytest.raises(InformerStopped, match=r"13.*20"):
        await too_far
    with pytest.raises(InformerStopped, match=r"13.*20"):
        await cache.wait_for("20")
    await cache.wait_for("13")


def test_an_event_that_shows_another_object_under_the_key_is_a_delete_and_an_add() -> None:
    cache = Cache({"app": by_label("app")})
    cache.apply([item("a", 1, uid="first", labels={"app": "web"})])
    first = cache.get("a")
    changes = cache.apply([item("a", 5, uid="second")])
    assert list(changes) == [Change(first, None, final_state_known=False), Change(None, cache.get("a"))]
    assert cache.index_values("app") == []
    (change,) = cache.apply([Item("a", b"broken", "6")])  # it cannot be known which object this is
    assert change.old is not None
    cache._check()


def test_list_by_namespace_selector_index_and_function() -> None:
    cache = Cache({"node": by_field("spec.nodeName"), "namespace": by_namespace})
    pods = [("a/x", "web", "n1"), ("a/y", "db", "n2"), ("b/x", "web", "n2"), ("b/z", "web", None)]
    for revision, (key, app, node) in enumerate(pods, 1):
        pod = {"metadata": {"labels": {"app": app}}, "spec": {"nodeName": node} if node else {}}
        cache.apply([Item(key, json.dumps(pod).encode(), str(revision))])
    assert keys(cache.list()) == ["a/x", "a/y", "b/x", "b/z"]
    assert keys(cache.list("a")) == ["a/x", "a/y"]
    assert keys(cache.list("c")) == []
    assert keys(cache.list(selector="app in (web), app!=db")) == ["a/x", "b/x", "b/z"]
    assert keys(cache.list("b", selector={"matchLabels": {"app": "web"}})) == ["b/x", "b/z"]
    assert keys(cache.list(index=("node", "n2"))) == ["a/y", "b/x"]
    assert keys(cache.list("b", index=("node", "n2"), selector="app=web")) == ["b/x"]
    assert keys(cache.list(where=lambda stored: stored.name == "x")) == ["a/x", "b/x"]
    with pytest.raises(KeyError, match="other"):
        cache.list(index=("other", "n2"))
    with pytest.raises(Invalid, match="position"):
        cache.list(selector="app in web")
    without_index = Cache({"namespace": by_label("namespace")})  # the name is taken by something else
    without_index.apply([item("a/x", 1), item("b/x", 2)])
    assert keys(without_index.list("b")) == ["b/x"]


def test_an_index_of_a_field() -> None:
    cache = Cache({"port": by_field("spec.containers.ports.containerPort"), "note": by_field("metadata.notes[a.b/c]")})
    pod = {
        "metadata": {"notes": {"a.b/c": True}},
        "spec": {"containers": [{"ports": [{"containerPort": 80}, {"containerPort": 80}, {}]}, {"ports": 3}, {}]},
    }
    cache.apply([Item("a/x", json.dumps(pod).encode(), "1"), Item("a/y", b"{", "2"), item("a/z", 3)])
    assert keys(cache.by_index("port", "80")) == ["a/x"]
    assert keys(cache.by_index("note", "true")) == ["a/x"]
    assert cache.statistics().index_errors == 0
    cache._check()
    for path in ("", ".", "a..b", "a[", "a[]", "a.[b]"):
        with pytest.raises(ValueError, match="path"):
            by_field(path)


def test_a_selector_makes_of_a_change_of_labels_an_add_or_a_delete() -> None:
    cache = Cache(selector="app=web")
    changes = cache.replace(
        [item("a", 1, labels={"app": "web"}), item("b", 2, labels={"app": "db"}), item("c", 3)], "5"
    )
    assert [(change.key, change.old) for change in changes] == [("a", None)]
    begins = cache.apply([item("b", 6, labels={"app": "web"})])
    assert [(change.old, change.new) for change in begins] == [(None, cache.get("b"))]
    before = cache.get("a")
    assert cache.apply([item("a", 7, labels={"app": "db"})]) == [Change(before, None)]
    assert cache.apply([item("a", 8, labels={"app": "db"}), item("d", 9), Removed("a", "10")]) == []
    assert cache.revision == "10"
    known = cache.get("b")
    changes = cache.replace([item("b", 11, labels={}), item("e", 12, labels={"app": "web"})], "12")
    assert list(changes) == [Change(known, None, final_state_known=False), Change(None, cache.get("e"))]
    assert keys(cache.list()) == ["e"]
    cache._check()
    assert keys(Cache(selector="").list()) == []
    everything = Cache(selector="")
    everything.apply([item("a", 1)])
    assert keys(everything.list()) == ["a"]


def test_a_transform_comes_before_indexes_and_handlers_and_after_the_selector() -> None:
    drop = drop_fields("metadata.labels", "spec.deep.a")
    cache = Cache({"app": by_label("app")}, selector="app=web", transform=drop)
    (change,) = cache.apply([item("a", 1, labels={"app": "web"}), item("b", 2, labels={"app": "db"})][:1])
    stored = cache.get("a")
    assert change.new is stored
    assert stored is not None
    assert json.loads(stored.data) == {
        "kind": "Pod",
        "metadata": {"uid": "u1"},
        "spec": {"deep": [{}]},
        TRANSFORMED: ["metadata", "spec"],
    }
    assert stored.meta.labels == {}
    assert cache.index_values("app") == []
    assert cache.statistics().encoded_bytes == len(stored.data)
    again = drop(json.loads(stored.data))
    assert again == json.loads(stored.data)
    cache._check()


def test_a_transform_that_changes_nothing_leaves_the_bytes_as_they_are() -> None:
    cache = Cache(transform=drop_managed_fields)
    data = b'{"metadata": {"uid": "u1"}, "kind": "Pod"}'
    cache.apply([Item("a", data, "1"), item("b", 2, managedFields=[{"manager": "x"}])])
    stored = cache.get("a")
    assert stored is not None
    assert stored.data is data
    other = cache.get("b")
    assert other is not None
    assert b"managedFields" not in other.data


@pytest.mark.parametrize(
    "result",
    [
        lambda raw: None,
        lambda raw: raw["missing"],
        lambda raw: raw["metadata"].pop("uid") and raw,
        lambda raw: {**raw, "spec": object()},
    ],
)
def test_a_transform_that_fails_is_reported_and_the_object_kept_whole(
    result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(transform=result)
    cache.apply([item("a/x", 1)])
    stored = cache.get("a/x")
    assert stored is not None
    assert stored.data == encoded()
    assert stored.meta.uid == "u1"
    assert cache.statistics().transform_errors == 1
    assert "transform_failed" in capsys.readouterr().out
    cache._check()


@pytest.mark.parametrize("padding", [0, 300, 2000])
def test_memory_per_object_stays_near_its_encoded_size(padding: int) -> None:
    count = 5000
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": True}

    def fill() -> Cache:
        cache = Cache()
        for n in range(count):
            data = json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "uid": f"0b0f8c2e-1111-4222-8333-{n:012d}",
                        "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
                        "ownerReferences": [{**owner, "uid": f"0b0f8c2e-1111-4222-8333-{n // 10:012d}"}],
                    },
                    "spec": "x" * padding,
                }
            ).encode()
            cache.apply([Item(f"namespace-{n % 10}/web-5d4f8c7b9-{n:05d}", data, str(100_000 + n))])
        return cache

    fill()  # whatever is made once is made now
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = fill()
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    encoded_bytes = cache.statistics().encoded_bytes
    assert used / count <= 1.5 * encoded_bytes / count + 500


KEYS = st.sampled_from(["a/1", "a/2", "b/1", "c"])
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]))
OWNERS = st.lists(st.sampled_from([{"uid": "o1"}, {"uid": "o2"}]), max_size=2)


class CacheMachine(RuleBasedStateMachine):
    """The cache against a plain dict, through events, duplicates and replacements."""

    selector: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache({**DEFAULT_INDEXERS, "app": by_label("app")}, selector=self.selector)
        self.model: dict[str, Item] = {}
        self.told: dict[str, bytes] = {}
        self.revision = 1
        self.last: WatchEvent | None = None

    def _apply(self, event: WatchEvent) -> None:
        self._tell(self.cache.apply([event]))
        self.last = event

    def _tell(self, changes: Any) -> None:
        for change in changes:
            if change.old is not None:
                assert self.told.pop(change.key) == change.old.data
            if change.new is not None:
                assert change.key not in self.told
                self.told[change.key] = change.new.data

    @rule(key=KEYS, labels=LABELS, owners=OWNERS, uid=st.sampled_from(["u1", "u2"]))
    def put(self, key: str, labels: dict[str, str], owners: list[Any], uid: str) -> None:
        self.revision += 1
        self.model[key] = item(key, self.revision, uid=uid, labels=labels, ownerReferences=owners)
        self._apply(self.model[key])

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self.revision += 1
        self.model.pop(key, None)
        self._apply(Removed(key, str(self.revision)))

    @rule()
    def duplicate(self) -> None:
        if self.last is not None:
            assert not self.cache.apply([self.last])

    @rule(
        unseen=st.dictionaries(KEYS, st.none() | st.tuples(st.sampled_from(["u1", "u2"]), LABELS, OWNERS), max_size=3)
    )
    def relist(self, unseen: dict[str, Any]) -> None:
        for key, now in unseen.items():
            self.revision += 1
            if now is None:
                self.model.pop(key, None)
            else:
                uid, labels, owners = now
                self.model[key] = item(key, self.revision, uid=uid, labels=labels, ownerReferences=owners)
        self.revision += 1
        changes = self.cache.replace(list(self.model.values()), str(self.revision))
        assert len({(change.key, change.new is None) for change in changes}) == len(changes)
        self._tell(changes)
        self.last = None

    @invariant()
    def holds(self) -> None:
        self.cache._check()
        wanted = {key: each.data for key, each in self.model.items() if self.selects(each)}
        assert {stored.key: stored.data for stored in self.cache.list()} == wanted
        assert self.told == wanted
        for namespace in ("a", "b", ""):
            found = {key for key in wanted if key.rpartition("/")[0] == namespace}
            assert {*keys(self.cache.list(namespace))} == found

    def selects(self, each: Item) -> bool:
        return True


class SelectedCacheMachine(CacheMachine):
    """The same with a label selector: objects come and go by their labels as well."""

    selector = "app=x"

    def selects(self, each: Item) -> bool:
        return bool(json.loads(each.data)["metadata"]["labels"].get("app") == "x")


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSelectedCacheMachine = SelectedCacheMachine.TestCase
TestSelectedCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
