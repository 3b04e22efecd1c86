"""Owner references, by the rules of controller-runtime's SetControllerReference."""

from __future__ import annotations

import pytest

from controllers.errors import AlreadyOwned
from controllers.owners import controller_of, is_controlled_by, set_controller_reference
from informer import Invalid, OwnerReference, Resource, Scheme

SCHEME = Scheme()


class Parent(Resource, group="example.com", version="v1", scheme=SCHEME): ...


class Child(Resource, group="example.com", version="v1", scheme=SCHEME): ...


class Rack(Resource, group="example.com", version="v1", namespaced=False, scheme=SCHEME): ...


def parent(name: str = "p", uid: str = "u1", namespace: str = "default") -> Parent:
    return Parent(name=name, uid=uid, namespace=namespace)


def child(namespace: str = "default") -> Child:
    return Child(name="c", namespace=namespace)


def test_the_reference_has_what_garbage_collection_needs() -> None:
    obj = child()
    assert set_controller_reference(parent(), obj)
    assert obj.raw["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "example.com/v1",
            "kind": "Parent",
            "name": "p",
            "uid": "u1",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert is_controlled_by(obj, parent())
    owner = controller_of(obj)
    assert owner is not None
    assert owner.name == "p"


def test_setting_it_again_changes_nothing() -> None:
    obj = child()
    set_controller_reference(parent(), obj)
    assert not set_controller_reference(parent(), obj)
    assert len(obj.metadata.owner_references) == 1


def test_an_owner_made_anew_under_its_name_takes_over_the_reference() -> None:
    obj = child()
    set_controller_reference(parent(uid="u1"), obj)
    assert set_controller_reference(parent(uid="u2"), obj)
    assert [owner.uid for owner in obj.metadata.owner_references] == ["u2"]
    assert not is_controlled_by(obj, parent(uid="u1"))


def test_other_owners_stay() -> None:
    obj = child()
    other = OwnerReference(api_version="v1", kind="Node", name="n", uid="u9")
    obj.metadata.owner_references = [other]
    assert controller_of(obj) is None
    set_controller_reference(parent(), obj)
    assert [owner.name for owner in obj.metadata.owner_references] == ["n", "p"]


def test_a_plain_owner_is_made_the_controller() -> None:
    obj = child()
    obj.metadata.owner_references = [
        OwnerReference(api_version="example.com/v1beta1", kind="Parent", name="p", uid="u1")
    ]
    assert set_controller_reference(parent(), obj)
    assert [(owner.api_version, owner.controller) for owner in obj.metadata.owner_references] == [
        ("example.com/v1", True)
    ]


def test_a_second_controller_is_refused() -> None:
    obj = child()
    set_controller_reference(parent("first"), obj)
    with pytest.raises(
        AlreadyOwned, match=r"<Child default/c> is controlled by Parent first, not by <Parent default/second>"
    ):
        set_controller_reference(parent("second", uid="u2"), obj)
    assert [owner.name for owner in obj.metadata.owner_references] == ["first"]


def test_an_owner_in_another_namespace_is_refused() -> None:
    with pytest.raises(Invalid, match="another namespace"):
        set_controller_reference(parent(namespace="other"), child())


def test_a_namespaced_owner_of_a_cluster_scoped_object_is_refused() -> None:
    with pytest.raises(Invalid, match="has a namespace"):
        set_controller_reference(parent(), Rack(name="r"))


def test_a_cluster_scoped_owner_may_own_anything() -> None:
    rack = Rack(name="r", uid="u1")
    obj = child()
    assert set_controller_reference(rack, obj)
    assert set_controller_reference(rack, Rack(name="s"))
    assert is_controlled_by(obj, rack)


def test_an_owner_that_was_never_stored_is_refused() -> None:
    with pytest.raises(Invalid, match="no uid"):
        set_controller_reference(Parent(name="p", namespace="default"), child())
    assert not is_controlled_by(child(), Parent(name="p", namespace="default"))
