"""The code of docs/reconcilers.md runs, and its test passes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from controllers import Manager

GUIDE = Path(__file__).parents[2] / "docs" / "reconcilers.md"


async def test_the_guide_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    # One module, as its reader would type it.
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile("\n".join(blocks), str(GUIDE), "exec"), names)

    await names["test_it_greets"](tmp_path / "a")

    blocking: Manager = names["blocking"]
    names["manager"] = blocking
    await names["test_it_greets"](tmp_path / "b")
    assert blocking.store == str(tmp_path / "b")

    storage: Manager = names["storage"]
    bucket = names["Bucket"](name="a", namespace="default")
    storage.store = str(tmp_path / "c")
    async with asyncio.timeout(20), storage:
        await storage.client.create(bucket)
        while names["buckets"] != {"default/a"}:
            await asyncio.sleep(0.01)
        deleted = await storage.client.delete(names["Bucket"], "a", "default")
        assert deleted.object is not None
        while (await storage.client.list(names["Bucket"])).items:
            await asyncio.sleep(0.01)
    assert names["buckets"] == set()

    pages: Manager = names["pages"]
    pages.store = str(tmp_path / "d")
    async with asyncio.timeout(20), pages:
        client, page = pages.client, names["Page"]
        await client.create(page(name="home", namespace="default", spec={"languages": ["de", "fr"]}))
        while (await client.get(page, "home", "default")).status.ready != 2:
            await asyncio.sleep(0.01)
        await client.patch(page, "home", {"spec": {"languages": ["fr"]}}, "default")
        while (await client.get(page, "home", "default")).status.ready != 1:
            await asyncio.sleep(0.01)
        assert [each.name for each in (await client.list(names["ConfigMap"])).items] == ["home-fr"]
