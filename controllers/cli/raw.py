"""Reading plain JSON that may be half there: what is missing shows as nothing, or as kubectl's `<none>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from controllers.cli.durations import age
from informer.selectors import Selector

if TYPE_CHECKING:
    from decimal import Decimal

Raw: TypeAlias = Mapping[str, Any]
NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"

_ACCESS_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def dig(raw: Any, *path: str) -> Any:
    """What is at this path, None where anything on the way is missing."""
    for part in path:
        if not isinstance(raw, Mapping):
            return None
        raw = raw.get(part)
    return raw


def items(raw: Any, *path: str) -> list[Any]:
    """The list of objects at this path, empty where there is none."""
    found = dig(raw, *path)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def texts(raw: Any, *path: str) -> list[str]:
    """The list of plain values at this path as texts, empty where there is none."""
    found = dig(raw, *path)
    return [str(each) for each in found if not isinstance(each, Mapping | list)] if isinstance(found, list) else []


def mapping(raw: Any, *path: str) -> Mapping[str, Any]:
    """The object at this path, an empty one where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, Mapping) else {}


def number(raw: Any, *path: str) -> int:
    """The number at this path, 0 where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, int) else 0


def text(raw: Any, *path: str, otherwise: str = "") -> str:
    """The value at this path as text; `otherwise` where there is none, or an empty one."""
    found = dig(raw, *path)
    return otherwise if found is None or found == "" else str(found)


def name_of(raw: Raw) -> str:
    """The object's name."""
    return text(raw, "metadata", "name")


def age_of(raw: Raw, now: datetime) -> str:
    """How old the object is."""
    return age(dig(raw, "metadata", "creationTimestamp"), now)


def condition(raw: Raw, kind: str) -> str | None:
    """The status of a condition."""
    return next((c.get("status") for c in items(raw, "status", "conditions") if c.get("type") == kind), None)


def controller_of(raw: Raw) -> Raw | None:
    """The reference to the owner that manages the object."""
    return next((each for each in items(raw, "metadata", "ownerReferences") if each.get("controller")), None)


def is_deleting(raw: Raw) -> bool:
    """Whether the object is on its way out."""
    return bool(dig(raw, "metadata", "deletionTimestamp"))


def labels_text(labels: Any) -> str:
    """`a=b,c=d`, or `<none>`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) if labels else NONE


def selector_text(selector: Any) -> str:
    """A label selector as a string."""
    if not selector:
        return NONE
    return str(Selector.of(selector))


def containers_of(raw: Raw, *path: str) -> tuple[str, str]:
    """Names and images of the containers of a pod template, or of those at another path."""
    found = items(raw, *(path or ("spec", "template", "spec", "containers")))
    return ",".join(str(c.get("name")) for c in found), ",".join(str(c.get("image")) for c in found)


def access_modes(modes: Sequence[str]) -> str:
    """`RWO,ROX`."""
    return ",".join(_ACCESS_MODES.get(mode, mode) for mode in modes)


def first_few(shown: Sequence[str], most: int) -> str:
    """The first few of a list, and how many more there are; `<none>` for an empty one."""
    if not shown:
        return NONE
    more = f" + {len(shown) - most} more..." if len(shown) > most else ""
    return ",".join(shown[:most]) + more


def amount(quantity: Any) -> Decimal:
    """A quantity of Kubernetes as a number; 0 for what is none."""
    from decimal import Decimal

    from controllers.core.quantities import scaled
    from informer.errors import Invalid

    try:
        return Decimal(scaled(quantity, 1000)) / 1000
    except Invalid:
        return Decimal(0)
