"""Stages as they are written: YAML of kwok's kind Stage, read strictly."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from controllers.errors import ControllerError

API_VERSION = "kwok.x-k8s.io/v1alpha1"
# A whole life each; one of them is the ground on which other stages stand.
BASES = ("general", "fast")
SETS = (*BASES, "chaos")

_HERE = Path(__file__).parent
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)

Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Option = Literal["start", "ready", "run", "delete"]


class StageError(ControllerError):
    """A stage cannot be used; the text names the file, the stage, the field and what is wrong with it."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    pass


class From(_Strict, frozen=True):
    """A value that an expression finds in the object."""

    expression_from: str


class Requirement(_Strict, frozen=True):
    """What an expression has to find. Matches and NotMatches take regular expressions for the whole value."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Matches", "NotMatches"]
    values: list[str | bool | int] = []


class Selector(_Strict, frozen=True):
    """Which objects: all of it has to fit."""

    match_labels: dict[str, str] = {}
    match_annotations: dict[str, str] = {}
    match_expressions: list[Requirement] = []


class DelaySpec(_Strict, frozen=True):
    """How long after the object first fits. option: the one of `NodeOptions` that takes the place of the numbers."""

    duration_milliseconds: Milliseconds = 0
    jitter_duration_milliseconds: Milliseconds | None = None
    duration_from: From | None = None
    jitter_duration_from: From | None = None
    option: Option | None = None
    doubled_from: From | None = None
    max_duration_milliseconds: Milliseconds | None = None
    max_duration_from: From | None = None


class ContainerChange(_Strict, frozen=True):
    """What becomes of some containers. `in`, names, first: of which; all if nothing is said."""

    in_: list[Literal["new", "waiting", "running", "terminated"]] = msgspec.field(default=[], name="in")
    names: list[str] = []
    first: bool = False
    state: Literal["waiting", "running", "terminated"] | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    exit_code_from: From | None = None
    ready: bool | None = None
    back_off: bool = False


class EventSpec(_Strict, frozen=True):
    """An Event; one for each container that changed if the message names `.container`."""

    reason: str
    message: str = ""
    type: Literal["Normal", "Warning"] = "Normal"


class FinalizerItem(_Strict, frozen=True):
    """One finalizer."""

    value: str


class FinalizersSpec(_Strict, frozen=True):
    """Which go and which come."""

    add: list[FinalizerItem] = []
    remove: list[FinalizerItem] = []
    empty: bool = False


class NextSpec(_Strict, frozen=True):
    """What the stage makes of the object."""

    status_template: str | dict[str, Any] | None = None
    containers: list[ContainerChange] | ContainerChange | None = None
    init_containers: list[ContainerChange] | ContainerChange | None = None
    event: list[EventSpec] | EventSpec | None = None
    finalizers: FinalizersSpec | None = None
    delete: bool = False


class ResourceRef(_Strict, frozen=True):
    """The kind of the objects."""

    kind: Literal["Pod", "Node"]
    api_group: Literal["v1"] = "v1"


class StageSpec(_Strict, frozen=True):
    """The stage."""

    resource_ref: ResourceRef
    selector: Selector
    next: NextSpec
    weight: Annotated[int, msgspec.Meta(ge=0)] = 0
    weight_from: From | None = None
    delay: DelaySpec = DelaySpec()
    immediate_next_stage: bool = False


class Metadata(_Strict, frozen=True):
    """Its name."""

    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class StageDocument(_Strict, frozen=True):
    """A document of YAML."""

    api_version: Literal["kwok.x-k8s.io/v1alpha1"]
    kind: Literal["Stage"]
    metadata: Metadata
    spec: StageSpec


class Source(msgspec.Struct, frozen=True):
    """A stage as written, and where."""

    place: str
    document: StageDocument

    @property
    def name(self) -> str:
        """Its name."""
        return self.document.metadata.name

    def error(self, path: str, problem: object) -> StageError:
        """Something is wrong with a field of it."""
        return StageError(f"{self.place}: {path}: {problem}")


def read_stages(wanted: Sequence[str | Path]) -> list[Source]:
    """The stages of sets ("general", "fast", "chaos"), YAML files, and directories of such, in this order.

    Without one of the whole lives, "general" and "fast", general comes first. A stage of a kind and name that was there
    before takes its place. Raises StageError.
    """
    if not any(str(each) in BASES for each in wanted):
        wanted = [BASES[0], *wanted]
    found: dict[tuple[str, str], Source] = {}
    for each in wanted:
        for source in _built_in(str(each)) if str(each) in SETS else _of_path(Path(each)):
            found[source.document.spec.resource_ref.kind, source.name] = source
    return list(found.values())


@functools.cache
def _built_in(name: str) -> tuple[Source, ...]:
    return tuple(_of_file(_HERE / f"{name}.yaml", f"stages {name}"))


def _of_path(path: Path) -> Iterator[Source]:
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml"))
        if not files:
            raise StageError(f"{path}: there is no .yaml file in this directory")
        for file in files:
            yield from _of_file(file, str(file))
    else:
        yield from _of_file(path, str(path))


def _of_file(path: Path, shown: str) -> Iterator[Source]:
    # Beside the command line's other readers of YAML; nobody who has no stages to read needs it.
    from controllers.cli.yaml_reader import YamlError, read_yaml

    try:
        text = path.read_text()
    except OSError as error:
        hint = f"; the built-in sets are {', '.join(SETS)}" if isinstance(error, FileNotFoundError) else ""
        raise StageError(f"{shown}: {error.strerror or error}{hint}") from None
    except UnicodeDecodeError as error:
        raise StageError(f"{shown}: not UTF-8: {error}") from None
    names: set[tuple[str, str]] = set()
    try:
        for document in read_yaml(text):
            source = _source(f"{shown}: document {document.number}", document.value)
            key = (source.document.spec.resource_ref.kind, source.name)
            if key in names:
                raise source.error("metadata.name", f"{source.name!r} is there twice in this file")
            names.add(key)
            yield source
    except YamlError as error:
        raise StageError(f"{shown}: {error}") from None
    if not names:
        raise StageError(f"{shown}: there is no Stage in it")


def _source(place: str, value: Any) -> Source:
    metadata = value.get("metadata") if isinstance(value, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
        place = f"{place} ({metadata['name']})"
    try:
        document = msgspec.convert(value, StageDocument)
    except msgspec.ValidationError as error:
        found = _PLACE.fullmatch(str(error))
        assert found is not None
        raise StageError(f"{place}: {found['path'] or 'the document'}: {found['problem']}") from None
    return Source(place, document)
