"""`listwatch explain`: the fields of a kind, in kubectl's form, from its class or its definition in the store."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import msgspec

from controllers.cli.errors import CliError
from controllers.cli.json_writer import to_json
from controllers.cli.kinds import Kinds
from controllers.cli.options import KubectlCommand, Settings, completing, global_options
from controllers.cli.raw import dig
from controllers.cli.session import open_session, run_until_done
from informer.errors import UnknownKind
from informer.objects import Model, camel
from informer.resources import ObjectMeta, Resource

Raw = Mapping[str, Any]

WIDTH = 80  # kubectl's
DEEPEST = 30  # levels of --recursive

_COMMON = {
    "apiVersion": "Group and version of the schema that the object follows, such as apps/v1.",
    "kind": "What kind of object it is, in CamelCase.",
}
_METADATA = "Standard object metadata: name, namespace, labels, owners."
# What a schema says besides the type, and how that reads.
_RULES = {
    "default": "Default: {}.",
    "minimum": "At least {}.",
    "maximum": "At most {}.",
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "minItems": "At least {} items.",
    "maxItems": "At most {} items.",
    "pattern": "Matches {}.",
    "format": "Format: {}.",
}


class Field(msgspec.Struct, frozen=True):
    """A field, or a whole kind. `model`: the class of what it holds, where there is one."""

    schema: Raw
    description: str = ""
    model: type[Model] | None = None
    required: bool = False

    @property
    def type(self) -> str:
        """`string`, `[]Container`, `map[string]string`: as kubectl writes types."""
        return _type(self.schema, self.model)

    @property
    def enum(self) -> list[str]:
        """The values it can have, where these are few."""
        return [str(value) for value in _core(self.schema).get("enum") or ()]

    @property
    def rules(self) -> str:
        """What else the schema says of its value, and of each item if it is a list or a map."""
        core = _core(self.schema)
        return " ".join([*_rules(self.schema), *(f"Each: {rule}" for rule in _rules(core) if core is not self.schema)])

    def fields(self) -> dict[str, Field]:
        """What it has inside, also of the items of a list or map."""
        if self.model is not None:
            return _of_model(self.model)
        core = _core(self.schema)
        needed, document = core.get("required") or (), _description(core)
        return {
            name: Field(inner, _description(inner) or _mentions(document, name), None, name in needed)
            for name, inner in sorted((core.get("properties") or {}).items())
            if isinstance(inner, Mapping)
        }


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `explain deployment`, `explain pod.spec.containers`, `explain deploy.spec --recursive`.",
)
@click.argument("path", metavar="KIND[.FIELD]...", shell_complete=completing("paths"))
@click.option("--recursive", is_flag=True, help="Names and types of all fields below, without descriptions.")
@global_options
@click.pass_obj
def explain(settings: Settings, path: str, recursive: bool) -> int | None:
    """Explain the fields of a kind: built in, or defined in the store."""

    async def body() -> int:
        # What is built in needs no store.
        try:
            cls, fields = find(Kinds(), path)
        except UnknownKind:
            async with open_session(settings) as session:
                cls, fields = find(session.kinds, path)
        click.echo(_page(cls, fields, recursive=recursive), nl=False)
        return 0

    return run_until_done(body())


def find(kinds: Kinds, path: str) -> tuple[type[Resource], list[str]]:
    """The kind that a path begins with, and the fields after it. Raises `UnknownKind`."""
    words = path.strip(".").split(".")
    for length in range(len(words), 0, -1):  # `deployments.apps.spec`: the group may have dots too
        try:
            return kinds.lookup(".".join(words[:length])), words[length:]
        except UnknownKind:
            if length == 1:
                raise
    raise AssertionError("split gives at least one word")


def of_kind(cls: type[Resource]) -> Field:
    """The kind as a whole."""
    if cls.SCHEMA is not None:
        return Field(cls.SCHEMA, _description(cls.SCHEMA))
    return Field({"type": "object"}, _document(cls), cls)


def fields_of(cls: type[Resource], field: Field, *, top: bool) -> dict[str, Field]:
    """What a field has inside; of a whole kind, `top`, what all kinds have goes first."""
    found = field.fields()
    if not top:
        return found
    common = {name: Field({"type": "string"}, text) for name, text in _COMMON.items()}
    metadata = Field({"type": "object"}, _METADATA, ObjectMeta)
    # Every Resource has a spec and a status; a kind that does not describe them has none.
    implied = () if cls.SCHEMA is not None else (n for n in ("spec", "status") if _is_implied(cls, n))
    for name in (*common, "metadata", *implied):
        found.pop(name, None)
    return {**common, "metadata": metadata, **found}


def _is_implied(cls: type[Resource], name: str) -> bool:
    return cls._fields.get(name) is Resource._fields[name]


# ---- classes --------------------------------------------------------------------------------------------------------


def _of_model(model: type[Model]) -> dict[str, Field]:
    document = _document(model)
    found = {}
    for declared in model._fields.values():
        field = declared.resolved()
        inner: Any = field.codec
        while hasattr(inner, "item"):
            inner = inner.item
        held = getattr(inner, "model", None)
        schema = dict(field.codec.schema())
        if isinstance(field.default, int | float) or (isinstance(field.default, str) and field.default):
            schema.setdefault("default", field.default)
        text, of_class = str(schema.get("description") or ""), _document(held) if held is not None else ""
        if held is not None and text == inspect.cleandoc(held.__doc__ or ""):  # a text of the field's own goes first
            text = of_class
        found[field.key] = Field(schema, text or of_class or _mentions(document, field.key), held, field.required)
    return dict(sorted(found.items()))


def _document(model: type[Model]) -> str:
    """The class' docstring, with its fields by their names in JSON; an inherited one says nothing of the class."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    for attribute, field in model._fields.items():
        text = text.replace(f"`{attribute}`", f"`{field.key}`")
    return text


