"""CustomResourceDefinition: how a kind defined in one process becomes known to another, through the store."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from informer.codecs import Raw
from informer.errors import Invalid
from informer.names import label_problem, subdomain_problem
from informer.objects import Key, Model
from informer.resources import Resource, ResourceType
from informer.scale import Scale
from informer.schema import check_schema


class Names(Model):
    """What the kind is called."""

    kind: str
    plural: str
    singular: str = ""
    short_names: list[str]
    list_kind: str = ""


class Schema(Model):
    """The schema of one version."""

    open_api_v3_schema: Annotated[dict[str, Any], Key("openAPIV3Schema")]


class ScaleSubresource(Model):
    """Paths, with a dot in front, to where the kind has its number of replicas."""

    spec_replicas_path: str
    status_replicas_path: str
    label_selector_path: str = ""


class Subresources(Model):
    """With `status` the status is written apart from the rest, with `scale` the kind can be scaled."""

    status: dict[str, Any] | None
    scale: ScaleSubresource | None


class Version(Model):
    """One version of the kind. One of a definition's versions is the stored one."""

    name: str
    served: bool = True
    storage: bool = False
    schema: Schema
    subresources: Subresources


class Conversion(Model):
    """Who converts between the versions. None: nobody has to, they have the same fields. InProcess: the programs that
    have the kind's classes; Kubernetes does not know that, its word is Webhook."""

    strategy: Literal["None", "Webhook", "InProcess"] = "None"


class CustomResourceDefinitionSpec(Model):
    """A group's kind."""

    group: str
    names: Names
    scope: Literal["Namespaced", "Cluster"] = "Namespaced"
    versions: list[Version]
    conversion: Conversion


class CustomResourceDefinition(
    Resource,
    group="apiextensions.k8s.io",
    version="v1",
    namespaced=False,
    short_names=("crd", "crds"),
):
    """A kind of object, described as an object. Its name is `<plural>.<group>`."""

    spec: CustomResourceDefinitionSpec

    def default(self) -> None:
        """Singular and list kind follow from the kind."""
        names = self.raw["spec"]["names"]
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", f"{names['kind']}List")

    def validate(self) -> None:
        """The names have to be possible ones, and one version is stored."""
        spec = self.spec
        if problem := subdomain_problem(spec.group):
            raise Invalid("spec.group", problem)
        if problem := label_problem(spec.names.plural):
            raise Invalid("spec.names.plural", problem)
        expected = f"{spec.names.plural}.{spec.group}"
        if self.name != expected:
            raise Invalid("metadata.name", f'must be spec.names.plural+"."+spec.group: "{expected}"')
        if sum(version.storage for version in spec.versions) != 1:
            raise Invalid("spec.versions", "exactly one version has storage: true")
        for index, version in enumerate(spec.versions):
            path = (((((None, "spec"), "versions"), index), "schema"), "openAPIV3Schema")
            check_schema(version.raw.get("schema", {}).get("openAPIV3Schema", {}), path)  # one without is no mistake
            if version.subresources.scale is not None:
                _scale(version.subresources.scale)


def crd_for(cls: type[Resource]) -> CustomResourceDefinition:
    """The definition of a kind described by Python classes, in all its versions; schemas follow from annotations."""
    hub = cls.HUB or cls
    kind = hub.TYPE
    spec: Raw = {
        "group": kind.group,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "names": {
            "kind": kind.kind,
            "plural": kind.plural,
            "singular": kind.singular,
            "listKind": f"{kind.kind}List",
            "shortNames": list(kind.short_names),
        },
        "versions": [_version(each) for each in (hub, *hub.SPOKES)],
    }
    if any(each.convert_to is not Resource.convert_to for each in hub.SPOKES):
        spec["conversion"] = {"strategy": "InProcess"}
    return CustomResourceDefinition(name=kind.qualified, spec=spec)


def _version(cls: type[Resource]) -> Raw:
    kind = cls.TYPE
    version: Raw = {
        "name": kind.version,
        "served": True,
        "storage": cls.HUB is None,
        "schema": {"openAPIV3Schema": cls.schema()},
    }
    subresources: Raw = {"status": {}} if kind.status else {}
    if kind.scale is not None:
        where = {"specReplicasPath": kind.scale.spec, "statusReplicasPath": kind.scale.status}
        if kind.scale.selector:
            where["labelSelectorPath"] = kind.scale.selector
        subresources["scale"] = {word: f".{path}" for word, path in where.items()}
    if subresources:
        version["subresources"] = subresources
    return version


def resource_type_from_crd(crd: CustomResourceDefinition) -> ResourceType:
    """The type that a definition's stored version describes."""
    return _type(crd, _stored(crd))


def resource_from_crd(crd: CustomResourceDefinition) -> type[Resource]:
    """A class for the kind as it is stored, whose objects are checked against the definition's schema."""
    return _class(crd, _stored(crd))


def resources_from_crd(crd: CustomResourceDefinition) -> list[type[Resource]]:
    """Classes for the versions that are served, the stored one first; those that need code to be converted are not
    among them."""
    stored = _stored(crd)
    hub = _class(crd, stored)
    if crd.spec.conversion.strategy != "None":
        return [hub]
    others = [each for each in crd.spec.versions if each.served and each.name != stored.name]
    return [hub, *(_class(crd, each, hub) for each in others)]


def _class(crd: CustomResourceDefinition, version: Version, hub: type[Resource] | None = None) -> type[Resource]:
    return Resource.of(_type(crd, version), version.schema.open_api_v3_schema or None, hub=hub)


def _type(crd: CustomResourceDefinition, version: Version) -> ResourceType:
    spec = crd.spec
    scale = version.subresources.scale
    return ResourceType(
        spec.group,
        version.name,
        spec.names.kind,
        spec.names.plural,
        spec.scope == "Namespaced",
        tuple(spec.names.short_names),
        version.subresources.status is not None,
        None if scale is None else _scale(scale),
    )


def _scale(where: ScaleSubresource) -> Scale:
    paths = (where.spec_replicas_path, where.status_replicas_path, where.label_selector_path)
    try:
        return Scale(*(path.removeprefix(".") for path in paths))
    except ValueError as error:
        raise Invalid("spec.versions", f"scale: {error}") from None


def _stored(crd: CustomResourceDefinition) -> Version:
    for version in crd.spec.versions:
        if version.storage:
            return version
    raise Invalid("spec.versions", "exactly one version has storage: true")
