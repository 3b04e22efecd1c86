"""The kinds a command can name: the built-in ones, and those that definitions in the store describe."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import structlog

import controllers.kinds  # noqa: F401 - registers the built-in kinds
from informer.client import ObjectClient
from informer.crd import CustomResourceDefinition, resources_from_crd
from informer.errors import ApiError, UnknownKind
from informer.resources import SCHEME, Resource, Scheme

log = structlog.get_logger("controllers.cli")

# kubectl's `all`: what runs, in the order it shows them.
ALL = (
    "pods",
    "services",
    "daemonsets.apps",
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "horizontalpodautoscalers.autoscaling",
    "cronjobs.batch",
    "jobs.batch",
)


class Kinds:
    """Finds classes by the names that kubectl takes. A built-in kind wins over a defined one of the same name."""

    def __init__(self) -> None:
        self._defined = Scheme()

    @classmethod
    async def load(cls, objects: ObjectClient) -> Kinds:
        """The built-in kinds and those defined in the store."""
        return cls.of(await objects.list(CustomResourceDefinition))

    @classmethod
    def of(cls, definitions: Iterable[CustomResourceDefinition]) -> Kinds:
        """The built-in kinds and those of the definitions, without the unusable ones."""
        kinds = cls()
        for definition in definitions:
            kinds.try_define(definition)
        return kinds

    def try_define(self, definition: CustomResourceDefinition) -> None:
        """As `define`; a definition that makes no sense is passed over, with a line in the log."""
        try:
            self.define(definition)
        except ApiError as error:
            log.warning("definition_unusable", name=definition.name, error=str(error))

    def define(self, definition: CustomResourceDefinition) -> None:
        """Make the kind of a definition known. Raises `Invalid` for one that makes no sense."""
        for cls in resources_from_crd(definition):
            self._defined.add(cls)

    def lookup(self, name: str) -> type[Resource]:
        """By plural, singular, kind or short name, with or without group. Raises `UnknownKind`."""
        for scheme in (SCHEME, self._defined):
            try:
                return scheme.lookup(name)
            except UnknownKind:
                continue
        words = {word for each in self.all() for word in (each.TYPE.plural, each.TYPE.singular, *each.TYPE.short_names)}
        close = difflib.get_close_matches(name.lower(), sorted(words), n=1)
        hint = f"did you mean {close[0]}?" if close else "`listwatch api-resources` lists what it has"
        raise UnknownKind(f'the store doesn\'t have a resource type "{name}"; {hint}')

    def by_gvk(self, api_version: str, kind: str) -> type[Resource]:
        """By a manifest's apiVersion and kind. Raises `UnknownKind`."""
        for scheme in (SCHEME, self._defined):
            try:
                return scheme.by_gvk(api_version, kind)
            except UnknownKind:
                continue
        known = {f"{each.TYPE.api_version} {each.TYPE.kind}": each.TYPE.kind for each in self.all()}
        same = [full for full, word in known.items() if word.lower() == kind.lower()]
        close = same or difflib.get_close_matches(f"{api_version} {kind}", sorted(known), n=1)
        hint = f"did you mean {close[0]}?" if close else "`listwatch api-resources` lists what is known"
        raise UnknownKind(f'no kind "{kind}" in version "{api_version}" is known; {hint}')

    def all(self) -> list[type[Resource]]:
        """Every kind, by group and plural."""
        found = {each.TYPE.qualified: each for each in (*self._defined.kinds(), *SCHEME.kinds())}
        return sorted(found.values(), key=lambda each: (each.TYPE.group, each.TYPE.plural))
