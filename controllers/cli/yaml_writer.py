"""YAML as `-o yaml` shows it: keys sorted, and every string quoted that would be read as something else."""

from __future__ import annotations

from typing import Any

import yaml

from controllers.cli.yaml_reader import resolve


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's with go-yaml's idea of what needs quotes; the same part twice is written twice, without an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.Dumper, text: str) -> yaml.Node:
    style = None
    if "\n" in text:
        style = "|"
    else:
        try:
            plain = resolve(text) is not text
        except ValueError:
            plain = True
        if plain:
            style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def to_yaml(value: Any) -> str:
    """One document, ending in a newline."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, width=2**31 - 1)
    return text
