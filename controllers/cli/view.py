"""Objects in the form that `get` was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

import click

from controllers.cli.columns import Columns
from controllers.cli.forms import TABLE, Form
from controllers.cli.json_writer import to_json, without_managed_fields
from controllers.cli.raw import NONE, labels_text, mapping
from controllers.cli.table import Table
from controllers.cli.targets import kind_reference, reference
from informer.codecs import Raw
from informer.resources import Resource


@dataclass(slots=True)
class View:
    """Prints objects.

    columns_of: a kind's columns. with_namespace, with_kind: in tables. label_columns: labels that have a column of
    their own.
    """

    columns_of: Callable[[type[Resource]], Columns]
    now: Callable[[], datetime]
    form: Form = TABLE
    with_namespace: bool = False
    with_kind: bool = False
    with_labels: bool = False
    label_columns: Sequence[str] = ()
    headers: bool = True
    with_managed_fields: bool = False
    _columns: dict[type[Resource], Columns] = field(default_factory=dict)
    _tables: dict[type[Resource] | None, Table] = field(default_factory=dict)

    def rows(self, found: Iterable[Resource]) -> None:
        """A table for each kind, or more rows of it; names alone, or documents, if that is the form."""
        match self.form.kind:
            case "name":
                for obj in found:
                    click.echo(reference(obj))
            case "yaml":
                from controllers.cli.yaml_writer import to_yaml

                for obj in found:
                    click.echo(f"---\n{to_yaml(self._raw(obj))}", nl=False)
            case "json":
                for obj in found:
                    click.echo(to_json(self._raw(obj)), nl=False)
            case "jsonpath":
                for obj in found:
                    self._template(self._raw(obj))
            case "custom-columns":
                table = self._tables.setdefault(
                    None, Table([name for name, _ in self.form.columns], headers=self.headers)
                )
                for line in table.lines([self.form.cells(obj.raw) for obj in found]):
                    click.echo(line)
            case _:
                for number, (cls, each) in enumerate(groupby(found, type)):
                    if number:
                        click.echo()
                    for line in self._table(cls).lines([self._row(obj) for obj in each]):
                        click.echo(line)

    def document(self, found: Sequence[Resource], *, single: bool) -> None:
        """One object as it is, or all of them as a List."""
        if single and not found:
            return
        listed = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}}
        whole = self._raw(found[0]) if single else {**listed, "items": [self._raw(obj) for obj in found]}
        if self.form.kind == "jsonpath":
            self._template(whole)
        elif self.form.kind == "json":
            click.echo(to_json(whole), nl=False)
        else:
            from controllers.cli.yaml_writer import to_yaml

            click.echo(to_yaml(whole), nl=False)

    def _template(self, raw: Raw) -> None:
        # As kubectl: no newline that the template does not have.
        assert self.form.template is not None
        click.echo(self.form.template.render(raw), nl=False)

    def _raw(self, obj: Resource) -> Raw:
        return obj.raw if self.with_managed_fields else without_managed_fields(obj.raw)

    def _table(self, cls: type[Resource]) -> Table:
        if cls not in self._tables:
            self._columns[cls] = self.columns_of(cls)
            names = self._columns[cls].header(wide=self.form.kind == "wide")
            if self.with_namespace and cls.TYPE.namespaced:
                names.insert(0, "NAMESPACE")
            names += [label.rpartition("/")[2].upper() for label in self.label_columns]
            if self.with_labels:
                names.append("LABELS")
            self._tables[cls] = Table(names, headers=self.headers)
        return self._tables[cls]

    def _row(self, obj: Resource) -> list[str]:
        cls = type(obj)
        columns, wide = self._columns[cls], self.form.kind == "wide"
        cells = columns.row(obj.raw, self.now(), wide=wide)
        header = columns.header(wide=wide)
        if self.with_kind and "NAME" in header:
            place = header.index("NAME")
            cells[place] = f"{kind_reference(cls)}/{cells[place]}"
        if self.with_namespace and cls.TYPE.namespaced:
            cells.insert(0, obj.namespace or "")
        labels = mapping(obj.raw, "metadata", "labels")
        cells += [str(labels.get(label, NONE)) for label in self.label_columns]
        if self.with_labels:
            cells.append(labels_text(labels))
        return cells
