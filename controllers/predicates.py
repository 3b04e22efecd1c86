"""Predicates: which events of a watched kind count. They spare runs, not memory: the cache has every object anyway.

A predicate is `predicate(old, new) -> bool`; `old` is None when an object appears, `new` is None when it goes. Those
that compare two states let both pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from informer import Selector, Stored
from informer.selectors import SelectorLike

Predicate: TypeAlias = Callable[[Stored | None, Stored | None], bool]


class _Annotated(msgspec.Struct):
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct):
    metadata: _Annotated


_annotations = msgspec.json.Decoder(_Object).decode


def generation_changed(old: Stored | None, new: Stored | None) -> bool:
    """Updates that changed the spec: not those of the status, labels or annotations alone.

    A deletion that waits for finalizers counts as a change too, as it does in Kubernetes.
    """
    if old is None or new is None:
        return True
    return (old.meta.generation, old.meta.deletion_timestamp) != (new.meta.generation, new.meta.deletion_timestamp)


def labels_changed(old: Stored | None, new: Stored | None) -> bool:
    """Updates that changed the labels."""
    return old is None or new is None or old.meta.labels != new.meta.labels


def annotations_changed(old: Stored | None, new: Stored | None) -> bool:
    """Updates that changed the annotations. Decodes both objects."""
    if old is None or new is None:
        return True
    return _annotations(old.data).metadata.annotations != _annotations(new.data).metadata.annotations


def resource_version_changed(old: Stored | None, new: Stored | None) -> bool:
    """Updates that changed anything: not the repetitions of a resync."""
    return old is None or new is None or old.revision != new.revision


def selected(selector: SelectorLike) -> Predicate:
    """Objects with such labels, before or after the change: one that ceases to match counts once more."""
    matches = Selector.of(selector).matches

    def predicate(old: Stored | None, new: Stored | None) -> bool:
        return any(each is not None and matches(each.meta.labels) for each in (new, old))

    return predicate


def all_of(*predicates: Predicate) -> Predicate:
    """Events that every one lets pass."""
    return lambda old, new: all(predicate(old, new) for predicate in predicates)


def any_of(*predicates: Predicate) -> Predicate:
    """Events that at least one lets pass."""
    return lambda old, new: any(predicate(old, new) for predicate in predicates)


def none_of(*predicates: Predicate) -> Predicate:
    """Events that none lets pass."""
    return lambda old, new: not any(predicate(old, new) for predicate in predicates)
