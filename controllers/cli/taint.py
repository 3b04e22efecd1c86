"""`listwatch taint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from controllers.cli.choosing import chosen
from controllers.cli.editing import edit_each
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    global_options,
    resource_arguments,
    selector_option,
)
from controllers.cli.raw import items
from controllers.cli.session import Session, with_session
from controllers.cli.telling import dry_run_option, output_option
from controllers.core.types import Node
from informer.names import key_problem, value_problem

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class TaintSpec:
    """A taint as the command names it. effect "": of all effects, which is for removing only."""

    key: str
    value: str
    effect: str

    def fits(self, taint: Mapping[str, Any]) -> bool:
        """Whether the node's taint is the one that this means."""
        return taint.get("key") == self.key and self.effect in ("", taint.get("effect"))

    @property
    def name(self) -> str:
        """`key:Effect`."""
        return f"{self.key}:{self.effect}" if self.effect else self.key


def parse_taints(specs: Sequence[str]) -> tuple[list[TaintSpec], list[TaintSpec]]:
    """Those to add, and those to remove. Raises `UsageError`."""
    new: list[TaintSpec] = []
    gone: list[TaintSpec] = []
    for spec in specs:
        if spec.endswith("-"):
            gone.append(_parse(spec.removesuffix("-"), spec))
            continue
        taint = _parse(spec, spec)
        if not taint.effect:
            raise click.UsageError(f"invalid taint spec: {spec}: write KEY=VALUE:EFFECT or KEY:EFFECT")
        if any((each.key, each.effect) == (taint.key, taint.effect) for each in new):
            raise click.UsageError(f"duplicated taints with the same key and effect: {taint.name}")
        new.append(taint)
    both = {each.name for each in new if any(other.fits({"key": each.key, "effect": each.effect}) for other in gone)}
    if both:
        raise click.UsageError(
            f"can not both modify and remove the following taint(s) in the same command: {', '.join(sorted(both))}"
        )
    return new, gone


def _parse(text: str, spec: str) -> TaintSpec:
    rest, colon, effect = text.rpartition(":") if ":" in text else (text, "", "")
    if colon and effect not in EFFECTS:
        raise click.UsageError(f"invalid taint effect: {effect}: write one of {', '.join(EFFECTS)}")
    key, _, value = rest.partition("=")
    for problem in (key_problem(key), value_problem(value)):
        if problem:
            raise click.UsageError(f"invalid taint spec: {spec}: {problem}")
    return TaintSpec(key, value, effect)


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `taint nodes node-1 dedicated=db:NoSchedule`, `taint nodes --all dedicated-`.",
)
@resource_arguments
@selector_option
@click.option("--all", "everything", is_flag=True, help="All nodes.")
@click.option("--overwrite", is_flag=True, help="Also change a taint that is there already.")
@dry_run_option
@output_option
@global_options
@with_session
async def taint(
    session: Session,
    resources: Sequence[str],
    selector: str,
    everything: bool,
    overwrite: bool,
    dry_run: bool,
    output: str | None,
) -> int:
    """Keep pods off nodes by KEY=VALUE:EFFECT; KEY- or KEY:EFFECT- takes the taint away."""
    named = [each for each in resources if not _is_spec(each)]
    specs = [each for each in resources if _is_spec(each)]
    if late := [each for each in resources[resources.index(specs[0]) :] if each in named] if specs else []:
        raise click.UsageError(f"all resources must be specified before taint changes: {late[0]}")
    if not specs:
        raise click.UsageError("at least one taint update is required")
    new, gone = parse_taints(specs)
    found, problems = await chosen(session, named, None, selector=selector, everything=everything)
    nodes = [obj for obj in found if isinstance(obj, Node)]
    if other := [obj for obj in found if not isinstance(obj, Node)]:
        raise CliError(f"{other[0].TYPE.qualified} have no taints, nodes have")

    def change(node: Node) -> bool:
        return _change(node, new, gone, overwrite=overwrite)

    done = "modified" if new and gone else "tainted" if new else "untainted"
    return await edit_each(session, nodes, change, done, problems=problems, output=output, dry_run=dry_run)


def _is_spec(argument: str) -> bool:
    return "=" in argument or ":" in argument or argument.endswith("-")


def _change(node: Node, new: Sequence[TaintSpec], gone: Sequence[TaintSpec], *, overwrite: bool) -> bool:
    before = items(node.raw, "spec", "taints")
    taken = [each.key for each in new if any(each.fits(old) for old in before)]
    if taken and not overwrite:
        keys = ",".join(dict.fromkeys(taken))
        raise CliError(f"node {node.name} already has {keys} taint(s) with same effect(s) and --overwrite is false")
    if missing := [each.name for each in gone if not any(each.fits(old) for old in before)]:
        raise CliError(*(f'node {node.name}: taint "{name}" not found' for name in missing))
    added = [{"key": each.key, **({"value": each.value} if each.value else {}), "effect": each.effect} for each in new]
    kept = [old for old in before if not any(each.fits(old) for each in (*new, *gone))]
    after = [*added, *kept]
    spec = node.raw.setdefault("spec", {})
    if after:
        spec["taints"] = after
    else:
        spec.pop("taints", None)
    return after != before
