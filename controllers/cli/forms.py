"""`-o` of `get`: the forms that objects can be shown in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controllers.cli.raw import NONE, Raw

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from controllers.cli.jsonpath import JsonPath, Template

PLAIN = ("wide", "yaml", "json", "name")
_COMMA = re.compile(r",(?=[^,:\[\]()]+:)")


@dataclass(frozen=True, slots=True)
class Form:
    """A form. `kind`: table, one of PLAIN, jsonpath, or custom-columns."""

    kind: str = "table"
    template: Template | None = None
    columns: Sequence[tuple[str, JsonPath]] = ()

    def cells(self, raw: Raw) -> list[str]:
        """A row of custom columns."""
        from controllers.cli.jsonpath import shown

        rows = ([shown(each) for each in path.find(raw)] for _, path in self.columns)
        return [",".join(found) or NONE for found in rows]


TABLE = Form()


class Output(click.ParamType[Form]):
    """An option's value as a form."""

    name = "form"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help shows."""
        return "FORM"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The forms."""
        from click.shell_completion import CompletionItem

        known = (*PLAIN, "jsonpath=", "custom-columns=")
        return [CompletionItem(each) for each in known if each.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Form:
        """The form."""
        if isinstance(value, Form):
            return value
        if value in PLAIN:
            return Form(value)
        kind, _, rest = value.partition("=")
        try:
            if kind.endswith("-file") and kind.removesuffix("-file") in ("jsonpath", "custom-columns"):
                kind, rest = kind.removesuffix("-file"), Path(rest).read_text(encoding="utf-8").rstrip("\n")
                if kind == "custom-columns":
                    rest = _of_file(rest)
            if kind == "jsonpath":
                from controllers.cli.jsonpath import Template

                if not rest:
                    self.fail("write jsonpath={.path}", param, ctx)
                return Form(kind, Template(rest))
            if kind == "custom-columns":
                return Form(kind, columns=_columns(rest))
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"cannot read the template: {error}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        known = ", ".join((*PLAIN, "jsonpath=PATH", "custom-columns=NAME:PATH"))
        raise click.BadParameter(f"{value!r} is none of {known}", ctx, param)


def _columns(text: str) -> Sequence[tuple[str, JsonPath]]:
    """`NAME:.metadata.name,IMAGE:.spec.containers[*].image`. Raises ValueError."""
    from controllers.cli.jsonpath import JsonPath

    found = []
    for part in _COMMA.split(text):
        name, colon, path = part.partition(":")
        if not colon or not name or not path:
            raise ValueError(f"expected custom-columns=HEADER:.path,..., got {part!r}")
        found.append((name, JsonPath(path)))
    return found


def _of_file(text: str) -> str:
    """A file of custom columns has the headers in its first line and the paths in its second."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise ValueError("a file of custom columns has a line of headers, and a line with a path for each")
    return ",".join(f"{name}:{path}" for name, path in zip(*lines, strict=True))
