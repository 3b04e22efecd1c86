"""Kinds of objects: `Resource`, what is common to all of them, and the scheme that finds a kind by its names."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Self, cast

import msgspec

from informer import patch
from informer.codecs import Raw, show
from informer.conversion import from_stored
from informer.errors import Invalid, UnknownKind
from informer.objects import Model, ModelMeta, check, check_change, has_immutable_fields, schema_of
from informer.scale import Scale
from informer.schema import check_transition, json_schema, validate_schema


class ResourceType(msgspec.Struct, frozen=True):
    """The names of a kind and where its objects live, which is the same for all its versions.

    status: the status is written apart from the rest. scale: where it has its number of replicas.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    status: bool = True
    scale: Scale | None = None

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """The kind in lower case."""
        return self.kind.lower()

    @property
    def qualified(self) -> str:
        """`deployments.apps`, or the bare plural in the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def prefix(self, namespace: str | None = None) -> bytes:
        """What the store keys of all its objects begin with, or of those in one namespace."""
        within = f"{namespace}/" if namespace and self.namespaced else ""
        return f"/registry/{self.group or 'core'}/{self.plural}/{within}".encode()

    def key(self, namespace: str | None, name: str) -> bytes:
        """The store key of one object."""
        within = f"{namespace}/" if self.namespaced else ""
        return f"/registry/{self.group or 'core'}/{self.plural}/{within}{name}".encode()

    def __str__(self) -> str:
        return self.qualified


class OwnerReference(Model):
    """Whom an object belongs to; with `controller`, by whom it is managed."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ManagedFieldsEntry(Model):
    """A writer of an object, and when it last changed it by that operation."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: datetime | None
    subresource: str | None


class ObjectMeta(Model):
    """What every object says about itself."""

    name: str = ""
    generate_name: str = ""
    namespace: str | None
    uid: str | None
    resource_version: str | None
    generation: int = 0
    creation_timestamp: datetime | None
    deletion_timestamp: datetime | None
    deletion_grace_period_seconds: int | None
    labels: dict[str, str]
    annotations: dict[str, str]
    finalizers: list[str]
    owner_references: list[OwnerReference]
    managed_fields: list[ManagedFieldsEntry]

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object."""
        if not self._raw.get("ownerReferences"):
            return None
        return next((owner for owner in self.owner_references if owner.controller), None)


class Scheme:
    """The kinds known by name. A later definition of a kind replaces an earlier one."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, str], type[Resource]] = {}

    def add(self, cls: type[Resource]) -> None:
        """Make a kind known."""
        self._by_kind[cls.TYPE.api_version, cls.TYPE.kind] = cls

    def by_gvk(self, api_version: str, kind: str) -> type[Resource]:
        """The class of a manifest's apiVersion and kind. Raises `UnknownKind`."""
        found = self._by_kind.get((api_version, kind))
        if found is None:
            raise UnknownKind(f'no kind "{kind}" in version "{api_version}" is known{self._hint(kind)}')
        return found

    def lookup(self, name: str) -> type[Resource]:
        """By plural, singular, kind or short name in any case, also with the group: `deployments.apps`.

        Where several groups have the name the kind that was added first wins. O(number of kinds).
        """
        wanted, _, group = name.lower().partition(".")
        for cls in self._by_kind.values():
            kind = cls.TYPE
            names = (kind.plural, kind.singular, *kind.short_names)
            groups = (kind.group, f"{kind.version}.{kind.group}", kind.version if not kind.group else None)
            if wanted in names and (not group or group in groups):
                return cls
        raise UnknownKind(f'no resource type "{name}" is known{self._hint(name)}')

    def kinds(self) -> list[type[Resource]]:
        """All of them in the version that is stored, by group and plural."""
        stored = [cls for cls in self._by_kind.values() if cls.HUB is None]
        return sorted(stored, key=lambda cls: (cls.TYPE.group, cls.TYPE.plural))

    def _hint(self, name: str) -> str:
        same = [t for t in (cls.TYPE for cls in self._by_kind.values()) if name.lower() in (t.singular, t.plural)]
        return f"; did you mean {same[0].api_version} {same[0].kind}?" if same else ""


# Where every class defined with a group and version goes, unless it names another scheme.
SCHEME = Scheme()

_decode = msgspec.json.Decoder().decode
_METADATA_FIELDS = frozenset(ObjectMeta._fields)


