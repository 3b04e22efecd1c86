"""`listwatch edit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import click

from controllers.cli.choosing import chosen
from controllers.cli.editor import Editor
from controllers.cli.errors import CliError
from controllers.cli.json_writer import to_json, without_managed_fields
from controllers.cli.options import (
    KubectlCommand,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.raw import dig
from controllers.cli.session import Session, with_session
from controllers.cli.targets import reference
from controllers.cli.yaml_reader import YamlError, read_yaml
from controllers.cli.yaml_writer import to_yaml
from informer import patch as patches
from informer.errors import ApiError, Conflict, Invalid
from informer.resources import Resource

_HELP = """\
# Please edit the object below. Lines that begin with '#' are passed over,
# and an empty file ends the edit. If an error occurs while saving, this file
# is opened again with what went wrong.
#
"""


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `edit deployment web`, `KUBE_EDITOR='code -w' listwatch edit svc/web`, `edit pod/x -o json`.",
)
@resource_arguments
@selector_option
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", help="What to edit it as.")
@click.option("--subresource", type=click.Choice(["status"]), help="Change this part of the object, and only that.")
@file_options
@namespace_option
@global_options
@with_session
async def edit(
    session: Session,
    resources: Sequence[str],
    selector: str,
    output: Literal["yaml", "json"],
    subresource: Literal["status"] | None,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
) -> int:
    """Change objects in an editor: what KUBE_EDITOR or EDITOR names, else vi."""
    found, problems = await chosen(session, resources, namespace, selector=selector, files=files, recursive=recursive)
    for obj in found:
        try:
            await _Edit(session, obj, output, subresource).run()
        except CliError as error:
            problems += error.lines
    if problems:
        raise CliError(*problems)
    return 0


class _Edit:
    """One object in an editor, again and again until it can be stored or the user gives up."""

    def __init__(
        self, session: Session, obj: Resource, output: Literal["yaml", "json"], subresource: Literal["status"] | None
    ) -> None:
        self._session = session
        self._obj = obj
        self._output = output
        self._subresource = subresource
        self._original: dict[str, Any] = without_managed_fields(obj.raw)

    async def run(self) -> None:
        """Raises `CliError`; what was typed is then in a file that the error names."""
        editor = Editor(f".{self._output}")
        shown = to_yaml(self._original) if self._output == "yaml" else to_json(self._original)
        problem: str | None = None
        while True:
            try:
                edited = await editor.edit(_commented(problem) + shown)
            except CliError as error:
                raise CliError(*error.lines, *self._kept(editor, problem)) from None
            body = _without_comments(edited)
            if not body.strip() or body.strip() == shown.strip():
                return self._cancelled(editor, problem)
            shown = body
            try:
                changed = self._parse(body)
                if patches.equal(changed, self._original):
                    return self._cancelled(editor, problem)
                await self._store(changed)
            except (Invalid, CliError) as error:
                problem = str(error)
                click.echo(f"error: {reference(self._obj)}: {problem}", err=True)
            except ApiError as error:
                raise CliError(f"{reference(self._obj)}: {error}", *self._kept(editor, str(error))) from None
            else:
                click.echo(f"{reference(self._obj)} edited")
                editor.forget()
                return None

    def _cancelled(self, editor: Editor, problem: str | None) -> None:
        if problem is None:
            editor.forget()
            click.echo("Edit cancelled, no changes made.")
            return
        raise CliError("Edit cancelled, no valid changes were saved.", *self._kept(editor, problem))

    def _kept(self, editor: Editor, problem: str | None) -> Sequence[str]:
        if problem is None:
            editor.forget()
            return ()
        return (f'A copy of your changes has been stored to "{editor.path}"',)

    def _parse(self, text: str) -> dict[str, Any]:
        """The object that the text describes. Raises `CliError`."""
        value: Any
        if self._output == "json":
            try:
                value = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                raise CliError(f"the edited file is no JSON: {error}") from None
        else:
            try:
                documents = list(read_yaml(text))
            except YamlError as error:
                raise CliError(f"line {error.line}, column {error.column}: {error.problem}") from None
            if len(documents) != 1:
                raise CliError(f"expected one object, got {len(documents)} documents")
            value = documents[0].value
        if not isinstance(value, dict):
            raise CliError("expected an object")
        for field in ("apiVersion", "kind"):
            if value.get(field) != self._original.get(field):
                raise CliError(f"{field} cannot be changed")
        for field in ("name", "namespace"):
            if dig(value, "metadata", field) != self._original["metadata"].get(field):
                raise CliError(f"metadata.{field} cannot be changed: it says which object this is")
        return value

    async def _store(self, edited: dict[str, Any]) -> None:
        """Write what the user changed, onto what the object has become. Raises `ApiError`, `Conflict`."""
        cls = type(self._obj)
        wanted = difference(self._original, edited)
        current = await self._session.objects.get(cls, self._obj.name, self._obj.namespace)
        now: dict[str, Any] = without_managed_fields(current.raw)
        if now["metadata"].get("uid") != self._original["metadata"].get("uid"):
            raise Conflict("it was deleted and made anew in the meantime")
        if both := collisions(self._original, now, wanted):
            raise Conflict(f"{both} was changed by others in the meantime, too")
        raw = patches.without_nulls(patches.merge(patches.copy(current.raw), wanted))
        raw["metadata"].setdefault("resourceVersion", current.metadata.resource_version)
        made = cls.from_raw(raw)
        if self._subresource == "status":
            await self._session.objects.update_status(made)
        else:
            await self._session.objects.update(made)


def difference(before: Any, after: Any) -> dict[str, Any]:
    """The JSON merge patch that makes the one map of the other."""
    made: dict[str, Any] = {key: None for key in before if key not in after or after[key] is None}
    for key, value in after.items():
        if value is None:
            continue
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if inner := difference(old, value):
                made[key] = inner
        elif key not in before or not patches.equal(old, value):
            made[key] = value
    return made


def collisions(before: Any, now: Any, wanted: dict[str, Any], path: str = "") -> str:
    """The path of a value that the patch replaces and that is no longer what it was; "" if there is none."""
    for key, value in wanted.items():
        where = f"{path}.{key}".lstrip(".")
        old = before.get(key) if isinstance(before, dict) else None
        new = now.get(key) if isinstance(now, dict) else None
        if isinstance(value, dict) and isinstance(old, dict) and isinstance(new, dict):
            if found := collisions(old, new, value, where):
                return found
        elif where != "metadata.resourceVersion" and not patches.equal(old, new) and not patches.equal(new, value):
            return where
    return ""


def _commented(problem: str | None) -> str:
    if problem is None:
        return _HELP
    told = "".join(f"# {line}\n" for line in problem.splitlines())
    return f"{_HELP}# It could not be saved:\n{told}#\n"


def _without_comments(text: str) -> str:
    """The text after the comments at its top, which JSON could not have."""
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[start:])
