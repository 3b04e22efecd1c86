"""What a stage makes of an object, compiled from its `next`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from controllers.core.stages.expressions import Expression, command_of
from controllers.core.stages.kubelet import Setting, change_containers, follow, set_condition
from controllers.core.stages.matching import as_text
from controllers.core.stages.reading import ContainerChange, EventSpec, Source
from informer.patch import copy

Raw = dict[str, Any]
Fill = Callable[[Raw, Setting], Any]
T = TypeVar("T")

_PLACEHOLDER = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_QUOTE = re.compile(r"\s*\|\s*Quote$")
_KEPT = re.compile(r"<placeholder (\d+)>")
_NAMES: dict[str, Callable[[Setting], str]] = {
    "Now": lambda setting: setting.stamp,
    "NodeIP": lambda setting: setting.host_ip,
    "NodeName": lambda setting: setting.node,
    "PodIP": lambda setting: setting.address(),
}
_NAMED = ("type", "status", "reason", "message")
_MERGE_KEYS = {"conditions": "type", "containerStatuses": "name", "initContainerStatuses": "name"}


class Told(NamedTuple):
    """An Event to be recorded."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


_EXIT = re.compile(r"\bexit\s+(\d{1,3})\b")


def exit_code(container: Raw) -> int:
    """What a container's command ends with: `exit 3` and `false` fail."""
    words = command_of(container)
    found = _EXIT.findall(" ".join(words))
    if found:
        return int(found[-1])
    return 1 if words and words[0].rpartition("/")[2] == "false" else 0