class Resource(Model):
    """A kind of object: subclass it with `group=` and `version=`, and describe `Spec` and `Status` in nested classes.

        class Website(Resource, group="example.com", version="v1"):
            class Spec:
                image: str
                replicas: int = 1

    `kind` is the class name and `plural` its English plural unless given. `status=False`: the kind has no separate
    status. `scale=Scale(...)`: it can be scaled. `scheme`: where the kind becomes known. `hub=Website`: another version
    of that kind, which shares its names and whose objects are stored as Websites; see `informer.conversion`.
    """

    TYPE: ClassVar[ResourceType]
    # The class of the version that is stored, in those of the others; and these, in that.
    HUB: ClassVar[type[Resource] | None] = None
    SPOKES: ClassVar[tuple[type[Resource], ...]] = ()
    # OpenAPI v3 schema that whole objects are checked against too: for kinds known only from a definition.
    SCHEMA: ClassVar[Raw | None] = None
    # Deployments: an annotation counts as a change of generation, and status writes carry annotations along.
    GENERATION_COUNTS_ANNOTATIONS: ClassVar[bool] = False
    STATUS_WRITES_ANNOTATIONS: ClassVar[bool] = False

    _implied = {"Spec": "spec", "Status": "status"}  # noqa: RUF012 - Model declares it a ClassVar

    metadata: ObjectMeta
    spec: Any
    status: Any

    def __init_subclass__(
        cls,
        group: str | None = None,
        version: str | None = None,
        kind: str | None = None,
        plural: str | None = None,
        namespaced: bool = True,
        short_names: tuple[str, ...] = (),
        status: bool = True,
        scale: Scale | None = None,
        scheme: Scheme | None = None,
        hub: type[Resource] | None = None,
    ) -> None:
        super().__init_subclass__()
        if hub is not None:
            if version is None or (group, kind, plural) != (None, None, None):
                raise TypeError(f"{cls.__qualname__}: another version of {hub.__qualname__} gives its version alone")
            cls._become_spoke(hub, version, scale)
            (SCHEME if scheme is None else scheme).add(cls)
            return
        if version is None:
            if group is not None or kind is not None or plural is not None:
                raise TypeError(f"{cls.__qualname__}: a kind needs a version")
            return
        kind = kind or cls.__name__
        cls.HUB, cls.SPOKES = None, ()
        cls.TYPE = ResourceType(
            group or "", version, kind, plural or _plural(kind), namespaced, short_names, status, scale
        )
        (SCHEME if scheme is None else scheme).add(cls)

    @classmethod
    def _become_spoke(cls, hub: type[Resource], version: str, scale: Scale | None = None) -> None:
        if hub.HUB is not None:
            raise TypeError(f"{cls.__qualname__}: {hub.__qualname__} is not the hub, it has one: {hub.HUB.__name__}")
        if version == hub.TYPE.version:
            raise TypeError(f"{cls.__qualname__}: {version} is the version of {hub.__qualname__} already")
        cls.TYPE = msgspec.structs.replace(hub.TYPE, version=version, scale=scale or hub.TYPE.scale)
        cls.HUB, cls.SPOKES = hub, ()
        hub.SPOKES = (*(each for each in hub.SPOKES if each.TYPE.version != version), cls)

    @staticmethod
    def of(
        resource_type: ResourceType, schema: Raw | None = None, *, hub: type[Resource] | None = None
    ) -> type[Resource]:
        """A class for a kind not described in Python: spec and status are plain JSON, checked by the schema if any.

        hub: the class of the version that is stored, if this is another one.
        """
        made = ModelMeta(resource_type.kind, (Resource,), {"__module__": __name__}, scope={})
        cls = cast("type[Resource]", made)
        cls.TYPE = resource_type
        cls.SCHEMA = schema
        if hub is not None:
            cls._become_spoke(hub, resource_type.version, resource_type.scale)
        return cls

    def __init__(self, **fields: Any) -> None:
        """A new object: attributes of the kind, and those of its metadata (`name=`, `namespace=`, `labels=`, ...)."""
        metadata = {name: fields.pop(name) for name in list(fields) if name in _METADATA_FIELDS}
        super().__init__(**fields)
        self._raw = {"apiVersion": self.TYPE.api_version, "kind": self.TYPE.kind, "metadata": {}, **self._raw}
        for name, value in metadata.items():
            setattr(self.metadata, name, value)

    @classmethod
    def from_raw(cls, raw: Raw) -> Self:
        """The object over this dict, which it takes over. Raises `Invalid` at the first field that does not fit."""
        if type(raw) is not dict:
            raise Invalid("", f"expected {cls.TYPE.kind}, got {show(raw)}")
        for field, expected in (("apiVersion", cls.TYPE.api_version), ("kind", cls.TYPE.kind)):
            if raw.setdefault(field, expected) != expected:
                raise Invalid(field, f"expected {expected}, got {show(raw[field])}")
        self = cls._over(raw)
        self.check()
        return self

    @classmethod
    def decode(cls, data: bytes, revision: str) -> Self:
        """An object of the caller's own, from stored bytes and their revision. Fields are checked when read.

        One that is stored in another version of the kind is converted; raises `Invalid` if no class here can do that.
        """
        raw = _decode(data)
        try:
            raw["metadata"]["resourceVersion"] = revision
        except (TypeError, KeyError):
            raise Invalid("metadata", f"expected ObjectMeta in the stored {cls.TYPE.kind}") from None
        if cls.HUB is not None or (cls.SPOKES and raw.get("apiVersion") != cls.TYPE.api_version):
            raw = from_stored(cls, raw)
        return cls._over(raw)

    def encode(self) -> bytes:
        """The bytes to store: canonical JSON without the resourceVersion, which is the key's mod_revision."""
        metadata = self._raw.get("metadata")
        if metadata and "resourceVersion" in metadata:
            metadata = {key: value for key, value in metadata.items() if key != "resourceVersion"}
            return patch.encode({**self._raw, "metadata": metadata})
        return patch.encode(self._raw)

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def namespace(self) -> str | None:
        """`metadata.namespace`."""
        return self.metadata.namespace

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for and waits for finalizers or a grace period."""
        return bool((self._raw.get("metadata") or {}).get("deletionTimestamp"))

    def check(self) -> None:
        """Raise `Invalid` at the first field that does not fit the kind's annotations or its schema."""
        check(type(self), self._raw)
        if self.SCHEMA is not None:
            validate_schema(self.SCHEMA, self._raw)

    def check_status(self) -> None:
        """As `check`, for the status alone."""
        status = self._raw.get("status")
        if status is not None:
            self._fields["status"].resolved().codec.check(status, (None, "status"))
            if self.SCHEMA is not None:
                validate_schema((self.SCHEMA.get("properties") or {}).get("status") or {}, status, (None, "status"))

    @classmethod
    def has_immutable_fields(cls) -> bool:
        """Whether `check_change` may find something."""
        return cls.SCHEMA is not None or has_immutable_fields(cls)

    def check_change(self, old: Self) -> None:
        """Raise `Invalid` if a field is not what it was in `old` although it is immutable."""
        check_change(type(self), old.raw, self._raw)
        if self.SCHEMA is not None:
            check_transition(self.SCHEMA, old.raw, self._raw)

    @classmethod
    def schema(cls) -> Raw:
        """The structural OpenAPI v3 schema of its objects, as its definition bears it; it belongs to the caller."""
        if cls.SCHEMA is not None:
            return cast(Raw, patch.copy(cls.SCHEMA))
        schema = schema_of(cls)
        schema["properties"] |= {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        }
        for part in ("spec", "status"):
            if schema["properties"].get(part) == {"x-kubernetes-preserve-unknown-fields": True}:
                schema["properties"][part]["type"] = "object"
        return schema

    @classmethod
    def json_schema(cls) -> Raw:
        """The same as JSON Schema 2020-12, for editors and validators that know nothing of Kubernetes."""
        schema = json_schema(cls.schema())
        for field, value in (("apiVersion", cls.TYPE.api_version), ("kind", cls.TYPE.kind)):
            schema.setdefault("properties", {})[field] = {"const": value}
        schema["required"] = ["apiVersion", "kind", *schema.get("required", ())]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.TYPE.kind, **schema}

    def convert_to(self, hub: Any) -> None:
        """Hook of a version that is not stored: fill in the one that is, whose metadata is there already.

        Unless overridden the fields are the same, as with Kubernetes' conversion strategy None.
        """
        _copy_body(self._raw, hub.raw)

    def convert_from(self, hub: Any) -> None:
        """Hook of a version that is not stored: fill in this object, whose metadata is there already, from the hub."""
        _copy_body(hub.raw, self._raw)

    def default(self) -> None:
        """Hook: fill in what the kind leaves to its API server. Called before every create and update.

        Every field that is there has the right type by then; it has to give the same when it runs again.
        """

    def validate(self) -> None:
        """Hook: raise `Invalid` for what annotations cannot say. Called after `default`."""

    def prepare_update(self, old: Self) -> None:
        """Hook: fill in what follows from the change. Called after `default`, before `validate`."""

    def validate_update(self, old: Self) -> None:
        """Hook: raise `Invalid` for a change that must not be, such as of an immutable field."""

    def deletion_grace(self, requested: int | None) -> int:
        """Hook: how many seconds the object stays after a deletion was asked for, at most `requested`."""
        return 0

    def mark_deleted(self) -> None:
        """Hook: what else is written into an object when its deletion is asked for the first time."""

    def held(self) -> bool:
        """Hook: whether something besides its finalizers and its grace keeps an object whose deletion was asked for."""
        return False

    def __repr__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"<{self.TYPE.kind} {where}{self.name or self.metadata.generate_name + '*'}>"


def _copy_body(source: Raw, target: Raw) -> None:
    target.update(
        {key: patch.copy(value) for key, value in source.items() if key not in ("apiVersion", "kind", "metadata")}
    )


def _plural(kind: str) -> str:
    word = kind.lower()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
