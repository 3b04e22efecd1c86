"""`listwatch drain`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.drain_pods import Allowed, plan_drain
from controllers.cli.draining import Draining
from controllers.cli.durations import Duration
from controllers.cli.errors import CliError
from controllers.cli.nodes import chosen_nodes, node_arguments, set_schedulable
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session
from controllers.cli.telling import dry_run_option, tell
from controllers.core.types import Node, Pod
from controllers.policy.eviction import evict


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `drain node-1 --ignore-daemonsets`, `drain -l zone=a --force --timeout=1m`; back: `uncordon`.",
)
@node_arguments
@click.option(
    "--ignore-daemonsets", is_flag=True, help="Leave pods of DaemonSets, which would come back, where they are."
)
@click.option("--delete-emptydir-data", is_flag=True, help="Also pods with emptyDir volumes: their data is lost.")
@click.option("--force", is_flag=True, help="Also pods without a controller: nobody makes them anew.")
@click.option("--grace-period", type=click.IntRange(min=-1), default=-1, help="Seconds to stop in; -1: the pod's own.")
@click.option("--timeout", type=Duration(), default=0.0, help="How long it may take; 0 is without limit.")
@click.option("--pod-selector", default="", metavar="SELECTOR", help="Only pods with these labels.")
@click.option("--disable-eviction", is_flag=True, help="Delete the pods, whatever their disruption budgets say.")
@dry_run_option
@global_options
@with_session
async def drain(
    session: Session,
    names: Sequence[str],
    selector: str,
    ignore_daemonsets: bool,
    delete_emptydir_data: bool,
    force: bool,
    grace_period: int,
    timeout: float,
    pod_selector: str,
    disable_eviction: bool,
    dry_run: bool,
) -> int:
    """Cordon nodes, and evict their pods as far as disruption budgets allow it."""
    nodes, problems = await chosen_nodes(session, names, selector)
    if problems:
        raise CliError(*problems)
    allowed = Allowed(force, ignore_daemonsets, delete_emptydir_data)
    grace = None if grace_period < 0 else grace_period
    for node in nodes:
        await set_schedulable(session, node, schedulable=False, dry_run=dry_run)

    async def take(pod: Pod) -> None:
        if disable_eviction:
            await session.objects.delete(Pod, pod.name, pod.namespace, uid=pod.metadata.uid, grace_seconds=grace)
        else:
            await evict(session.objects, pod, grace_seconds=grace)

    pending: list[str] = []
    for node in nodes:
        try:
            pods = await _pods(session, node, pod_selector, allowed)
            if dry_run:
                for pod in pods:
                    click.echo(f"evicting pod {pod.namespace}/{pod.name} (dry run)")
            else:
                word = "deleted" if disable_eviction else "evicted"
                await Draining(session, pods, take, word).run(node.name, timeout)
        except CliError as error:
            told = error.lines[0] if len(error.lines) == 1 else f"[{', '.join(error.lines)}]"
            click.echo(
                f'error: unable to drain node "{node.name}" due to error: {told}, continuing command...', err=True
            )
            pending.append(node.name)
            problems += error.lines
        else:
            tell(node, "drained", dry_run=dry_run)
    if pending:
        click.echo("There are pending nodes to be drained:", err=True)
        for name in pending:
            click.echo(f" {name}", err=True)
        raise CliError(*problems)
    return 0


async def _pods(session: Session, node: Node, selector: str, allowed: Allowed) -> list[Pod]:
    """What has to go. Raises `CliError` if something of it must not."""
    listed = await session.objects.list(Pod, None, selector)
    plan = await plan_drain(session, [pod for pod in listed if pod.spec.node_name == node.name], allowed)
    if plan.errors:
        raise CliError(*plan.told_errors())
    if plan.warnings:
        click.echo(f"Warning: {plan.told_warnings()}", err=True)
    return plan.pods