class Effect:
    """Raises StageError for a `next` that cannot be done."""

    def __init__(self, source: Source) -> None:
        wanted = source.document.spec.next
        if source.document.spec.resource_ref.kind == "Node":
            for field in ("containers", "init_containers", "finalizers", "delete"):
                if getattr(wanted, field):
                    raise source.error(f"spec.next.{field}", "is for Pods; a Node has statusTemplate and event")
        self.delete = wanted.delete
        self._finalizers = wanted.finalizers
        self._containers = _many(wanted.containers)
        self._initial = _many(wanted.init_containers)
        self._codes: dict[str, Expression] = {}
        self._texts: dict[str, Fill] = {}
        for field, changes in (("containers", self._containers), ("initContainers", self._initial)):
            for change in changes:
                self._check(source, f"spec.next.{field}", change)
        self._status = _status(source, wanted.status_template)
        self._events = [self._event(source, event) for event in _many(wanted.event)]

    def _check(self, source: Source, path: str, change: ContainerChange) -> None:
        if change.state != "terminated":
            for field, name in (("exit_code", "exitCode"), ("exit_code_from", "exitCodeFrom"), ("back_off", "backOff")):
                if getattr(change, field) not in (None, False):
                    raise source.error(f"{path}.{name}", "goes with state: terminated")
        if change.state is None and (change.reason or change.message or change.ready is None):
            raise source.error(path, "needs state (waiting, running, terminated), or ready alone")
        if change.ready and change.state in ("waiting", "terminated"):
            raise source.error(f"{path}.ready", "only a container that runs can be ready")
        if change.exit_code_from is not None:
            text = change.exit_code_from.expression_from
            try:
                self._codes[text] = Expression(text)
            except ValueError as error:
                raise source.error(f"{path}.exitCodeFrom.expressionFrom", error) from None
        if change.message:
            self._texts[change.message] = _text(source, f"{path}.message", change.message)

    def _event(self, source: Source, event: EventSpec) -> tuple[EventSpec, Fill, bool]:
        fill = _text(source, "spec.next.event.message", event.message)
        return event, fill, bool(re.search(r"\{\{[^}]*\.container\b", event.message))

    @property
    def changes_containers(self) -> bool:
        """Whether phase and conditions follow from what it does."""
        return bool(self._containers or self._initial)

    def apply(self, raw: Raw, setting: Setting) -> list[Told]:
        """Do it, in place; the Events that tell of it."""
        changed: list[tuple[Raw, bool]] = []
        if self._initial:
            changed += change_containers(
                raw,
                self._initial,
                setting,
                lambda change, container: self._code(raw, change, container, setting),
                initial=True,
                text_of=lambda text, container: self._fill(raw, text, container, setting),
            )
        if self._containers or self._initial:
            changed += change_containers(
                raw,
                self._containers,
                setting,
                lambda change, container: self._code(raw, change, container, setting),
                text_of=lambda text, container: self._fill(raw, text, container, setting),
            )
        template = self._status(raw, setting) if self._status is not None else None
        if self._containers or self._initial:
            follow(raw, setting, template.get("phase") if template else None)
        if template:
            _merge(raw.setdefault("status", {}), template, setting.stamp)
        if self._finalizers is not None:
            self._change_finalizers(raw["metadata"])
        return self._told(raw, changed, setting)

    def _change_finalizers(self, metadata: Raw) -> None:
        assert self._finalizers is not None
        gone = {each.value for each in self._finalizers.remove}
        before = [] if self._finalizers.empty else metadata.get("finalizers") or []
        kept = [each for each in before if each not in gone]
        # As the API server: nothing that is being deleted takes on another one.
        if not metadata.get("deletionTimestamp"):
            kept += [each.value for each in self._finalizers.add if each.value not in kept]
        if kept:
            metadata["finalizers"] = kept
        else:
            metadata.pop("finalizers", None)

    def _told(self, raw: Raw, changed: Sequence[tuple[Raw, bool]], setting: Setting) -> list[Told]:
        told = []
        for event, fill, each_container in self._events:
            documents = [{**raw, "container": each} for each, _ in changed] if each_container else [raw]
            told += [Told(event.type, event.reason, str(fill(each, setting))) for each in documents]
        if any(change.back_off for change in (*self._containers, *self._initial)):
            name = raw["metadata"]["name"]
            told += [
                Told("Warning", "BackOff", f"Back-off restarting failed container {container['name']} in pod {name}")
                for container, waits in changed
                if waits
            ]
        return told

    def _fill(self, raw: Raw, text: str, container: Raw, setting: Setting) -> str:
        return str(self._texts[text]({**raw, "container": container}, setting))

    def _code(self, raw: Raw, change: ContainerChange, container: Raw, setting: Setting) -> int:
        if change.exit_code_from is not None:
            text = change.exit_code_from.expression_from
            code = _drawn(self._codes[text].first({**raw, "container": container}), setting)
            if code is not None:
                return code
        return exit_code(container) if change.exit_code is None else change.exit_code


def _drawn(value: Any, setting: Setting) -> int | None:
    """A whole number, or one of several: "0,0,3". All containers that say the same end the same."""
    if isinstance(value, int):
        return value
    if not isinstance(value, str):
        return None
    if value not in setting.drawn:
        given = [int(each) for each in value.split(",") if each.strip().isdecimal()]
        if not given:
            return None
        setting.drawn[value] = setting.rng.choice(given) if setting.rng is not None else given[0]
    return setting.drawn[value]


def _many(value: Sequence[T] | T | None) -> list[T]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]


# ---- templates ------------------------------------------------------------------------------------------------------


def _status(source: Source, template: str | Raw | None) -> Fill | None:
    path = "spec.next.statusTemplate"
    if template is None:
        return None
    if isinstance(template, str):
        template = _parse(source, path, template)
    if "status" in template and len(template) == 1:
        raise source.error(path, "it is the status itself, without the field status around it")
    for field, key in _MERGE_KEYS.items():
        each_path = f"{path}.{field}"
        for each in template.get(field) or ():
            if not isinstance(each, dict) or not isinstance(each.get(key), str):
                raise source.error(each_path, f"each needs a {key}")
            if field == "conditions" and each.get("status") not in ("True", "False", "Unknown"):
                raise source.error(each_path, f'{each["type"]}: status has to be "True", "False" or "Unknown", quoted')
    return _value(source, path, template)


