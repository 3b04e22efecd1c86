"""`listwatch wait`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import click

from controllers.cli.durations import Duration
from controllers.cli.errors import CliError
from controllers.cli.following import cache_key, until
from controllers.cli.jsonpath import JsonPath
from controllers.cli.options import (
    KubectlCommand,
    all_namespaces_option,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.raw import dig, items
from controllers.cli.session import Session, with_session
from controllers.cli.targets import Target, kind_reference, parse_targets
from informer.cache import Cache, Stored
from informer.errors import NotFound

# What is asked of an object; None stands for one that is not there.
Test: TypeAlias = Callable[[dict[str, Any] | None], bool]


class For(click.ParamType[str]):
    """`--for`, checked."""

    name = "for"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        try:
            parse_for(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def parse_for(text: str) -> Test:
    """`condition=Available[=Status]`, `jsonpath={.path}[=value]`, `create`, `delete`. Raises ValueError."""
    kind, _, rest = text.partition("=")
    match kind.lower():
        case "delete" if not rest:
            return lambda raw: raw is None
        case "create" if not rest:
            return lambda raw: raw is not None
        case "condition" if rest:
            name, _, status = rest.partition("=")
            return lambda raw: raw is not None and _has_condition(raw, name, status or "True")
        case "jsonpath" if rest:
            path, value = _split_path(rest)
            wanted = JsonPath(path)
            return lambda raw: raw is not None and _has_value(wanted.find(raw), value)
    raise ValueError(f'"{text}": write condition=NAME, jsonpath={{.path}}=VALUE, create or delete')


def _split_path(text: str) -> tuple[str, str | None]:
    mark, length = ("}", 1) if "}" in text else ("=", 0)
    end = text.index(mark) + length if mark in text else len(text)
    path, rest = text[:end].strip("'\""), text[end:].strip("'\"")
    if not rest:
        return path, None
    if not rest.startswith("="):
        raise ValueError(f'"{text}": expected =VALUE after the path')
    return path, rest[1:].strip("'\"")


def _has_condition(raw: dict[str, Any], name: str, status: str) -> bool:
    generation = dig(raw, "metadata", "generation") or 0
    for each in items(raw, "status", "conditions"):
        if str(each.get("type")).lower() != name.lower():
            continue
        # A condition that was written for an earlier spec says nothing about this one.
        observed = each.get("observedGeneration") or dig(raw, "status", "observedGeneration") or generation
        return observed >= generation and str(each.get("status")).lower() == status.lower()
    return False


def _has_value(found: Sequence[Any], value: str | None) -> bool:
    if value is None:
        return bool(found)
    shown = [{True: "true", False: "false"}[each] if isinstance(each, bool) else str(each) for each in found]
    return value in shown


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `wait deploy/web --for=condition=Available`, `wait pod -l app=web --for=delete --timeout=60s`, "
    "`wait pod/web --for=jsonpath='{.status.phase}'=Running`.",
)
@resource_arguments
@click.option("--for", "condition", type=For(), required=True, metavar="WHAT", help="What to wait for.")
@click.option("--timeout", type=Duration(), default=30.0, show_default="30s", help="How long; 0 asks only once.")
@click.option("--all", "everything", is_flag=True, help="All objects of the kinds named.")
@namespace_option
@all_namespaces_option
@selector_option
@global_options
@with_session
async def wait(
    session: Session,
    resources: Sequence[str],
    condition: str,
    timeout: float,
    everything: bool,
    namespace: str | None,
    all_namespaces: bool,
    selector: str,
) -> int:
    """Wait until objects are as wanted: condition=NAME[=STATUS], jsonpath={.path}[=VALUE], create or delete."""
    targets = parse_targets(session.kinds, resources, namespace, all_namespaces=all_namespaces)
    if any(target.name is None for target in targets) and not (selector or everything):
        raise click.UsageError("name the objects, or select them by -l, or say --all")
    waiting = await _objects(session, targets, selector, may_be_absent=condition.lower() in ("create", "delete"))
    if not waiting:
        if condition.lower() == "delete":
            return 0
        raise CliError("no matching resources found")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    late: list[str] = []
    for (cls, within), group in groupby(waiting, lambda each: (each.cls, each.namespace)):
        left = _Left(list(group), parse_for(condition))
        try:
            # Asked once at least, however short the time is.
            await until(session, cls, within, left.reached, max(deadline - loop.time(), 0.5))
        except TimeoutError:
            late += [f"timed out waiting for the condition on {each.cls.TYPE.plural}/{each.name}" for each in left.left]
    if late:
        raise CliError(*late)
    return 0


async def _objects(session: Session, targets: Sequence[Target], selector: str, *, may_be_absent: bool) -> list[Target]:
    found: list[Target] = []
    missing: list[str] = []
    for target in targets:
        if target.name is None:
            listed = await session.objects.list(target.cls, target.namespace, selector)
            found += [Target(target.cls, obj.name, obj.namespace) for obj in listed]
            continue
        if not may_be_absent:
            try:
                await session.objects.get(target.cls, target.name, target.namespace)
            except NotFound as error:
                missing.append(str(error))
                continue
        found.append(target)
    if missing:
        raise CliError(*missing)
    return sorted(found, key=lambda each: (each.cls.TYPE.qualified, each.namespace or ""))


class _Left:
    """The objects that are not yet as wanted; tells of each that comes to be."""

    def __init__(self, targets: Sequence[Target], test: Test) -> None:
        self.left = [*targets]
        self._test = test

    def reached(self, cache: Cache) -> bool:
        for target in [*self.left]:
            assert target.name is not None
            if self._test(_raw(target, cache.get(cache_key(target.cls, target.namespace, target.name)))):
                self.left.remove(target)
                click.echo(f"{kind_reference(target.cls)}/{target.name} condition met")
        return not self.left


def _raw(target: Target, stored: Stored | None) -> dict[str, Any] | None:
    return None if stored is None else target.cls.decode(stored.data, stored.revision).raw