def _mentions(document: str, key: str) -> str:
    """The sentences of a class' docstring that are about one of its fields."""
    return " ".join(each for each in re.split(r"(?<=[.;])\s+", document) if f"`{key}`" in each)


# ---- schemas --------------------------------------------------------------------------------------------------------


def _description(schema: Raw) -> str:
    """What a schema says, with its fields by their names in JSON: it may be a Python class' docstring."""

    def renamed(found: re.Match[str]) -> str:
        return f"`{camel(found[1])}`" if camel(found[1]) in properties else found[0]

    properties = schema.get("properties") or {}
    return re.sub(r"`([a-z0-9_]+)`", renamed, str(schema.get("description") or ""))


def _rules(schema: Raw) -> list[str]:
    words = {
        **({"minimum": "More than {}."} if schema.get("exclusiveMinimum") is True else {}),
        **({"maximum": "Less than {}."} if schema.get("exclusiveMaximum") is True else {}),
    }
    told = [words.get(word, text).format(_plain(schema[word])) for word, text in _RULES.items() if word in schema]
    for each in schema.get("x-kubernetes-validations") or ():
        text = str(dig(each, "message") or dig(each, "rule"))
        told.append(f"{text[:1].upper()}{text[1:].rstrip('.')}.")
    return told


def _core(schema: Raw) -> Raw:
    """The schema of what a list or a map has in it."""
    while True:
        inner = schema.get("items") if schema.get("type") == "array" else schema.get("additionalProperties")
        if not isinstance(inner, Mapping):
            return schema
        schema = inner


def _type(schema: Raw, model: type[Model] | None) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "IntOrString"
    kind = schema.get("type")
    if kind == "array":
        return f"[]{_type(schema.get('items') or {}, model)}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map[string]{_type(schema['additionalProperties'], model)}"
    if kind in (None, "object"):
        return model.__name__ if model is not None else "Object"
    return str(kind)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else to_json(value).strip()


# ---- output ---------------------------------------------------------------------------------------------------------


def _page(cls: type[Resource], path: Iterable[str], *, recursive: bool) -> str:
    kind, field, walked = cls.TYPE, of_kind(cls), ""
    for name in path:
        inside = fields_of(cls, field, top=not walked)
        if name not in inside:
            close = difflib.get_close_matches(name, inside, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise CliError(f'field "{name}" does not exist in {kind.kind}{walked}{hint}')
        field, walked = inside[name], f"{walked}.{name}"
    lines = [*([f"GROUP:      {kind.group}"] if kind.group else ()), f"KIND:       {kind.kind}"]
    lines += [f"VERSION:    {kind.version}", ""]
    if walked:
        lines += [f"FIELD: {walked.rpartition('.')[2]} <{field.type}>{' -required-' if field.required else ''}", ""]
        if field.enum:
            lines += ["ENUM:", *(f"    {value}" for value in field.enum), ""]
    text = [*_wrapped(field.description, 4), *_wrapped(field.rules if walked else "", 4)]
    lines += ["DESCRIPTION:", *(text or ["    <empty>"]), ""]
    inside = fields_of(cls, field, top=not walked)
    if inside:
        lines.append("FIELDS:")
        lines += _names(inside, 1) if recursive else _descriptions(inside)
        lines.append("")
    return "\n".join(lines)


def _descriptions(fields: Mapping[str, Field]) -> Iterator[str]:
    for name, field in fields.items():
        yield f"  {name}\t<{field.type}>{' -required-' if field.required else ''}"
        if field.enum:
            yield f"  enum: {', '.join(field.enum)}"
        yield from _wrapped(field.description, 4) or ["    <no description>"]
        yield from _wrapped(field.rules, 4)
        yield ""


def _names(fields: Mapping[str, Field], level: int, within: tuple[object, ...] = ()) -> Iterator[str]:
    """All fields below; a class inside itself is not gone into again."""
    for name, field in fields.items():
        yield f"{'  ' * level}{name}\t<{field.type}>{' -required-' if field.required else ''}"
        if level < DEEPEST and (field.model is None or field.model not in within):
            yield from _names(field.fields(), level + 1, (*within, field.model))


def _wrapped(text: str, indent: int) -> list[str]:
    lead = " " * indent
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if any(line.startswith(" ") for line in paragraph.splitlines()):  # an example
            lines += [f"{lead}{line}" for line in paragraph.splitlines()]
        else:
            lines += textwrap.wrap(paragraph, WIDTH, initial_indent=lead, subsequent_indent=lead)
        lines.append("")
    return lines[:-1] if text else []
