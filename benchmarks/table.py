"""How a benchmark shows what it measured: always next to a baseline of the same run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import structlog


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure. `ratio` is against `baseline`; `goal` is in words, `reached` says whether it was met."""

    name: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float | None = None
    goal: str = ""
    reached: bool | None = None


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table."""
    width = max(len(row.name) for row in rows)
    print(title)
    for row in rows:
        digits = 0 if row.value >= 100 else 2
        line = f"  {row.name:<{width}}  {row.value:>12,.{digits}f} {row.unit:<8}"
        if row.ratio is not None:
            line += f"  {row.ratio:.2f} of {row.baseline}"
        if row.goal:
            line += f"{'  ' if row.ratio is None else '; '}goal {row.goal}"
        if row.reached is not None:
            line += ": reached" if row.reached else ": not reached"
        print(line.rstrip())


def quiet() -> None:
    """Log only what is wrong, so that a table stays readable and printing is not what is measured."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
