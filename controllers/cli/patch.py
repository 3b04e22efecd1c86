"""`listwatch patch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from controllers.cli.choosing import chosen
from controllers.cli.editing import TRIES
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    completing,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
)
from controllers.cli.session import Session, with_session
from controllers.cli.strategic import strategic_merge
from controllers.cli.targets import reference
from controllers.cli.telling import dry_run_option, output_option, tell
from controllers.cli.yaml_reader import MAX_BYTES, YamlError, read_yaml
from informer import patch as patches
from informer.errors import ApiError, Invalid
from informer.resources import Resource
from informer.retry import retry_on_conflict

Kind = Literal["strategic", "merge", "json"]
Subresource = Literal["status", "scale"]


@click.command(
    cls=KubectlCommand,
    epilog="""Examples: `patch deploy/web -p '{"spec":{"replicas":3}}'`, `patch svc web --type=json -p '[{"op":"remove",
"path":"/spec/selector"}]'`, `patch node node-1 --patch-file=patch.yaml`.""",
)
@resource_arguments
@click.option("-p", "--patch", "text", metavar="PATCH", help="The patch, in JSON or YAML.")
@click.option(
    "--patch-file",
    "patch_file",
    metavar="FILE",
    help="A file that has it; - is the standard input.",
    shell_complete=completing("files"),
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["strategic", "merge", "json"]),
    default="strategic",
    help="strategic: lists of objects merge too, of built-in kinds; merge: RFC 7386; json: RFC 6902.",
)
@click.option("--subresource", type=click.Choice(["status", "scale"]), help="Patch this part of the object.")
@file_options
@namespace_option
@dry_run_option
@output_option
@global_options
@with_session
async def patch(
    session: Session,
    resources: Sequence[str],
    text: str | None,
    patch_file: str | None,
    kind: Kind,
    subresource: Subresource | None,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    dry_run: bool,
    output: str | None,
) -> int:
    """Change fields of objects."""
    wanted = _read(text, patch_file, kind)
    found, problems = await chosen(session, resources, namespace, files=files, recursive=recursive)
    for obj in found:
        try:
            if kind == "strategic" and type(obj).SCHEMA is not None:
                raise CliError(
                    f"{reference(obj)} is of a custom kind: strategic patches are for built-in ones, use --type=merge"
                )
            stored = await _patch(session, obj, wanted, kind, subresource, dry_run=dry_run)
        except CliError as error:
            problems += error.lines
        except ApiError as error:
            problems.append(f"{reference(obj)}: {error}")
        else:
            same = stored.metadata.resource_version == obj.metadata.resource_version and (
                not dry_run or patches.equal(stored.raw, obj.raw)
            )
            tell(stored, "patched (no change)" if same else "patched", output=output, dry_run=dry_run)
    if problems:
        raise CliError(*problems)
    return 0


def _read(text: str | None, file: str | None, kind: Kind) -> Any:
    """The patch. Raises `UsageError`, `CliError`."""
    if (text is None) == (file is None):
        raise click.UsageError("must specify --patch or --patch-file containing the contents of the patch")
    source = "the patch"
    if file is not None:
        source = file if file != "-" else "stdin"
        text = _content(file, source)
    assert text is not None
    try:
        documents = list(read_yaml(text))
    except YamlError as error:
        raise CliError(f"unable to parse {source}: line {error.line}, column {error.column}: {error.problem}") from None
    if len(documents) != 1:
        raise CliError(f"unable to parse {source}: expected one document, got {len(documents)}")
    value, expected = documents[0].value, list if kind == "json" else dict
    if not isinstance(value, expected):
        what = "a list of operations" if kind == "json" else "an object"
        raise CliError(f"unable to parse {source}: a {kind} patch is {what}")
    return value


def _content(file: str, source: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CliError(f"{source}: larger than {MAX_BYTES >> 20} MiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise CliError(f'the path "{file}" does not exist') from None
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CliError(f"{source}: not UTF-8 text") from None


def changed(raw: Any, wanted: Any, kind: Kind) -> Any:
    """The object as the patch makes it. Raises `Invalid`."""
    if kind == "strategic":
        return strategic_merge(raw, wanted)
    return patches.merge(raw, wanted) if kind == "merge" else patches.json_patch(raw, wanted)


async def _patch(
    session: Session, obj: Resource, wanted: Any, kind: Kind, subresource: Subresource | None, *, dry_run: bool
) -> Resource:
    """The object as it is stored now. Raises `ApiError`, `CliError`."""
    if subresource == "scale":
        return await _patch_scale(session, obj, wanted, kind, dry_run=dry_run)
    cls = type(obj)
    if dry_run:
        made = cls.from_raw(patches.without_nulls(changed(obj.raw, wanted, kind)))
        made.check()
        return made
    if kind != "strategic":
        return await session.objects.patch(cls, obj.name, wanted, obj.namespace, kind=kind, subresource=subresource)

    async def once() -> Resource:
        current = await session.objects.get(cls, obj.name, obj.namespace)
        raw = strategic_merge(current.raw, wanted)
        if not isinstance(raw.get("metadata"), dict):
            raise Invalid("metadata", "required")
        made = cls.from_raw(patches.without_nulls(raw))
        if subresource == "status":
            return await session.objects.update_status(made)
        return await session.objects.update(made)

    return await retry_on_conflict(once, steps=TRIES)


async def _patch_scale(session: Session, obj: Resource, wanted: Any, kind: Kind, *, dry_run: bool) -> Resource:
    cls = type(obj)
    now = await session.objects.get_scale(cls, obj.name, obj.namespace)
    scale = changed({"spec": {"replicas": now.replicas}}, wanted, "merge" if kind == "strategic" else kind)
    replicas = (scale.get("spec") or {}).get("replicas") if isinstance(scale, dict) else None
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise Invalid("spec.replicas", f"expected int, got {replicas!r}")
    if dry_run or replicas == now.replicas:
        return obj
    await session.objects.update_scale(cls, obj.name, replicas, obj.namespace)
    return await session.objects.get(cls, obj.name, obj.namespace)
