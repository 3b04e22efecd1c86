"""The rules for names, label keys and label values, as Kubernetes has them. A check returns what is wrong, or None."""

from __future__ import annotations

import re
from functools import lru_cache

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

MAX_NAME = 253
MAX_LABEL = 63


@lru_cache(4096)
def subdomain_problem(name: str) -> str | None:
    """What keeps `name` from being an object's name (a DNS subdomain)."""
    if len(name) > MAX_NAME:
        return f"must have at most {MAX_NAME} characters"
    if not _SUBDOMAIN.fullmatch(name):
        return f'"{name}" must be lower case letters, digits, "-" and ".", and start and end with a letter or digit'
    return None


@lru_cache(1024)
def label_problem(name: str) -> str | None:
    """What keeps `name` from being a namespace (a DNS label)."""
    if len(name) > MAX_LABEL:
        return f"must have at most {MAX_LABEL} characters"
    if not _LABEL.fullmatch(name):
        return f'"{name}" must consist of lower case letters, digits and "-", and start and end with a letter or digit'
    return None


@lru_cache(4096)
def key_problem(key: str) -> str | None:
    """What keeps `key` from being the key of a label or annotation: `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (problem := subdomain_problem(prefix)):
        return f"prefix {problem}"
    if len(name) > MAX_LABEL:
        return f"name must have at most {MAX_LABEL} characters"
    if not _QUALIFIED.fullmatch(name):
        return f'"{name}" must consist of letters, digits, "-", "_" and ".", and start and end with a letter or digit'
    return None


@lru_cache(4096)
def value_problem(value: str) -> str | None:
    """What keeps `value` from being the value of a label; the empty one is allowed."""
    if len(value) > MAX_LABEL:
        return f"must have at most {MAX_LABEL} characters"
    if value and not _QUALIFIED.fullmatch(value):
        return f'"{value}" must consist of letters, digits, "-", "_" and ".", and start and end with a letter or digit'
    return None
