"""What the packages log has names that programs can look for, and values beside them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def logged(source: str) -> Iterator[tuple[int, ast.expr]]:
    """Line and event of every call of a logger, or of a function that hands the event on to one."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = ast.unparse(node.func)
        logger, _, level = called.rpartition(".")
        if called in ("log", "self._log") or (level in LEVELS and logger.rpartition(".")[2] in ("log", "_log")):
            yield node.lineno, node.args[0]


def test_every_event_is_words_joined_by_underscores() -> None:
    found, wrong = 0, list[str]()
    for package in ("kvstore", "informer", "controllers", "examples"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for line, event in logged(file.read_text()):
                found += 1
                fits = isinstance(event, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)*", str(event.value))
                # One that is handed on is looked at where it comes from.
                if not fits and ast.unparse(event) != "event":
                    wrong.append(f"{file.relative_to(ROOT)}:{line}: {ast.unparse(event)}")
    assert wrong == []
    assert found > 40
