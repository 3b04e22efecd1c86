"""Manifests into the store: what `apply`, `create -f` and `replace` have in common."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from controllers.cli.errors import CliError
from controllers.cli.manifests import Checked, check_manifests, read_manifests
from controllers.cli.options import file_options, namespace_option
from controllers.cli.session import Session
from controllers.cli.telling import dry_run_option, output_option, tell
from controllers.cli.unknown_fields import unknown_fields
from informer.errors import ApiError, Unreachable
from informer.resources import Resource


@dataclass(frozen=True, slots=True)
class Writing:
    """Which manifests, how closely they are looked at, and how they are told."""

    files: Sequence[str]
    recursive: bool
    namespace: str | None
    validate: str
    dry_run: bool
    output: str | None

    async def each(
        self, session: Session, write: Callable[[Resource], Awaitable[tuple[Resource, str]]], done: str
    ) -> int:
        """Read and check all of them, then write each; what the store refuses keeps none of the others back.

        write: the object as it is stored, and what became of it. Raises `CliError` with all that went wrong.
        """
        if not self.files:
            raise click.UsageError("name a manifest: -f FILE, -f DIR or -f -")
        try:
            manifests = read_manifests(self.files, recursive=self.recursive)
            checked = check_manifests(manifests, session.kinds, self.namespace)
            self._validate(checked)
        except CliError as error:
            raise CliError(*error.lines[:-1], f"{error.lines[-1]}; nothing was {done}") from None
        problems: list[str] = []
        for each in checked:
            try:
                obj, outcome = await write(each.object)
            except Unreachable as error:
                raise CliError(*problems, _lost(each, checked, error, done)) from error
            except ApiError as error:
                problems.append(f"{each.manifest}: {error}")
            else:
                tell(obj, outcome, output=self.output, dry_run=self.dry_run)
        if problems:
            raise CliError(*problems)
        return 0

    def _validate(self, checked: Sequence[Checked]) -> None:
        if self.validate == "ignore":
            return
        found = [(each.manifest, path) for each in checked for path in unknown_fields(each.manifest.raw)]
        if found and self.validate == "strict":
            raise CliError(*(f'{manifest}: unknown field "{path}"' for manifest, path in found))
        for manifest, path in found:
            click.echo(f'Warning: unknown field "{path}" in {manifest}', err=True)


def writing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-f`, `-R`, `-n`, `--validate`, `--dry-run` and `-o`, which the command gets as one `Writing`."""

    @functools.wraps(function)
    def command(
        *args: Any,
        files: Sequence[str],
        recursive: bool,
        namespace: str | None,
        validate: str,
        dry_run: bool,
        output: str | None,
        **kwargs: Any,
    ) -> Any:
        made = Writing(files, recursive, namespace, validate, dry_run, output)
        return function(*args, writing=made, **kwargs)

    return file_options(namespace_option(_validate_option(dry_run_option(output_option(command)))))


def _validate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--validate`, also in kubectl's older words true and false."""

    def convert(ctx: click.Context, _: click.Parameter, value: str) -> str:
        return {"true": "strict", "false": "ignore"}.get(value, value)

    return click.option(
        "--validate",
        type=click.Choice(["strict", "warn", "ignore", "true", "false"]),
        is_flag=False,
        flag_value="strict",
        default="warn",
        callback=convert,
        help="What becomes of fields that Kubernetes does not have: an error, a warning, or nothing.  [default: warn]",
    )(function)


def _lost(each: Checked, checked: Sequence[Checked], error: ApiError, done: str) -> str:
    left = len(checked) - checked.index(each) - 1
    return f"{each.manifest}: {error}; it may or may not have been {done}, the {left} after it were not"
