"""The kinds of docs/reconcilers.md do what is said of them there."""

from __future__ import annotations

import asyncio
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from informer import Forbidden, Invalid

GUIDE = Path(__file__).parents[2] / "docs" / "reconcilers.md"


@pytest.fixture
def guide(tmp_path: Path) -> dict[str, Any]:
    blocks = re.findall(r"^```python title=kinds\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    program = tmp_path / "kinds.py"
    program.write_text("\n".join(blocks))
    return runpy.run_path(str(program))


async def test_the_kinds_of_the_guide(guide: dict[str, Any], tmp_path: Path) -> None:
    manager, database, older = guide["databases"], guide["Database"], guide["DatabaseV1Beta1"]
    manager.store = str(tmp_path / "store")
    async with asyncio.timeout(20), manager:
        client = manager.client
        wrong = database(name="a")
        wrong.raw["spec"] = {"replicas": 12, "admins": ["me"]}
        with pytest.raises(Invalid) as told:
            await client.create(wrong)
        assert str(told.value) == "spec.replicas: expected at most 9, got 12; spec.zone: required"
        made = await client.create(
            database(name="a", labels={"env": "production"}, spec={"zone": "x", "admins": ["me", "you"], "size": "5Gi"})
        )
        assert made.metadata.labels == {"env": "production", "engine": "postgres", "team": "data"}
        with pytest.raises(Invalid, match=r"^spec.replicas: mysql has at most 3$"):
            await client.create(
                database(name="b", spec={"engine": "mysql", "replicas": 4, "zone": "x", "admins": ["m"]})
            )
        with pytest.raises(Invalid, match=r"^spec.engine: a database stays what it is$"):
            await client.patch(database, "a", {"spec": {"engine": "mysql"}})
        with pytest.raises(Invalid, match=r"^spec.zone: is immutable$"):
            await client.patch(database, "a", {"spec": {"zone": "y"}})
        with pytest.raises(Forbidden, match="keep_production"):
            await client.delete(database, "a")

        await client.patch(older, "a", {"spec": {"count": 2, "colour": "red"}})
        assert (await client.get(older, "a")).spec.colour == "red"
        assert (await client.update_scale(database, "a", 4)).replicas == 4
        found = await client.get(database, "a")
        assert (list(found.spec.admins), found.spec.size) == (["me", "you"], "5Gi")
        assert "conversion.listwatch/v1beta1" in found.metadata.annotations
        while (await client.get_scale(database, "a")).ready != 4:
            await asyncio.sleep(0.01)
        found = await client.get(database, "a")
        assert found.status.conditions[0].message == "4 copies"
        assert found.metadata.managed_fields[-1].manager == "database"
