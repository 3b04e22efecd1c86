"""Objects in a store, and a cache of them that follows the store: list-watch, reflector, shared informer."""

from informer.client import Applied, Deleted, ObjectClient, ObjectList
from informer.crd import CustomResourceDefinition, crd_for, resource_from_crd, resource_type_from_crd
from informer.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Invalid,
    NotFound,
    StoreFull,
    UnknownKind,
    Unreachable,
)
from informer.metadata import controller_reference
from informer.objects import Key, Model, schema_of
from informer.resources import SCHEME, ObjectMeta, OwnerReference, Resource, ResourceType, Scheme
from informer.schema import validate_schema
from informer.selectors import Selector

__all__ = [
    "SCHEME",
    "AlreadyExists",
    "ApiError",
    "Applied",
    "Conflict",
    "CustomResourceDefinition",
    "Deleted",
    "Expired",
    "Invalid",
    "Key",
    "Model",
    "NotFound",
    "ObjectClient",
    "ObjectList",
    "ObjectMeta",
    "OwnerReference",
    "Resource",
    "ResourceType",
    "Scheme",
    "Selector",
    "StoreFull",
    "UnknownKind",
    "Unreachable",
    "controller_reference",
    "crd_for",
    "resource_from_crd",
    "resource_type_from_crd",
    "schema_of",
    "validate_schema",
]
