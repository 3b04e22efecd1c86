"""Objects in a store, and a cache of them kept equal by list and watch, whose handlers are told of every change."""

from __future__ import annotations

from informer.cache import (
    DEFAULT_INDEXERS,
    Cache,
    CacheStatistics,
    Change,
    Indexer,
    InformerStopped,
    Metadata,
    OwnerRef,
    Stored,
    by_label,
    by_namespace,
    by_owner,
)
from informer.client import Applied, Deleted, ObjectClient, ObjectList, Propagation
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
from informer.listwatch import Batch, Bookmark, Item, ListPage, ListWatch, Removed, StoreListWatch, WatchEvent, is_newer
from informer.metadata import controller_reference
from informer.objects import Key, Model, schema_of
from informer.reflector import TRANSITIONS, Backoff, Reflector, ReflectorStatistics, State, Transition, state_diagram
from informer.resources import SCHEME, ObjectMeta, OwnerReference, Resource, ResourceType, Scheme
from informer.schema import validate_schema
from informer.selectors import Selector
from informer.shared import Handler, HandlerStatistics, InformerStatistics, Registration, SharedInformer

__all__ = [
    "DEFAULT_INDEXERS",
    "SCHEME",
    "TRANSITIONS",
    "AlreadyExists",
    "ApiError",
    "Applied",
    "Backoff",
    "Batch",
    "Bookmark",
    "Cache",
    "CacheStatistics",
    "Change",
    "Conflict",
    "CustomResourceDefinition",
    "Deleted",
    "Expired",
    "Handler",
    "HandlerStatistics",
    "Indexer",
    "InformerStatistics",
    "InformerStopped",
    "Invalid",
    "Item",
    "Key",
    "ListPage",
    "ListWatch",
    "Metadata",
    "Model",
    "NotFound",
    "ObjectClient",
    "ObjectList",
    "ObjectMeta",
    "OwnerRef",
    "OwnerReference",
    "Propagation",
    "Reflector",
    "ReflectorStatistics",
    "Registration",
    "Removed",
    "Resource",
    "ResourceType",
    "Scheme",
    "Selector",
    "SharedInformer",
    "State",
    "StoreFull",
    "StoreListWatch",
    "Stored",
    "Transition",
    "UnknownKind",
    "Unreachable",
    "WatchEvent",
    "by_label",
    "by_namespace",
    "by_owner",
    "controller_reference",
    "crd_for",
    "is_newer",
    "resource_from_crd",
    "resource_type_from_crd",
    "schema_of",
    "state_diagram",
    "validate_schema",
]
