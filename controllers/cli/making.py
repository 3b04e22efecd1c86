"""Making one object of a command's options: `create deployment`, `expose`, `autoscale` and the like."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from controllers.cli.options import namespace_option
from controllers.cli.session import Session
from controllers.cli.telling import dry_run_option, output_option, tell
from informer.client import DEFAULT_NAMESPACE
from informer.metadata import check_metadata
from informer.patch import copy
from informer.resources import Resource


@dataclass(frozen=True, slots=True)
class Making:
    """Where the object goes, and how it is told."""

    namespace: str | None
    dry_run: bool
    output: str | None

    async def make(self, session: Session, raw: dict[str, Any], done: str = "created") -> Resource:
        """Create the object, or in a dry run check it only, and tell of it. Raises `ApiError`."""
        cls = session.kinds.by_gvk(raw["apiVersion"], raw["kind"])
        metadata = raw.setdefault("metadata", {})
        # As kubectl: what is only shown names the namespace if the command does.
        within = self.namespace or (None if self.dry_run else metadata.get("namespace") or DEFAULT_NAMESPACE)
        metadata.pop("namespace", None)
        if cls.TYPE.namespaced and within is not None:
            metadata["namespace"] = within
        obj = cls.from_raw(raw)
        if self.dry_run:
            trial = cls.from_raw(copy(raw))
            if cls.TYPE.namespaced:
                trial.raw["metadata"].setdefault("namespace", DEFAULT_NAMESPACE)
            trial.check()
            trial.default()
            trial.validate()
            check_metadata(cls.TYPE, trial.raw["metadata"])
        else:
            obj = await session.objects.create(obj)
        tell(obj, done, output=self.output, dry_run=self.dry_run)
        return obj


def making_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-n`, `--dry-run` and `-o`, which the command gets as one `Making`."""

    @functools.wraps(function)
    def command(*args: Any, namespace: str | None, dry_run: bool, output: str | None, **kwargs: Any) -> Any:
        made = Making(
            namespace or _said_before("namespace"),
            dry_run or bool(_said_before("dry_run")),
            output or _said_before("output"),
        )
        return function(*args, making=made, **kwargs)

    return namespace_option(dry_run_option(output_option(command)))


def _said_before(option: str) -> Any:
    """What an option of a group is, as in `create -n shop --dry-run=client deployment web`; None if not given."""
    context = click.get_current_context().parent
    while context is not None:
        if value := context.params.get(option):
            return value
        context = context.parent
    return None
