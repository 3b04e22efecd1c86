"""Manifests: files, directories and the standard input as objects, each with the place it came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controllers.cli.errors import CliError
from controllers.cli.kinds import Kinds
from controllers.cli.yaml_reader import MAX_BYTES, YamlError, read_yaml
from informer.codecs import show
from informer.crd import CustomResourceDefinition
from informer.errors import ApiError, Invalid
from informer.metadata import check_metadata
from informer.patch import copy
from informer.resources import Resource

SUFFIXES = (".yaml", ".yml", ".json")  # kubectl's
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a document; `item` counts from 1 where the document is a List."""

    source: str
    number: int
    raw: dict[str, Any]
    item: int | None = None

    def __str__(self) -> str:
        """Where it is: `web.yaml (document 2, Deployment "web")`."""
        parts = [f"document {self.number}"]
        if self.item is not None:
            parts.append(f"item {self.item}")
        kind, metadata = self.raw.get("kind"), self.raw.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if isinstance(kind, str) and kind:
            parts.append(f'{kind} "{name}"' if isinstance(name, str) and name else kind)
        return f"{self.source} ({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest and the object it describes, found valid; the namespace is filled in."""

    manifest: Manifest
    object: Resource


def read_manifests(paths: Sequence[str], *, recursive: bool = False) -> list[Manifest]:
    """All manifests of files, directories (sorted by name) and `-`. Raises `CliError` with every mistake found."""
    found: list[Manifest] = []
    problems: list[str] = []
    for path in paths:
        try:
            for source, data in _sources(path, recursive):
                found += _manifests(source, data)
        except CliError as error:
            problems += error.lines
    if problems:
        raise CliError(*problems)
    if not found:
        raise CliError(f"no objects in {', '.join(paths)}")
    return found


def check_manifests(manifests: Sequence[Manifest], kinds: Kinds, namespace: str | None) -> list[Checked]:
    """Every manifest as an object of its kind, all fields checked. Raises `CliError` with every mistake found.

    namespace: what the command was given; a manifest that names another one is a mistake. A definition makes its kind
    known to the manifests after it.
    """
    checked: list[Checked] = []
    problems: list[str] = []
    for manifest in manifests:
        try:
            checked.append(_check(manifest, kinds, namespace))
        except ApiError as error:
            problems.append(f"{manifest}: {error}{_hint(error)}")
    if problems:
        raise CliError(*problems)
    return checked


def _check(manifest: Manifest, kinds: Kinds, namespace: str | None) -> Checked:
    raw = copy(manifest.raw)
    for field in ("apiVersion", "kind"):
        value = raw.get(field)
        if not isinstance(value, str) or not value:
            raise Invalid(field, "required" if value in (None, "") else f"expected str, got {show(value)}")
    cls = kinds.by_gvk(raw["apiVersion"], raw["kind"])
    metadata = raw.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise Invalid("metadata", f"expected ObjectMeta, got {show(metadata)}")
    obj = cls.from_raw(raw)
    obj.check()
    _place(obj, namespace)
    if not obj.name and not obj.metadata.generate_name:
        raise Invalid("metadata.name", "required")
    # The store's side checks again; this is to know of every mistake before anything is written.
    trial = cls.from_raw(copy(raw))
    trial.default()
    trial.validate()
    if obj.name:
        check_metadata(cls.TYPE, trial.raw["metadata"])
    if isinstance(obj, CustomResourceDefinition):
        kinds.define(obj)
    return Checked(manifest, obj)


def _place(obj: Resource, namespace: str | None) -> None:
    given = obj.namespace
    if not obj.TYPE.namespaced:
        if given:
            raise Invalid("metadata.namespace", f"{obj.TYPE.qualified} have none, got {show(given)}")
        return
    if given and namespace and given != namespace:
        raise Invalid("metadata.namespace", f'the manifest says "{given}", the command -n "{namespace}"')
    obj.raw["metadata"]["namespace"] = given or namespace or DEFAULT_NAMESPACE


def _hint(error: ApiError) -> str:
    if isinstance(error, Invalid) and error.problem in ("expected str, got true", "expected str, got false"):
        return " (yes, no, on, off, y and n without quotes are booleans in YAML: quote the text)"
    return ""


# ---- text -----------------------------------------------------------------------------------------------------------


def _sources(path: str, recursive: bool) -> Iterator[tuple[str, bytes]]:
    if path == "-":
        yield "stdin", sys.stdin.buffer.read(MAX_BYTES + 1)
        return
    if path.startswith(("http://", "https://")):
        raise CliError(f"{path}: manifests are read from files, directories and - only; download it first")
    place = Path(path)
    try:
        if not place.is_dir():
            yield path, _read(place)
            return
        files = sorted(each for each in (place.rglob("*") if recursive else place.iterdir()) if each.is_file())
        files = [each for each in files if each.suffix in SUFFIXES]
        if not files:
            raise CliError(f"no {', '.join(SUFFIXES)} files in the directory {path}")
        for file in files:
            yield str(file), _read(file)
    except FileNotFoundError:
        raise CliError(f'the path "{path}" does not exist') from None
    except OSError as error:
        raise CliError(f"cannot read {error.filename or path}: {error.strerror}") from None


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def _manifests(source: str, data: bytes) -> Iterator[Manifest]:
    if len(data) > MAX_BYTES:
        raise CliError(f"{source}: larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CliError(f"{source}: line {line}: not UTF-8 text") from None
    for number, line, value in _documents(source, text):
        if not isinstance(value, dict):
            kind = {list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")
            raise CliError(f"{source} (document {number}): line {line}: expected an object, got {kind}")
        items = value.get("items")
        if value.get("kind") == "List" and isinstance(items, list):
            for place, item in enumerate(items, 1):
                if not isinstance(item, dict):
                    raise CliError(f"{source} (document {number}, item {place}): expected an object, got {show(item)}")
                yield Manifest(source, number, item, place)
        else:
            yield Manifest(source, number, value)


def _documents(source: str, text: str) -> Iterator[tuple[int, int, Any]]:
    if text.lstrip()[:1] == "{":
        try:
            yield from list(_read_json(source, text))
            return
        except _JsonError as error:
            # YAML has the same braces, and more ways to fill them.
            if source.endswith(".json"):
                raise CliError(str(error)) from None
    try:
        for document in read_yaml(text):
            yield document.number, document.line, document.value
    except YamlError as error:
        where = f"{source} (document {error.document}): line {error.line}, column {error.column}"
        raise CliError(f"{where}: {error.problem}") from None


class _JsonError(Exception):
    pass


def _read_json(source: str, text: str) -> Iterator[tuple[int, int, Any]]:
    """JSON documents one after the other, as kubectl takes them."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    position = number = 0
    while (position := _skip_space(text, position)) < len(text):
        number += 1
        line = text.count("\n", 0, position) + 1
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            where = f"{source} (document {number}): line {error.lineno}, column {error.colno}"
            raise _JsonError(f"{where}: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            problem = "nested too deep" if isinstance(error, RecursionError) else error
            raise _JsonError(f"{source} (document {number}, from line {line}): {problem}") from None
        yield number, line, value


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{key}" is there twice')
            seen.add(key)
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")
