"""Several versions of a kind: one is stored, the hub; the others are spokes that convert to it and back.

    class Website(Resource, group="example.com", version="v1"):
        class Spec:
            size: int = 1

    class WebsiteV1Beta1(Resource, version="v1beta1", hub=Website):
        class Spec:
            replicas: int = 1

        def convert_to(self, hub: Website) -> None:
            hub.spec.size = self.spec.replicas

        def convert_from(self, hub: Website) -> None:
            self.spec.replicas = hub.spec.size

As in controller-runtime the conversions are written for neighbours only, each spoke and the hub, and see objects whose
metadata has been taken over. What they do not carry is not lost. Of an update in a spoke's version only the fields that
it changes are changed in the stored object. What a spoke has and the hub has no place for is kept in an annotation of
the hub, and comes back as long as nobody has changed what stands in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from informer import patch
from informer.codecs import Raw
from informer.errors import Invalid
from informer.transforms import TRANSFORMED

if TYPE_CHECKING:
    from informer.resources import Resource

# With the version: what an object of that version had that the stored one has no place for.
ANNOTATION = "conversion.listwatch/"

_HEADER = ("apiVersion", "kind", "metadata")
_decode = msgspec.json.Decoder().decode


def from_stored(cls: type[Resource], raw: Raw) -> Raw:
    """A stored object, in whatever version, as JSON of this class. Raises `Invalid` for a version nobody here knows."""
    version = raw.get("apiVersion")
    hub = cls.HUB or cls
    if version not in (cls.TYPE.api_version, hub.TYPE.api_version):
        spoke = next((each for each in hub.SPOKES if each.TYPE.api_version == version), None)
        if spoke is None:
            known = ", ".join(each.TYPE.version for each in (hub, *hub.SPOKES))
            raise Invalid("apiVersion", f"no class here converts the stored {version}; known are {known}")
        raw, version = to_hub(spoke, raw), hub.TYPE.api_version
    return raw if version == cls.TYPE.api_version else from_hub(cls, raw)


def to_hub(cls: type[Resource], raw: Raw) -> Raw:
    """JSON of the stored version from that of a spoke, with what it has no place for in an annotation."""
    hub = _convert_to(cls, raw)
    again = _convert_from(cls, hub)
    kept, beside = _lost(_body(raw), _body(again))
    metadata = hub["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(annotation_of(cls), None)
    if kept:
        note = {"kept": kept, "beside": beside}
        annotations[annotation_of(cls)] = patch.encode(note).decode()
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    return hub


def from_hub(cls: type[Resource], raw: Raw) -> Raw:
    """JSON of a spoke from that of the stored version, with what only the spoke knows put back."""
    result = _convert_from(cls, raw)
    if TRANSFORMED in raw:
        # Nobody can tell where the conversion has put what a cache's transform changed.
        result[TRANSFORMED] = sorted(result)
    annotations = result["metadata"].get("annotations") or {}
    note = annotations.pop(annotation_of(cls), None)
    if not annotations:
        result["metadata"].pop("annotations", None)
    if note is not None:
        try:
            noted = _decode(note)
            _put_back(result, noted["kept"], noted["beside"])
        except (msgspec.DecodeError, TypeError, KeyError, AttributeError) as error:
            raise Invalid(f"metadata.annotations[{annotation_of(cls)}]", f"is damaged: {error}") from None
    return result


def carried(cls: type[Resource], before: Raw, after: Raw, current: Raw) -> Raw:
    """The stored object `current`, which a spoke shows as `before`, with what was changed to make `after` of that."""
    hub: Raw = _carry(to_hub(cls, before), to_hub(cls, after), current)
    return hub


def _convert_to(cls: type[Resource], raw: Raw) -> Raw:
    assert cls.HUB is not None
    hub = cls.HUB._over(_headed(cls.HUB, raw))
    cls._over(patch.copy(raw)).convert_to(hub)
    return hub.raw


def _convert_from(cls: type[Resource], raw: Raw) -> Raw:
    assert cls.HUB is not None
    spoke = cls._over(_headed(cls, raw))
    spoke.convert_from(cls.HUB._over(patch.copy(raw)))
    return spoke.raw


def _headed(cls: type[Resource], raw: Raw) -> Raw:
    return {
        "apiVersion": cls.TYPE.api_version,
        "kind": cls.TYPE.kind,
        "metadata": patch.copy(raw.get("metadata") or {}),
    }


def _body(raw: Raw) -> Raw:
    return {key: value for key, value in raw.items() if key not in _HEADER}


def annotation_of(cls: type[Resource]) -> str:
    """The annotation of the stored object with what only this version has a place for."""
    return ANNOTATION + cls.TYPE.version


def _lost(before: Raw, after: Raw) -> tuple[Raw, Raw]:
    """What `before` had and `after` has not, and what `after` has in its place. What only `after` has is no loss."""
    kept: Raw = {}
    beside: Raw = {}
    for key, value in before.items():
        now = after.get(key)
        if isinstance(now, dict) and isinstance(value, dict):
            inner_kept, inner_beside = _lost(value, now)
            if inner_kept:
                kept[key], beside[key] = inner_kept, inner_beside
        elif not patch.equal(now, value):
            kept[key] = value
            if now is not None:
                beside[key] = now
    return kept, beside


def _put_back(target: Raw, kept: Raw, beside: Raw) -> None:
    """Put in what was kept, where the target still has what stood in its place."""
    for key, value in kept.items():
        now = target.get(key)
        if isinstance(now, dict) and isinstance(value, dict):
            _put_back(now, value, beside.get(key) or {})
        elif patch.equal(now, beside.get(key)):
            target[key] = value


def _carry(before: Any, after: Any, current: Any) -> Any:
    """`current` with the changes from `before` to `after`: maps by key, lists whose items have names by these, else as
    a whole."""
    if patch.equal(before, after):
        return current
    if isinstance(after, dict) and isinstance(current, dict):
        return _carry_map(before if isinstance(before, dict) else {}, after, current)
    if isinstance(after, list) and isinstance(current, list) and isinstance(before, list):
        olds, news, nows = patch.by_name(before), patch.by_name(after), patch.by_name(current)
        if olds is not None and news is not None and nows is not None:
            return list(_carry_map(olds, news, nows).values())
    return after


def _carry_map(before: Raw, after: Raw, current: Raw) -> Raw:
    """In the order of `current`, and what is new at the end."""
    result = {key: value for key, value in current.items() if key in after or key not in before}
    for key, value in after.items():
        carried = _carry(before.get(key), value, current.get(key))
        if carried is not None:
            result[key] = carried
    return result