def _parse(source: Source, path: str, text: str) -> Raw:
    """A template that is a text: YAML, where placeholders may stand unquoted."""
    from controllers.cli.yaml_reader import YamlError, read_yaml

    found: list[str] = []

    def keep(match: re.Match[str]) -> str:
        found.append(match[0])
        return f"<placeholder {len(found) - 1}>"

    kept = _PLACEHOLDER.sub(keep, text)
    for each in found:
        _text(source, path, each)
    try:
        documents = list(read_yaml(kept))
    except YamlError as error:
        raise source.error(path, error) from None
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise source.error(path, "has to be a mapping")
    restored = _restore(documents[0].value, found)
    assert isinstance(restored, dict)
    return restored


def _restore(value: Any, found: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _KEPT.sub(lambda match: found[int(match[1])], value)
    if isinstance(value, dict):
        return {key: _restore(each, found) for key, each in value.items()}
    if isinstance(value, list):
        return [_restore(each, found) for each in value]
    return value


def _value(source: Source, path: str, value: Any) -> Fill:
    if isinstance(value, dict):
        fields = {key: _value(source, f"{path}.{key}", each) for key, each in value.items()}
        return lambda raw, setting: {key: fill(raw, setting) for key, fill in fields.items()}
    if isinstance(value, list):
        elements = [_value(source, f"{path}[{index}]", each) for index, each in enumerate(value)]
        return lambda raw, setting: [fill(raw, setting) for fill in elements]
    if isinstance(value, str) and "{{" in value:
        return _text(source, path, value)
    return lambda raw, setting: value


def _text(source: Source, path: str, text: str) -> Fill:
    """A text with placeholders; one that is nothing but a placeholder gives the value as it is."""
    pieces: list[str | Fill] = []
    place = 0
    for match in _PLACEHOLDER.finditer(text):
        pieces.append(text[place : match.start()])
        pieces.append(_placeholder(source, path, match[1]))
        place = match.end()
    pieces.append(text[place:])
    if len(pieces) == 1:
        return lambda raw, setting: text
    if len(pieces) == 3 and pieces[0] == pieces[2] == "" and callable(pieces[1]):
        return pieces[1]

    def fill(raw: Raw, setting: Setting) -> str:
        return "".join(each if isinstance(each, str) else _shown(each(raw, setting)) for each in pieces)

    return fill


def _shown(value: Any) -> str:
    return "" if value is None else as_text(value)


def _placeholder(source: Source, path: str, text: str) -> Fill:
    text = _QUOTE.sub("", text)
    name = _NAMES.get(text)
    if name is not None:
        return lambda raw, setting: name(setting)
    try:
        expression = Expression(text)
    except ValueError as error:
        names = ", ".join(_NAMES)
        raise source.error(
            path, f"{error}. A placeholder is one of {names}, or a path as in a selector; Go templates are not run"
        ) from None
    return lambda raw, setting: copy(expression.first(raw))


def _merge(target: Raw, patch: Raw, stamp: str) -> None:
    """As a strategic merge patch of a status: maps field by field, conditions by type, containers by name."""
    for field, value in patch.items():
        if value is None:
            target.pop(field, None)
        elif field == "conditions":
            for each in value:
                rest = {key: part for key, part in each.items() if key not in _NAMED and part is not None}
                set_condition(
                    target, each["type"], each["status"], stamp, each.get("reason", ""), each.get("message", ""), **rest
                )
        elif field in _MERGE_KEYS:
            known = {each["name"]: each for each in target.get(field) or ()}
            for each in value:
                if each["name"] in known:
                    _merge(known[each["name"]], each, stamp)
                else:
                    target.setdefault(field, []).append(each)
        elif isinstance(value, dict) and isinstance(target.get(field), dict):
            _merge(target[field], value, stamp)
        else:
            target[field] = value
