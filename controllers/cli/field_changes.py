"""What differs between two states of an object, field by field and as a unified diff."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from controllers.cli.raw import dig
from controllers.cli.yaml_writer import to_yaml
from informer.client import LAST_APPLIED
from informer.codecs import Path, render, show

Raw = Mapping[str, Any]

# What tells one item of a list from the others, as in Kubernetes' own lists; the first that all items have counts.
ITEM_KEYS = ("name", "type", "uid", "key", "containerPort", "port", "mountPath", "ip")
MOST_LINES = 4000  # beyond that a diff by lines may take minutes, and nobody reads it
CONTEXT = 3  # lines around a change, diff's
SHORT, WIDTH = 40, 100  # characters of a value in a summary, and of all of it

_CONDITION = re.compile(r"status\.conditions\[type=([A-Za-z0-9]+)\](?:\.status)?")
_QUIET = re.compile(r"^metadata\.generation$|^status\.observedGeneration$|Time$|\.message$| \(order\)$")


class FieldChange(msgspec.Struct, frozen=True, omit_defaults=True, rename={"old": "from", "new": "to"}):
    """One field: `old` is unset where it was added, `new` where it was removed."""

    path: str
    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET

    def __str__(self) -> str:
        """`~ spec.replicas: 2 -> 3`, `+ metadata.labels.app: "web"`, `- spec.paused: true`."""
        if self.old is msgspec.UNSET:
            return f"+ {self.path}: {_text(self.new)}"
        if self.new is msgspec.UNSET:
            return f"- {self.path}: {_text(self.old)}"
        return f"~ {self.path}: {_text(self.old)} -> {_text(self.new)}"

    @property
    def short(self) -> str:
        """As one of several on a line."""
        path, old, new = self.path, self.old, self.new
        if found := _CONDITION.fullmatch(path):
            path = found[1]
            old, new = (each.get("status") if isinstance(each, Mapping) else each for each in (old, new))
        if old is msgspec.UNSET:
            return f"+{path}{_cut(new, '=')}"
        if new is msgspec.UNSET:
            return f"-{path}"
        return f"{path}{_cut(old, ': ')}{_cut(new, ' -> ')}"


def _text(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 400 else f"{text[:397]}..."


def _cut(value: Any, before: str) -> str:
    if isinstance(value, Mapping | list):
        return ""
    text = show(value)
    return before + (text if len(text) <= SHORT else f"{text[: SHORT - 3]}...")


def summary(changes: Sequence[FieldChange]) -> str:
    """The changes in short: what was wanted, then what came of it; times and messages only if there is nothing else."""
    told = [each for each in changes if not _QUIET.search(each.path)] or list(changes)
    shown = ""
    for number, each in enumerate(sorted(told, key=lambda each: _rank(each.path))):
        if number and len(shown) + len(each.short) > WIDTH:
            return f"{shown}, {len(told) - number} more"
        shown += f", {each.short}" if number else each.short
    return shown


def _rank(path: str) -> int:
    if path.startswith("status.conditions"):
        return 2
    return {"status": 1, "metadata": 3}.get(path.partition(".")[0], 0)


def readable_form(raw: Raw) -> dict[str, Any]:
    """The object without what only repeats it: its version, who manages which field, the manifest last applied."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping):
        return dict(raw)
    kept = {key: value for key, value in metadata.items() if key not in ("managedFields", "resourceVersion")}
    if LAST_APPLIED in (dig(kept, "annotations") or {}):
        kept["annotations"] = {key: value for key, value in kept["annotations"].items() if key != LAST_APPLIED}
        if not kept["annotations"]:
            del kept["annotations"]
    return {**raw, "metadata": kept}


def masked(old: Raw | None, new: Raw | None) -> tuple[Raw | None, Raw | None]:
    """Two states of a Secret without its texts, as kubectl's diff shows them; of other kinds as they are."""
    if "Secret" not in (dig(old, "kind"), dig(new, "kind")):
        return old, new
    before, after = dict(old or {}), dict(new or {})
    for field in ("data", "stringData"):
        texts, others = before.get(field), after.get(field)
        if isinstance(texts, Mapping):
            before[field] = {key: _mask(value, dig(others, key), "before") for key, value in texts.items()}
        if isinstance(others, Mapping):
            after[field] = {key: _mask(value, dig(texts, key), "after") for key, value in others.items()}
    return None if old is None else before, None if new is None else after


