"""Kubernetes' resource quantities as whole numbers: millicores of cpu, bytes of memory."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from informer.codecs import show
from informer.errors import Invalid

_SUFFIXES = {
    **{
        suffix: Decimal(1000) ** power
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)([a-zA-Z]{0,2})")


@lru_cache(maxsize=1024)
def scaled(quantity: int | float | str, scale: int = 1) -> int:
    """`quantity x scale`, rounded up as Kubernetes does; scale 1000 gives millicores. Raises Invalid.

    >>> scaled("250m", 1000), scaled("0.1", 1000), scaled(2, 1000)
    (250, 100, 2000)
    >>> scaled("64Mi"), scaled("1G"), scaled("1.5Ki"), scaled("1e3")
    (67108864, 1000000000, 1536, 1000)
    """
    match = _QUANTITY.fullmatch(str(quantity))
    factor = _SUFFIXES.get(match[2]) if match is not None else None
    if match is None or factor is None:
        raise Invalid("", f"not a quantity: {show(quantity)}")
    return int((Decimal(match[1]) * factor * scale).to_integral_value(ROUND_CEILING))
