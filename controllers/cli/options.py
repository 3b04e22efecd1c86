"""Options that many commands share, and the settings that the global ones fill."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")

# What the shell sets when it asks how a line could go on, as click's scripts do.
COMPLETE_VARIABLE = "_LISTWATCH_COMPLETE"

STORE_HELP = "The store: etcd://HOST:PORT[,HOST:PORT] for servers, or a data directory to open."


@dataclass
class Settings:
    """What holds for the whole command.

    debug: a traceback goes before the line of an error. error_code: the exit code of an error.
    """

    store: str | None = None
    debug: bool = False
    error_code: int = 1


def _keep(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Settings), field, value)

    return callback


def global_options(function: F) -> F:
    """`--store` and `--debug`, which may stand before the command's name or after it."""
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_keep("debug"), help="Show where an error comes from."
    )
    store = click.option(
        "--store",
        metavar="STORE",
        expose_value=False,
        callback=_keep("store"),
        help=STORE_HELP,
        shell_complete=completing("directories"),
    )
    return store(debug(function))


def errors_exit_with(code: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a command whose exit code 1 says something else. It goes above `with_session`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> R:
            click.get_current_context().ensure_object(Settings).error_code = code
            return function(*args, **kwargs)

        return command

    return decorate


def namespace_option(function: F) -> F:
    """`-n`; None when it is not given."""
    return click.option(
        "-n",
        "--namespace",
        metavar="NS",
        help="The namespace.  [default: default]",
        shell_complete=completing("namespaces"),
    )(function)


def all_namespaces_option(function: F) -> F:
    """`-A`."""
    return click.option("-A", "--all-namespaces", is_flag=True, help="Those of every namespace.")(function)


def selector_option(function: F) -> F:
    """`-l`."""
    return click.option(
        "-l", "--selector", default="", metavar="SELECTOR", help="By labels: `app=web,tier in (front, back)`."
    )(function)


def file_options(function: F) -> F:
    """`-f` and `-R`."""
    files = click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        metavar="FILE|DIR|-",
        help="A manifest, a directory of them, or -.",
        shell_complete=completing("files"),
    )
    recursive = click.option("-R", "--recursive", is_flag=True, help="Directories with all that is below them.")
    return files(recursive(function))


def resource_arguments(function: F) -> F:
    """`KIND NAME...` or `KIND/NAME...`."""
    return click.argument(
        "resources", nargs=-1, metavar="KIND[/NAME] [NAME]...", shell_complete=completing("resources")
    )(function)


def completing(what: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """A function of `controllers.cli.completing`, imported when a shell asks."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from controllers.cli import completing

        found: list[Any] = getattr(completing, what)(ctx, incomplete)
        return found

    return complete


def kubectl_spelling(params: Iterable[click.Parameter], args: Sequence[str]) -> list[str]:
    """The arguments as click knows them: flags with `=true` and `=false`, and short options as `-o=yaml`."""
    flags: dict[str, str | None] = {}
    short: set[str] = set()
    for param in params:
        if isinstance(param, click.Option) and param.is_flag:
            yes, no = param.opts[-1], param.secondary_opts[-1] if param.secondary_opts else None
            flags |= {f"{yes}=true": yes, f"{yes}=false": no}
        elif isinstance(param, click.Option):
            short |= {name for name in param.opts if len(name) == 2}
    end = args.index("--") if "--" in args else len(args)
    spelt: list[str | None] = []
    for arg in args[:end]:
        if arg[:2] in short and arg[2:3] == "=":
            spelt += [arg[:2], arg[3:]]
        else:
            spelt.append(flags.get(arg, arg))
    return [*(arg for arg in spelt if arg is not None), *args[end:]]


class KubectlCommand(click.Command):
    """A command whose options can be spelt as kubectl's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `kubectl_spelling`."""
        return super().parse_args(ctx, kubectl_spelling(self.get_params(ctx), args))
