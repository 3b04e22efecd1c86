"""Namespaces as kubectl's users know them: commands write as through kube-apiserver, whether controllers run or not."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli

CONFIG = "{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}}\n"
SPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n"


def test_nothing_is_applied_where_there_is_no_namespace(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG % ("web", "shop"))
    done = cli("apply", "-f", file)
    assert done.code == 1
    assert 'namespaces "shop" not found' in done.err


def test_a_manifest_may_bring_its_namespace_along(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f"{SPACE}---\n{CONFIG % ('web', 'shop')}")
    assert cli("apply", "-f", file).lines == ["namespace/shop created", "configmap/web created"]


def test_those_of_the_system_take_objects_from_the_start_and_cannot_be_deleted(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "system.yaml"
    names = ("default", "kube-system", "kube-public", "kube-node-lease")
    spaces = "".join(f"---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n" for name in names)
    file.write_text("---\n".join(CONFIG % ("web", name) for name in names) + spaces)
    assert cli("apply", "-f", file).lines == ["configmap/web created"] * 4 + [f"namespace/{n} created" for n in names]
    for name in names:
        done = cli("delete", "namespace", name)
        assert done.code == 1
        assert f'namespaces "{name}" is forbidden: this namespace may not be deleted' in done.err


def test_one_that_cannot_be_deleted_keeps_no_other(cli: Cli) -> None:
    for name in ("default", "shop"):
        cli("create", "ns", name)
    done = cli("delete", "namespace", "default", "nosuch", "shop", "--no-wait", "--ignore-not-found")
    assert done.out == 'namespace "shop" deleted\n'
    assert 'namespaces "default" is forbidden: this namespace may not be deleted' in done.err
    assert "nosuch" not in done.err
    assert done.code == 1


def test_one_that_is_being_deleted_takes_nothing_more(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f"{SPACE}---\n{CONFIG % ('web', 'shop')}")
    cli("apply", "-f", file)
    assert cli("delete", "ns", "shop", "--no-wait").out == 'namespace "shop" deleted\n'
    assert "Terminating" in cli("get", "ns", "shop").out
    file.write_text(CONFIG % ("more", "shop"))
    done = cli("apply", "-f", file)
    assert done.code == 1
    assert (
        'configmaps "more" is forbidden: unable to create new content in namespace shop because it is being terminated'
    ) in done.err
