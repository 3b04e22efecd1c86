"""The code of docs/kvstore.md runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[2] / "docs" / "kvstore.md"


async def test_the_guide_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, str(GUIDE), "exec"), names)
    assert await names["fruit"](tmp_path) == [("PUT", b"green", 2), ("PUT", b"ripe", 3), ("PUT", b"eaten", 4)]
    assert await asyncio.to_thread(names["ripen"], tmp_path) == [b"green", b"ripe"]
