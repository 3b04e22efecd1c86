"""`listwatch run --stages`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


def test_stages_that_cannot_be_used_are_refused_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text("apiVersion: kwok.x-k8s.io/v1alpha1\nkind: Phase\nmetadata: {name: slow}\nspec: {}\n")
    result = cli("run", "--stages", "chaos", "--stages", file)
    assert result.code == 1
    assert result.err == f"error: {file}: document 1 (slow): kind: Invalid enum value 'Phase'\n"
    assert not (tmp_path / "store").exists()
