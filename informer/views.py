"""Lists and dicts of converted items, reading and writing through to the JSON under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, overload

from informer.codecs import Codec, Path, Raw, View, render, show
from informer.errors import Invalid


class ListView(View, MutableSequence[Any]):
    """A list whose items are converted on the way out and checked on the way in; it reads through to the object."""

    __slots__ = ("_codec",)

    def __init__(self, raw: list[Any], codec: Codec, path: Path, pending: tuple[View, str] | None = None) -> None:
        self._raw: list[Any] = raw
        self._codec = codec
        self._path = path
        self._pending = pending

    def _own(self) -> list[Any]:
        if self._pending is not None:
            self._attach()
        return self._raw

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self._raw)))]
        value = self._raw[index]
        return self._codec.load(value, (self._path, index if index >= 0 else index + len(self._raw)))

    def __iter__(self) -> Iterator[Any]:
        load, path = self._codec.load, self._path
        return (load(value, (path, i)) for i, value in enumerate(self._raw))

    def __len__(self) -> int:
        return len(self._raw)

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            self._own()[index] = [self._codec.dump(item, (self._path, i)) for i, item in enumerate(value)]
        else:
            self._own()[index] = self._codec.dump(value, (self._path, index))

    def __delitem__(self, index: int | slice) -> None:
        kept = list(self._raw)
        del kept[index]
        self._own()[:] = kept

    def insert(self, index: int, value: Any) -> None:
        """As list.insert."""
        value = self._codec.dump(value, (self._path, len(self._raw)))
        self._own().insert(index, value)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """As list.sort; the key gets the converted items."""
        order = sorted(zip(self, self._raw, strict=True), key=lambda p: key(p[0]) if key else p[0], reverse=reverse)
        self._own()[:] = [raw for _, raw in order]

    def copy(self) -> list[Any]:
        """A plain list of the converted items."""
        return list(self)

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, list | ListView) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class DictView(View, MutableMapping[str, Any]):
    """A dict whose values are converted on the way out and checked on the way in; it reads through to the object."""

    __slots__ = ("_codec",)

    def __init__(self, raw: Raw, codec: Codec, path: Path, pending: tuple[View, str] | None = None) -> None:
        self._raw: Raw = raw
        self._codec = codec
        self._path = path
        self._pending = pending

    def _own(self) -> Raw:
        if self._pending is not None:
            self._attach()
        return self._raw

    def __getitem__(self, key: str) -> Any:
        return self._codec.load(self._raw[key], (self._path, key))

    def __contains__(self, key: object) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise Invalid(render(self._path), f"expected str keys, got {show(key)}")
        value = self._codec.dump(value, (self._path, key))
        self._own()[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self._raw:
            raise KeyError(key)
        del self._own()[key]

    def copy(self) -> Raw:
        """A plain dict of the converted values."""
        return dict(self)

    def __or__(self, other: Mapping[str, Any]) -> Raw:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> Raw:
        return {**other, **self}

    def __repr__(self) -> str:
        return repr(dict(self))
