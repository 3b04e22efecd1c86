"""Which objects a command is about: `pods`, `pod web`, `deploy/web svc/web`, with -l, -n, -A."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from controllers.cli.kinds import ALL, Kinds
from informer.client import DEFAULT_NAMESPACE, ObjectClient
from informer.errors import NotFound
from informer.resources import Resource


@dataclass(frozen=True, slots=True)
class Target:
    """One object, or with `name` None all of the kind. `namespace` None: every one, or the kind has none."""

    cls: type[Resource]
    name: str | None
    namespace: str | None


def parse_targets(
    kinds: Kinds, arguments: Sequence[str], namespace: str | None, *, all_namespaces: bool = False
) -> list[Target]:
    """What the arguments of a command name. Raises `UnknownKind`, and `UsageError` for a mix that says nothing."""
    if not arguments:
        raise click.UsageError("name a kind of objects, such as pods or deployment/web")
    within = None if all_namespaces else namespace or DEFAULT_NAMESPACE

    def target(kind: str, name: str | None) -> Target:
        cls = kinds.lookup(kind)
        if name is not None and all_namespaces and cls.TYPE.namespaced:
            raise click.UsageError("a name cannot be looked for in all namespaces: use -n")
        return Target(cls, name, within if cls.TYPE.namespaced else None)

    if any("/" in argument for argument in arguments):
        found = []
        for argument in arguments:
            kind, slash, name = argument.partition("/")
            if not slash or not kind or not name or "/" in name:
                raise click.UsageError(f'"{argument}": with KIND/NAME every argument has to be of that form')
            found.append(target(kind, name))
        return found
    words = [word for word in arguments[0].split(",") if word]
    if not words:
        raise click.UsageError("name a kind of objects, such as pods or deployment/web")
    spelt = [name for word in words for name in (ALL if word.lower() == "all" else (word,))]
    names = arguments[1:]
    if not names:
        return [target(kind, None) for kind in dict.fromkeys(spelt)]
    return [target(kind, name) for kind in spelt for name in names]


def single_target(arguments: Sequence[str]) -> tuple[str, str]:
    """The kind's word and the name of the one object that the arguments name. Raises `UsageError` for anything else."""
    words = arguments[0].split("/") if len(arguments) == 1 else list(arguments)
    if len(words) != 2 or not all(words) or any("/" in word for word in words) or "," in words[0]:
        raise click.UsageError("name one object, such as deployment/web")
    return words[0], words[1]


async def read_targets(
    objects: ObjectClient, targets: Sequence[Target], selector: str = ""
) -> tuple[list[Resource], list[str]]:
    """The objects that there are, in order, and a line for each that there is not."""
    found: list[Resource] = []
    missing: list[str] = []
    for target in targets:
        if target.name is None:
            found += await objects.list(target.cls, target.namespace, selector)
            continue
        if selector:
            raise click.UsageError("a name and a selector exclude each other")
        try:
            found.append(await objects.get(target.cls, target.name, target.namespace))
        except NotFound as error:
            missing.append(str(error))
    return found, missing


def reference(obj: Resource) -> str:
    """`deployment.apps/web`, `pod/web-1`: how messages name an object."""
    return f"{kind_reference(type(obj))}/{obj.name}"


def kind_reference(cls: type[Resource]) -> str:
    """`deployment.apps`, `pod`."""
    kind = cls.TYPE
    return f"{kind.singular}.{kind.group}" if kind.group else kind.singular
