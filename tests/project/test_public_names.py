"""What each package promises by name exists, and nothing else is imported along with it than has to be."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["kvstore", "informer", "controllers"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import kvstore, informer, controllers", ["grpc", "google.protobuf", "click"]),
        ("from kvstore import Node, EmbeddedClient", ["grpc", "google.protobuf", "informer"]),
        ("from controllers import Manager", ["grpc", "google.protobuf", "click"]),
        ("from kvstore.client import RemoteClient", ["lmdb", "informer"]),
        ("import kvstore.server", ["informer", "controllers"]),
    ],
)
def test_nothing_is_paid_for_that_is_not_used(statement: str, unwanted: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([name for name in {unwanted!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "[]"
