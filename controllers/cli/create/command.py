"""`listwatch create -f`, and the kinds that can be made without a manifest, each imported when it is used."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

import click

from controllers.cli.applying import Writing, writing_options
from controllers.cli.options import global_options, kubectl_spelling
from controllers.cli.session import Session, with_session
from informer.resources import Resource

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# kind: the file and its command, the aliases that kubectl has, what the help says.
KINDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "configmap": ("config:configmap", ("cm",), "Settings, of literals and files."),
    "cronjob": ("jobs:cronjob", ("cj",), "A Job at each time of a schedule."),
    "deployment": ("deployment:deployment", ("deploy", "dep"), "Pods of images, kept running."),
    "job": ("jobs:job", (), "A Job of an image, or of a CronJob's template."),
    "namespace": ("namespace:namespace", ("ns",), "A namespace."),
    "poddisruptionbudget": ("policy:poddisruptionbudget", ("pdb",), "How many pods evictions may take."),
    "priorityclass": ("policy:priorityclass", ("pc",), "A priority by name."),
    "quota": ("policy:quota", ("resourcequota",), "How much a namespace may use."),
    "secret": ("config:secret", (), "Settings to be kept quiet."),
    "service": ("service:service", ("svc",), "One name for many pods."),
    "serviceaccount": ("namespace:serviceaccount", ("sa",), "Whom pods act as."),
}
_BY_ALIAS = {alias: kind for kind, (_, aliases, _) in KINDS.items() for alias in (kind, *aliases)}


class Creators(click.Group):
    """The kinds' commands, imported when they are called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `kubectl_spelling`."""
        return super().parse_args(ctx, kubectl_spelling(self.get_params(ctx), args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All kinds."""
        return [*KINDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command that makes an object of that kind."""
        kind = _BY_ALIAS.get(name)
        if kind is None:
            return None
        module, _, attribute = KINDS[kind][0].partition(":")
        command: click.Command = getattr(import_module(f"controllers.cli.create.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; KIND/NAME is taken too, and one that cannot be made so is told what to do."""
        kind, slash, name = args[0].partition("/")
        if slash and kind in _BY_ALIAS and name:
            args = [kind, name, *args[1:]]
        if args[0] not in _BY_ALIAS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _BY_ALIAS, n=1)
            hint = f", did you mean {close[0]}?" if close else ": write a manifest and `create -f` it"
            raise click.UsageError(f'"{args[0]}" cannot be created by options{hint}', ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The kinds, without importing any of them, and the options."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(kind, help=text) for kind, (_, _, text) in KINDS.items() if kind.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing any of them."""
        with formatter.section("Kinds"):
            formatter.write_dl([(kind, text) for kind, (_, _, text) in KINDS.items()])


@click.group(
    cls=Creators,
    invoke_without_command=True,
    no_args_is_help=False,
    subcommand_metavar="[KIND NAME [ARGS]...]",
    epilog="Examples: `create -f web.yaml`, `create deployment web --image=nginx --dry-run=client -o yaml`, "
    "`create job now --from=cronjob/nightly`.",
)
@writing_options
@global_options
@click.pass_context
def create(ctx: click.Context, writing: Writing) -> int | None:
    """Create objects from manifests, or one of a kind by options; one that is there already is an error."""
    if ctx.invoked_subcommand is not None:
        if writing.files:
            raise click.UsageError("create either from manifests, or a KIND NAME by options")
        return None
    return _from_files(writing)


@with_session
async def _from_files(session: Session, writing: Writing) -> int:
    async def one(obj: Resource) -> tuple[Resource, str]:
        return obj if writing.dry_run else await session.objects.create(obj), "created"

    return await writing.each(session, one, "created")
