"""Kinds that the tests of this directory share."""

from __future__ import annotations

from informer.resources import Resource, Scheme

SCHEME = Scheme()


class Site(Resource, group="example.com", version="v1", scheme=SCHEME):
    class Spec:
        image: str = ""
        replicas: int = 1

    class Status:
        ready: int = 0


class Part(Resource, group="example.com", version="v1", scheme=SCHEME):
    class Spec:
        color: str = ""


class OtherSite(Resource, group="example.org", version="v1", kind="Site", scheme=SCHEME): ...


class Rack(Resource, group="example.com", version="v1", namespaced=False, scheme=SCHEME): ...
