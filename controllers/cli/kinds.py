"""The kinds a command can name: the built-in ones, and those that definitions in the store describe."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

import controllers.kinds  # noqa: F401 - registers the built-in kinds
from controllers.cli.raw import items, text
from informer.client import ObjectClient
from informer.crd import CustomResourceDefinition, resources_from_crd
from informer.errors import ApiError, UnknownKind
from informer.resources import SCHEME, Resource, Scheme

if TYPE_CHECKING:
    from controllers.cli.columns import Columns

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
        self._columns: dict[type[Resource], list[Any]] = {}

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
        printed = {
            text(version, "name"): items(version, "additionalPrinterColumns")
            for version in items(definition.raw, "spec", "versions")
        }
        for cls in resources_from_crd(definition):
            self._defined.add(cls)
            self._columns[cls] = printed.get(cls.TYPE.version) or []

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

    def columns(self, cls: type[Resource]) -> Columns:
        """What a table of the kind shows: of a defined one what its definition says."""
        from controllers.cli.columns import columns_of

        if specs := self._columns.get(cls):
            from controllers.cli.columns.custom import custom_columns

            return custom_columns(specs) or columns_of(cls.TYPE.qualified)
        return columns_of(cls.TYPE.qualified)

    def all(self) -> list[type[Resource]]:
        """Every kind, by group and plural."""
        found = {each.TYPE.qualified: each for each in (*self._defined.kinds(), *SCHEME.kinds())}
        return sorted(found.values(), key=lambda each: (each.TYPE.group, each.TYPE.plural))
