"""CustomResourceDefinition: how a kind defined in one process becomes known to another, through the store."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from informer.codecs import Raw
from informer.errors import Invalid
from informer.names import label_problem, subdomain_problem
from informer.objects import Key, Model
from informer.resources import Resource, ResourceType
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


class Subresources(Model):
    """With `status` the status is written apart from the rest."""

    status: dict[str, Any] | None


class Version(Model):
    """One version of the kind. One of a definition's versions is the stored one."""

    name: str
    served: bool = True
    storage: bool = False
    schema: Schema
    subresources: Subresources


class CustomResourceDefinitionSpec(Model):
    """A group's kind."""

    group: str
    names: Names
    scope: Literal["Namespaced", "Cluster"] = "Namespaced"
    versions: list[Version]


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


def crd_for(cls: type[Resource]) -> CustomResourceDefinition:
    """The definition of a kind described by a Python class; the schema follows from its annotations."""
    kind = cls.TYPE
    schema = cls.schema()
    version: Raw = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    if kind.status:
        version["subresources"] = {"status": {}}
    return CustomResourceDefinition(
        name=kind.qualified,
        spec={
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "plural": kind.plural,
                "singular": kind.singular,
                "listKind": f"{kind.kind}List",
                "shortNames": list(kind.short_names),
            },
            "versions": [version],
        },
    )


def resource_type_from_crd(crd: CustomResourceDefinition) -> ResourceType:
    """The type that a definition's stored version describes."""
    spec = crd.spec
    version = _stored(crd)
    return ResourceType(
        spec.group,
        version.name,
        spec.names.kind,
        spec.names.plural,
        spec.scope == "Namespaced",
        tuple(spec.names.short_names),
        version.subresources.status is not None,
    )


def resource_from_crd(crd: CustomResourceDefinition) -> type[Resource]:
    """A class for the kind, whose objects are checked against the definition's schema."""
    return Resource.of(resource_type_from_crd(crd), _stored(crd).schema.open_api_v3_schema or None)


def _stored(crd: CustomResourceDefinition) -> Version:
    for version in crd.spec.versions:
        if version.storage:
            return version
    raise Invalid("spec.versions", "exactly one version has storage: true")
