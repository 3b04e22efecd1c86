"""The command's front: the list of commands, each imported when it is used, and what becomes of errors."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from controllers.cli.errors import CliError
from controllers.cli.options import COMPLETE_VARIABLE, Settings, global_options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

HELP = """\
Kubernetes-style controllers on a store of your own.

listwatch keeps objects in an etcd-compatible store, embedded or served, and runs the controllers that turn a
Deployment into running (simulated) Pods.

\b
Try first:
  listwatch demo                              see all of it at work, in 20 seconds
  listwatch run                               start the controllers; then, in a second terminal:
  listwatch apply -f examples/manifests       hand them Deployments, and `listwatch get all -w` to look on
"""

EPILOG = """\
`listwatch COMMAND --help` tells more of each. Without --store a command takes the store that LISTWATCH_STORE names,
else the server on 127.0.0.1:2379 if one answers, else a data directory of your own.
"""


class Entry(NamedTuple):
    """A command: where it is, and the line that the help shows."""

    home: str
    summary: str


COMMANDS: dict[str, dict[str, Entry]] = {
    "Run": {
        "demo": Entry("demo.command:demo", "Show a rollout, an undo and three faults, and check each step."),
        "run": Entry("run:run", "Run the built-in controllers and simulated nodes on a store."),
        "top": Entry("top:top", "Show what a manager and its store are doing, as it changes."),
        "serve": Entry("serve:serve", "Serve a data directory to etcd clients."),
        "snapshot": Entry("snapshot:snapshot", "Save, look at and restore a store; carry data to and from an etcd."),
    },
    "Objects": {
        "get": Entry("get:get", "Show objects, one or many, once or as they change."),
        "describe": Entry("describe:describe", "Show an object with all that belongs to it."),
        "apply": Entry("apply:apply", "Make objects agree with manifests."),
        "create": Entry("create.command:create", "Create objects from manifests, or of options."),
        "replace": Entry("replace:replace", "Put objects of manifests in the place of those there are."),
        "edit": Entry("edit:edit", "Change objects in an editor."),
        "patch": Entry("patch:patch", "Change fields of objects."),
        "label": Entry("label:label", "Set and remove labels."),
        "annotate": Entry("annotate:annotate", "Set and remove annotations."),
        "delete": Entry("delete:delete", "Delete objects by name, label or manifest."),
        "wait": Entry("wait:wait", "Wait for a condition of objects."),
        "diff": Entry("diff:diff", "Show what differs between two revisions of the store."),
        "history": Entry("history:history", "Show every stored revision of an object, and who changed what."),
        "tree": Entry("tree:tree", "Show the owners of an object and what it owns."),
        "explain": Entry("explain:explain", "Explain the fields of a kind."),
        "api-resources": Entry("api_resources:api_resources", "List the kinds of objects."),
        "completion": Entry("completion:completion", "Print what makes the shell complete commands and names."),
    },
    "Workloads": {
        "scale": Entry("scale:scale", "Set the number of replicas."),
        "autoscale": Entry("autoscale:autoscale", "Let an autoscaler choose the number of replicas."),
        "expose": Entry("expose:expose", "Make a Service of a workload, a Pod or a Service."),
        "set": Entry("set.command:set_", "Change images, environment or resources of containers."),
        "rollout": Entry("rollout.command:rollout", "Look at, undo, restart, pause and resume rollouts."),
    },
    "Nodes": {
        "cordon": Entry("cordon:cordon", "Let no more pods be put on nodes."),
        "uncordon": Entry("cordon:uncordon", "Let pods be put on nodes again."),
        "drain": Entry("drain:drain", "Take the pods off nodes, as their disruption budgets allow."),
        "taint": Entry("taint:taint", "Keep pods off nodes unless they tolerate it."),
    },
}
_ENTRIES = {name: entry for section in COMMANDS.values() for name, entry in section.items()}


class Commands(click.Group):
    """A group whose commands are imported when they are called: `listwatch serve` needs no controllers."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return [*_ENTRIES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        entry = _ENTRIES.get(name)
        if entry is None:
            return None
        module, _, attribute = entry.home.partition(":")
        command: click.Command = getattr(import_module(f"controllers.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with what was perhaps meant."""
        if args[0] not in _ENTRIES and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _ENTRIES, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise click.UsageError(f'unknown command "{args[0]}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, without importing any of them, and the options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.summary) for name, entry in _ENTRIES.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By groups."""
        width = max(map(len, _ENTRIES))
        for section, entries in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        click.echo(f"listwatch {metadata.version('listwatch')}")
        ctx.exit()


@click.group(
    cls=Commands,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="The version."
)
@global_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Show the help if no command is given."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """The `listwatch` command."""
    if COMPLETE_VARIABLE in os.environ:
        from controllers.cli.completion import complete

        sys.exit(complete(cli, os.environ[COMPLETE_VARIABLE]))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], settings: Settings | None = None) -> int:
    """Run a command; its exit code. Errors are lines on stderr: 2 for a wrong call, 1 for nearly everything else."""
    settings = settings or Settings()
    try:
        result: Any = cli.main(list(arguments), prog_name="listwatch", standalone_mode=False, obj=settings)
        if sys.stdout is not None:  # closed by whoever called: `>&-`
            sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "listwatch"
        return _say(settings, error, f"{error.format_message().rstrip('.')} (`{path} --help` tells more)", exit_code=2)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough of it. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except CliError as error:
        return _say(settings, error, *error.lines, exit_code=max(error.exit_code, settings.error_code))
    except OSError as error:
        return _say(settings, error, ": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except Exception as error:  # noqa: BLE001 - the last resort: one line instead of a traceback
        if _is_expected(error):
            return _say(settings, error, str(error))
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _say(settings, error, f"{what} (this is a bug in listwatch; --debug shows where)")
    return result if isinstance(result, int) else 0


def _say(settings: Settings, error: BaseException, *lines: str, exit_code: int | None = None) -> int:
    if settings.debug:
        traceback.print_exception(error)
    for line in lines:
        click.echo(f"error: {line}", err=True)
    return settings.error_code if exit_code is None else exit_code


def _is_expected(error: Exception) -> bool:
    """Whether it is an error whose text was written for the user: those of all the packages."""
    # What raised such an error has its module loaded; nothing is imported for a command that does not need it.
    families = (
        ("informer.errors", "ApiError"),
        ("controllers.errors", "ControllerError"),
        ("kvstore.errors", "KvError"),
        ("kvstore.errors", "DataDirError"),
        ("kvstore.server.config", "ListenError"),
    )
    known = (getattr(sys.modules.get(module), name, None) for module, name in families)
    return isinstance(error, tuple(family for family in known if family is not None))