def _mask(value: Any, other: Any, when: str) -> str:
    return f"*** ({when})" if other is not None and other != value else "***"


# ---- by fields ------------------------------------------------------------------------------------------------------


def field_changes(old: Raw, new: Raw) -> list[FieldChange]:
    """What differs, in the order of the fields. Items of a list are told apart by their names where they have any."""
    return [*_compare(old, new, None)]


def _compare(old: Any, new: Any, path: Path) -> Iterator[FieldChange]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _compare_keys(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compare_lists(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield FieldChange(render(path), old, new)


def _compare_keys(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> Iterator[FieldChange]:
    for key in sorted(old.keys() | new.keys()):
        inner = (path, key)
        if key not in new:
            yield FieldChange(render(inner), old=old[key])
        elif key not in old:
            yield FieldChange(render(inner), new=new[key])
        else:
            yield from _compare(old[key], new[key], inner)


def _compare_lists(old: list[Any], new: list[Any], path: Path) -> Iterator[FieldChange]:
    if old == new:
        return
    key = _item_key([*old, *new])
    if key is None:
        if not all(isinstance(each, Mapping) for each in (*old, *new)):
            yield FieldChange(render(path), old, new)
            return
        before, after = ({f"[{i}]": each for i, each in enumerate(some)} for some in (old, new))
    else:
        before, after = ({f"[{key}={each[key]}]": each for each in some} for some in (old, new))
        if len(before) < len(old) or len(after) < len(new):  # two of one name
            before, after = ({f"[{i}]": each for i, each in enumerate(some)} for some in (old, new))
    where = render(path)
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield FieldChange(where + name, old=before[name])
        elif name not in before:
            yield FieldChange(where + name, new=after[name])
        else:
            for each in _compare(before[name], after[name], None):
                dot = "" if not each.path or each.path.startswith("[") else "."
                yield msgspec.structs.replace(each, path=f"{where}{name}{dot}{each.path}")
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        yield FieldChange(f"{where} (order)", [*before], [*after])


def _item_key(items: Sequence[Any]) -> str | None:
    for key in ITEM_KEYS:
        if all(isinstance(each, Mapping) and isinstance(each.get(key), str | int) for each in items):
            return key
    return None


# ---- by lines -------------------------------------------------------------------------------------------------------


def unified_diff(old: Raw | None, new: Raw | None, name: str, before: int, after: int) -> list[str]:
    """The YAML of two states as `diff -u` compares them, without line ends; None is an object that is not there."""
    a = [] if old is None else to_yaml(old).splitlines()
    b = [] if new is None else to_yaml(new).splitlines()
    first = 0
    while first < min(len(a), len(b)) and a[first] == b[first]:
        first += 1
    last = 0
    while last < min(len(a), len(b)) - first and a[-1 - last] == b[-1 - last]:
        last += 1
    start, keep = max(first - CONTEXT, 0), max(last - CONTEXT, 0)
    middle, other = a[start : len(a) - keep], b[start : len(b) - keep]
    titles = [
        f"--- {'/dev/null' if old is None else name}\trevision {before}",
        f"+++ {'/dev/null' if new is None else name}\trevision {after}",
    ]
    if max(len(middle), len(other)) > MOST_LINES:
        return [*titles, *_replaced(middle, other, start, first - start, last - keep)]
    hunks = difflib.unified_diff(middle, other, n=CONTEXT, lineterm="")
    return [*titles, *(_moved(line, start) for line in [*hunks][2:])]


def _replaced(a: list[str], b: list[str], start: int, head: int, tail: int) -> list[str]:
    return [
        f"@@ -{_range(start, len(a))} +{_range(start, len(b))} @@",
        *(f" {line}" for line in a[:head]),
        *(f"-{line}" for line in a[head : len(a) - tail]),
        *(f"+{line}" for line in b[head : len(b) - tail]),
        *(f" {line}" for line in a[len(a) - tail :]),
    ]


def _moved(line: str, by: int) -> str:
    """A hunk's header for lines of which the first `by` were left out."""
    if not by or not line.startswith("@@ "):
        return line
    sides = []
    for side in line.split()[1:3]:
        first, comma, count = side[1:].partition(",")
        sides.append(f"{side[0]}{int(first) + by}{comma}{count}")
    return f"@@ {' '.join(sides)} @@"


def _range(start: int, length: int) -> str:
    return f"{start + 1 if length else start},{length}"
