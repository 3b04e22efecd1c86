"""`listwatch tree`: the owners of an object above it, what it owns below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import click
import msgspec

from controllers.cli.describers.parts import object_state
from controllers.cli.durations import age
from controllers.cli.errors import CliError
from controllers.cli.options import KubectlCommand, global_options, namespace_option, resource_arguments
from controllers.cli.past import object_key, objects_at, telling
from controllers.cli.raw import condition, dig, items, name_of
from controllers.cli.session import Session, with_session
from controllers.cli.table import table
from controllers.cli.targets import single_target
from controllers.core.types import Event
from informer.resources import Resource
from kvstore.api import Range

MOST_NODES = 10_000  # lines of a tree
DEEPEST = 100  # levels of it


class Owner(msgspec.Struct, frozen=True):
    """What an owner reference says."""

    uid: str
    kind: str
    name: str


class Node(msgspec.Struct, frozen=True):
    """What the tree tells of an object; all that is kept of it."""

    uid: str
    kind: str
    name: str
    namespace: str
    ready: str
    status: str
    created: str | None
    owners: list[Owner]

    @classmethod
    def of(cls, obj: Resource) -> Node:
        """Of an object at hand."""
        raw, kind = obj.raw, obj.TYPE.kind
        owners = [
            Owner(str(each.get("uid")), str(each.get("kind")), str(each.get("name")))
            for each in items(raw, "metadata", "ownerReferences")
        ]
        return cls(
            uid=str(dig(raw, "metadata", "uid")),
            kind=kind,
            name=name_of(raw),
            namespace=str(dig(raw, "metadata", "namespace") or ""),
            ready=_ready(raw),
            status=object_state(raw),
            created=dig(raw, "metadata", "creationTimestamp"),
            owners=owners,
        )


def _ready(raw: object) -> str:
    for kind in ("Ready", "Available"):
        if isinstance(raw, dict) and (found := condition(raw, kind)) is not None:
            return found
    return "-"


@click.command(cls=KubectlCommand, epilog="Examples: `tree deployment/web`, `tree pod/web-1 -n shop`.")
@resource_arguments
@namespace_option
@global_options
@with_session
async def tree(session: Session, resources: Sequence[str], namespace: str | None) -> int:
    """Show an object between its owners, above it, and what it owns, below it, with their states.

    All of it is read at one revision. Owners that are not there, and circles, are told.
    """
    kind, name = single_target(resources)
    cls = session.kinds.lookup(kind)
    key = object_key(cls, namespace, name)
    found = await session.client.range(Range(key))
    if not found.kvs:
        raise CliError(f'{cls.TYPE.qualified} "{name}" not found')
    obj = cls.decode(found.kvs[0].value, str(found.kvs[0].mod_revision))
    root = Node.of(obj)
    async with telling(session.client, found.header.revision):
        nodes = await _nodes(session, found.header.revision, obj)
    children: dict[str, list[Node]] = {}
    for node in nodes.values():
        for uid in dict.fromkeys(owner.uid for owner in node.owners):
            children.setdefault(uid, []).append(node)

    def owners(node: Node) -> list[Node]:
        return [nodes.get(owner.uid) or _absent(owner, node, nodes) for owner in node.owners]

    def owned(node: Node) -> list[Node]:
        return sorted(children.get(node.uid, []), key=lambda each: (each.kind, each.name))

    above = [(lead.translate(_UPWARDS), node, state) for lead, node, state in reversed(_lines(root, owners)[1:])]
    below = _lines(root, owned)
    now = session.now()
    cells = [
        (node.namespace, f"{lead}{node.kind}/{node.name}", node.ready, state, _age(node, now))
        for lead, node, state in (*above, *below)
    ]
    for line in table(("NAMESPACE", "NAME", "READY", "STATUS", "AGE"), cells):
        click.echo(line)
    if max(len(above), len(below)) >= MOST_NODES:
        click.echo(f"note: it is larger, these are {MOST_NODES} of its lines", err=True)
    return 0


async def _nodes(session: Session, revision: int, root: Resource) -> dict[str, Node]:
    """What can own the object or be owned by it, by uid, as of one revision."""
    # Owners are in the namespace of what they own, or in none; what an object without one owns can be anywhere.
    namespace = root.namespace if root.TYPE.namespaced else None
    nodes = {}
    for cls in session.kinds.all():
        if cls is Event:  # nothing owns one, and there are many
            continue
        async for obj in objects_at(session.client, cls, namespace, revision):
            nodes[str(obj.metadata.uid)] = Node.of(obj)
    return nodes


def _absent(owner: Owner, node: Node, nodes: dict[str, Node]) -> Node:
    same = any((each.kind, each.name) == (owner.kind, owner.name) for each in nodes.values())
    status = "absent: another object has its name" if same else "absent"
    return Node(owner.uid, owner.kind, owner.name, node.namespace, "-", status, None, [])


def _age(node: Node, now: datetime) -> str:
    return age(node.created, now) if node.created else ""


# ---- drawing --------------------------------------------------------------------------------------------------------

_UPWARDS = str.maketrans("└", "┌")


def _lines(root: Node, below: Callable[[Node], list[Node]]) -> list[tuple[str, Node, str]]:
    """The tree, depth first: what goes before a node, the node, and its state. What is met again is not gone into."""
    lines = [("", root, root.status)]
    entered = {root.uid}

    def walk(node: Node, indent: str, path: Sequence[str]) -> None:
        inner = below(node)
        for place, child in enumerate(inner):
            if len(lines) >= MOST_NODES:
                return
            last = place == len(inner) - 1
            note = ""
            if child.uid in path:
                note = "a circle"
            elif child.uid in entered and below(child):
                note = "goes on as above"
            elif len(path) >= DEEPEST:
                note = "too deep"
            lines.append((indent + ("└─" if last else "├─"), child, ", ".join(filter(None, (child.status, note)))))
            if not note:
                entered.add(child.uid)
                walk(child, indent + ("  " if last else "│ "), (*path, child.uid))

    walk(root, "", (root.uid,))
    return lines
