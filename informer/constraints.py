"""What an annotation says about a value besides its type: `Annotated[int, Meta(ge=0)]`, `Annotated[str, Immutable]`.

    class Spec:
        replicas: Annotated[int, Meta(ge=0, le=100, description="How many pods.")] = 1
        name: Annotated[str, Meta(pattern="^[a-z]+$", max_length=63)]
        hosts: Annotated[list[str], Meta(min_length=1)]
        zone: Annotated[str, Immutable]

`Meta` is msgspec's. Every constraint has its word in OpenAPI: a class is checked by the very rules that its definition
bears for others. A value is checked when it is put in and when the object is written, not when it is read, so that
what was stored under older rules can be read and mended.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Sequence
from typing import Any, cast

from msgspec import Meta

from informer.codecs import Codec, Path, Raw
from informer.schema import check_value

__all__ = ["Immutable", "Meta", "constrained", "too_short"]

_NUMBERS = frozenset([int, float])
_SIZES = {"str": "Length", "list": "Items", "dict": "Properties"}


class Immutable:
    """Marks a field that cannot be changed once it is set: `Annotated[str, Immutable]`.

    A field that is missing and has no default can be set once. It is checked by every update; items of a list have no
    identity by which an old and a new one could be compared, so it cannot stand inside of them.
    """


class _Constrained(Codec):
    """Mixed into a codec by `constrained`: what goes in has to obey the rules, what comes out need not."""

    _rules: Raw
    _words: Raw
    _inner: Codec

    def load(self, value: Any, path: Path) -> Any:
        return self._inner.load(value, path)

    def dump(self, value: Any, path: Path) -> Any:
        raw = super().dump(value, path)
        check_value(self._rules, raw, path)
        return raw

    def check(self, value: Any, path: Path) -> None:
        super().check(value, path)
        check_value(self._rules, value, path)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return super().schema(within) | self._words


def constrained(codec: Codec, metas: Sequence[Meta], where: str) -> Codec:
    """The codec with these constraints. Raises TypeError for one that says nothing about its values."""
    rules: Raw = {}
    words: Raw = {}
    for meta in metas:
        rules |= _rules(meta, codec, where)
        words |= {word: getattr(meta, word) for word in ("title", "description") if getattr(meta, word) is not None}
    if not rules and not words:
        return codec
    made = cast(_Constrained, copy.copy(codec))
    made.__class__ = _mixed(cast(Hashable, type(codec)))
    made._inner, made._rules, made._words = codec, rules, rules | words
    return made


def too_short(codec: Codec) -> bool:
    """Whether an empty list or dict breaks the codec's rules."""
    if not isinstance(codec, _Constrained):
        return False
    return any(codec._rules.get(word, 0) > 0 for word in ("minItems", "minProperties"))


@functools.cache
def _mixed(kind: Hashable) -> type[_Constrained]:
    codec = cast("type[Codec]", kind)
    return type(f"Constrained{codec.__name__.strip('_')}", (_Constrained, codec), {})


def _rules(meta: Meta, codec: Codec, where: str) -> Raw:
    """The constraints in the words of OpenAPI v3."""
    rules: Raw = {}
    for name, word in (("ge", "minimum"), ("gt", "minimum"), ("le", "maximum"), ("lt", "maximum")):
        if (bound := getattr(meta, name)) is not None:
            _applies(name, bool(codec.kinds & _NUMBERS), codec, where)
            rules[word] = bound
            if name in ("gt", "lt"):
                rules[f"exclusive{word.capitalize()}"] = True
    if meta.multiple_of is not None:
        _applies("multiple_of", bool(codec.kinds & _NUMBERS), codec, where)
        rules["multipleOf"] = meta.multiple_of
    for name in ("min_length", "max_length"):
        if (size := getattr(meta, name)) is not None:
            sized = [_SIZES[kind.__name__] for kind in codec.kinds if kind.__name__ in _SIZES]
            _applies(name, bool(sized), codec, where)
            rules |= {f"{name[:3]}{what}": size for what in sized}
    if meta.pattern is not None:
        _applies("pattern", str in codec.kinds, codec, where)
        rules["pattern"] = meta.pattern
    return rules


def _applies(name: str, fits: bool, codec: Codec, where: str) -> None:
    if not fits:
        raise TypeError(f"{where}: {name} says nothing about {codec.name}")
