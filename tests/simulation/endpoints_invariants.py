"""What must hold of Endpoints and slices while everything changes."""

from __future__ import annotations

from typing import Any

from controllers.core.types import Node, Pod, Service
from controllers.discovery.types import Endpoints, EndpointSlice
from tests.controllers.cluster import Revision
from tests.controllers.discovery.services import endpoints_listed, expected, slices_by_service, slices_listed
from tests.simulation.promptness import What

KINDS = (Node, Pod, Service, Endpoints, EndpointSlice)


def untrue_endpoints(revision: Revision) -> dict[What, Any]:
    """What is told wrongly, and what would be right; None if it must not be told."""
    services = {each["metadata"]["name"]: each for each in revision.of(Service)}
    endpoints = {each["metadata"]["name"]: each for each in revision.of(Endpoints)}
    slices = slices_by_service(revision)
    untrue: dict[What, Any] = {}
    for name in {*services, *endpoints, *slices}:
        truths = expected(revision, services[name]) if name in services else ({}, {})
        listed = (endpoints_listed(endpoints.get(name, {})), slices_listed(slices.get(name, [])))
        for kind, truth, told in zip(("Endpoints", "EndpointSlice"), truths, listed, strict=True):
            for key in truth.keys() | told.keys():
                if truth.get(key) != told.get(key):
                    untrue[kind, name, *key] = truth.get(key)
    return untrue
