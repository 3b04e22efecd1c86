"""Keys and values for ConfigMaps and Secrets: of literals, files, directories and env files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from controllers.cli.errors import CliError
from controllers.cli.options import completing

F = TypeVar("F", bound=Callable[..., Any])

MOST = 1 << 20  # bytes of one file: kube-apiserver takes no more in a ConfigMap
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def source_options(function: F) -> F:
    """`--from-literal`, `--from-file`, `--from-env-file`."""
    literal = click.option(
        "--from-literal", "literals", multiple=True, metavar="KEY=VALUE", help="A key and its value."
    )
    file = click.option(
        "--from-file",
        "files",
        multiple=True,
        metavar="[KEY=]FILE|DIR",
        help="A file under its name or KEY; of a directory each file.",
        shell_complete=completing("files"),
    )
    env = click.option(
        "--from-env-file", "env_files", multiple=True, metavar="FILE", help="A file with lines KEY=VALUE."
    )
    return literal(file(env(function)))


def read_sources(literals: Sequence[str], files: Sequence[str], env_files: Sequence[str]) -> dict[str, bytes]:
    """All of them. Raises `UsageError` for options that make no sense, `CliError` for files that cannot be read."""
    if env_files and (literals or files):
        raise click.UsageError("--from-env-file goes with neither --from-file nor --from-literal")
    found: dict[str, bytes] = {}
    for source, key, value in _all(literals, files, env_files):
        if not _KEY.fullmatch(key) or key in (".", ".."):
            raise CliError(f'{source}: "{key}" is no valid key: letters, digits, "-", "_" and "."')
        if key in found:
            raise CliError(f'{source}: cannot add key "{key}", another key by that name already exists')
        found[key] = value
    return found


def _all(literals: Sequence[str], files: Sequence[str], env_files: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    for literal in literals:
        key, equals, value = literal.partition("=")
        if not equals or not key:
            raise click.UsageError(f'--from-literal: "{literal}": expected KEY=VALUE')
        yield "--from-literal", key, value.encode()
    for source in files:
        named, equals, path = source.rpartition("=")
        if equals and not named:
            raise click.UsageError(f'--from-file: "{source}": expected KEY=FILE')
        place = Path(path)
        if place.is_dir():
            if named:
                raise click.UsageError(f'--from-file: "{source}": a directory has no key of its own')
            for file in sorted(each for each in place.iterdir() if each.is_file()):
                yield str(file), file.name, _read(file)
        else:
            yield path, named or place.name, _read(place)
    for path in env_files:
        for number, line in enumerate(_text(path).splitlines(), 1):
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                key, equals, value = stripped.partition("=")
                if not equals or not key:
                    raise CliError(f'{path}: line {number}: expected KEY=VALUE, got "{stripped}"')
                yield f"{path}: line {number}", key, value.encode()


def _text(path: str) -> str:
    try:
        return _read(Path(path)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CliError(f"{path}: not UTF-8 text") from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST + 1)
    except FileNotFoundError:
        raise CliError(f'the path "{file}" does not exist') from None
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > MOST:
        raise CliError(f"{file}: larger than {MOST >> 20} MiB")
    return data
