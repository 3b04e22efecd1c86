"""`Model`: a typed view of a plain JSON object.

A class with annotations becomes descriptors over a dict. Reading an attribute takes its field out of the dict and
checks it; writing checks and puts it in. What nobody modelled stays in the dict, so nothing is lost on a round trip.

    class Port(Model):
        container_port: int              # JSON: containerPort; required
        protocol: str = "TCP"            # read when the field is missing; not stored by that
        name: str | None                 # None when the field is missing; assigning None removes it

Annotations: str int float bool, datetime (RFC 3339), Any, Literal, Enum, unions of these (`int | str`), list[X],
dict[str, X], another Model, or an ordinary annotated class, which is turned into one. `Annotated` with `Key`, `Meta`
and `Immutable` says more about them (`informer.constraints`). A missing list, dict or Model reads as an empty one that
becomes part of the object with the first write into it. Assigning copies: what is in an object belongs to it alone.
Null in JSON counts as missing. A list or dict of scalars is handed out as it stands; what is put into that is checked
when the object is written.
"""

from __future__ import annotations

import builtins
import enum
import inspect
import sys
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from msgspec import Meta

from informer import patch
from informer.codecs import (
    ANYTHING,
    MISSING,
    SCALARS,
    TYPE_NAMES,
    Anything,
    Choice,
    Codec,
    Path,
    Raw,
    Scalar,
    Union,
    View,
    plain,
    render,
    show,
)
from informer.constraints import Immutable, constrained, too_short
from informer.errors import Invalid, Problems
from informer.schema import IMMUTABLE_RULE
from informer.views import DictView, ListView


class Key(str):
    """The JSON name of a field where it is not the camelCase of the attribute: `Annotated[str, Key("podIP")]`."""

    __slots__ = ()


def camel(name: str) -> str:
    """`api_version` -> `apiVersion`; a trailing underscore, as in `from_`, is dropped."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


# ---- containers and objects


class _Container(Codec):
    """A list or a dict. `plain`: its items need no conversion, so that the JSON container itself is handed out."""

    view: type[ListView] | type[DictView]
    kind: type[Any]

    def __init__(self, item: Codec) -> None:
        self.item = item
        self.kinds = frozenset([self.kind])
        self.plain = type(item) is Anything or (type(item) is Scalar and item.kind is not float)

    def empty(self, default: Any, path: Path, pending: tuple[Model, str]) -> View:
        raw: Any = self.kind() if default is MISSING else default
        return self.view(raw, self.item, path, pending)

    def load(self, value: Any, path: Path) -> Any:
        if type(value) is not self.kind:
            raise self.wrong(value, path)
        if self.plain:
            self.check(value, path)
            return value
        return self.view(value, self.item, path)


class _List(_Container):
    view = ListView
    kind = list

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"list[{self.item.name}]"

    def dump(self, value: Any, path: Path) -> list[Any]:
        if not isinstance(value, list | tuple | ListView):
            raise self.wrong(plain(value), path)
        dump = self.item.dump
        return [dump(item, (path, i)) for i, item in enumerate(value)]

    def check(self, value: Any, path: Path) -> None:
        if type(value) is not list:
            raise self.wrong(value, path)
        item = self.item
        if type(item) is Anything:
            return
        exact = item.kind if type(item) is Scalar else None
        problems = None
        for i, each in enumerate(value):
            if type(each) is not exact:
                try:
                    item.check(each, (path, i))
                except Invalid as error:
                    problems = problems or Problems()
                    problems.add(error)
        if problems is not None:
            problems.tell()

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return {"type": "array", "items": self.item.schema(within)}


class _Dict(_Container):
    view = DictView
    kind = dict

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"dict[str, {self.item.name}]"

    def dump(self, value: Any, path: Path) -> Raw:
        if not isinstance(value, Mapping):
            raise self.wrong(plain(value), path)
        for key in value:
            if type(key) is not str:
                raise Invalid(render(path), f"expected str keys, got {show(key)}")
        dump = self.item.dump
        return {key: dump(item, (path, key)) for key, item in value.items()}

    def check(self, value: Any, path: Path) -> None:
        if type(value) is not dict:
            raise self.wrong(value, path)
        item = self.item
        exact = item.kind if type(item) is Scalar else None
        problems = None
        for key, each in value.items():
            if type(key) is not str:
                raise Invalid(render(path), f"expected str keys, got {show(key)}")
            if type(each) is not exact:
                try:
                    item.check(each, (path, key))
                except Invalid as error:
                    problems = problems or Problems()
                    problems.add(error)
        if problems is not None:
            problems.tell()

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return {"type": "object", "additionalProperties": self.item.schema(within)}


class _Object(Codec):
    kinds = frozenset([dict])

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.name = model.__name__

    def empty(self, default: Any, path: Path, pending: tuple[Model, str]) -> View:
        view = self.model._over({} if default is MISSING else default, path)
        view._pending = pending
        return view

    def load(self, value: Any, path: Path) -> Model:
        if type(value) is not dict:
            raise self.wrong(value, path)
        return self.model._over(value, path)

    def dump(self, value: Any, path: Path) -> Raw:
        if isinstance(value, self.model):
            return cast(Raw, patch.copy(value._raw))
        if isinstance(value, Model):
            value = value._raw
        # Models may stand anywhere inside a plain dict.
        raw = cast(Raw, ANYTHING.dump(value, path)) if isinstance(value, Mapping) else value
        check(self.model, raw, path)
        return raw

    def check(self, value: Any, path: Path) -> None:
        check(self.model, value, path)

    def schema(self, within: tuple[Any, ...] = ()) -> Raw:
        return schema_of(self.model, within)


# ---- fields ---------------------------------------------------------------------------------------------------------


class Field:
    """The descriptor behind one attribute. `required`: a missing value is an error. `immutable`: it can be set once."""

    __slots__ = ("attribute", "codec", "default", "exact", "immutable", "key", "optional", "required")

    def __init__(self, attribute: str, key: str, codec: Codec, default: Any, *, optional: bool) -> None:
        self.attribute = attribute
        self.key = key
        self.codec = codec
        self.default = default
        self.immutable = False
        self.optional = optional
        self.required = default is MISSING and not optional and not isinstance(codec, _Container | _Object | Anything)
        # JSON of exactly this type needs no further check.
        self.exact = codec.kind if type(codec) is Scalar and codec.kind is not float else None

    def resolved(self) -> Field:
        """The field itself, once its annotation is known."""
        return self

    def __get__(self, obj: Model | None, owner: type | None = None) -> Any:
        if obj is None:
            return self
        value = obj._raw.get(self.key)
        if value is None:
            if self.default is not MISSING:
                return patch.copy(self.default)
            if self.required:
                raise Invalid(render((obj._path, self.key)), "required")
            return None
        if type(value) is self.exact:
            return value
        return self.codec.load(value, (obj._path, self.key))

    def __set__(self, obj: Model, value: Any) -> None:
        if value is None:
            if not self.optional and type(self.codec) is not Anything:
                raise self.codec.wrong(None, (obj._path, self.key))
            self.__delete__(obj)
            return
        value = self.codec.dump(value, (obj._path, self.key))
        if obj._pending is not None:
            obj._attach()
        obj._raw[self.key] = value

    def __delete__(self, obj: Model) -> None:
        if self.key in obj._raw:
            if obj._pending is not None:
                obj._attach()
            obj._raw.pop(self.key, None)


class _ViewField(Field):
    """A field of a model or container: every read gives the same view as long as the JSON under it is the same."""

    __slots__ = ()

    codec: _Container | _Object

    def __get__(self, obj: Model | None, owner: type | None = None) -> Any:
        if obj is None:
            return self
        key = self.key
        value = obj._raw.get(key)
        views = obj._views
        if views is None:
            views = obj._views = {}
        else:
            view = views.get(key)
            if view is not None and (view._raw is value or (value is None and view._pending is not None)):
                return view
        if value is None:
            if self.default is None or (self.optional and self.default is MISSING):
                return None
            made = self.codec.empty(patch.copy(self.default), (obj._path, key), (obj, key))
        else:
            made = self.codec.load(value, (obj._path, key))
            if made is value:
                return value
        views[key] = made
        return made


class _DeferredField(Field):
    """A field whose annotation names a class that is not there yet: looked up again at the first use."""

    __slots__ = ("_resolve", "_resolved")

    def __init__(self, attribute: str, key: str, resolve: Callable[[], Field]) -> None:
        super().__init__(attribute, key, ANYTHING, MISSING, optional=True)
        self._resolve = resolve
        self._resolved: Field | None = None

    def resolved(self) -> Field:
        if self._resolved is None:
            self._resolved = self._resolve()
        return self._resolved

    def __get__(self, obj: Model | None, owner: type | None = None) -> Any:
        return self if obj is None else self.resolved().__get__(obj, owner)

    def __set__(self, obj: Model, value: Any) -> None:
        self.resolved().__set__(obj, value)


# ---- whole objects --------------------------------------------------------------------------------------------------


def check(model: type[Model], raw: Any, path: Path = None) -> None:
    """Raise one `Invalid` that tells of every field of the JSON object that does not fit the model, of ten at most."""
    if type(raw) is not dict:
        raise Invalid(render(path), f"expected {model.__name__}, got {show(raw)}")
    plan: _Plan | None = model.__dict__.get("_plan")
    if plan is None:
        plan = _plan(model)
    problems = None
    for key, value in raw.items():
        known = plan.fields.get(key)
        if known is not None and type(value) is not known[0] and value is not None:
            try:
                known[1](value, (path, key))
            except Invalid as error:
                problems = problems or Problems()
                problems.add(error)
    for key, absent in plan.needed:
        if raw.get(key) is None:
            try:
                absent((path, key))
            except Invalid as error:
                problems = problems or Problems()
                problems.add(error)
    if problems is not None:
        problems.tell()


class _Plan:
    """What `check` does: by JSON name the type that needs no check and the check; then what may not be absent."""

    __slots__ = ("fields", "needed")

    def __init__(self) -> None:
        self.fields: dict[str, tuple[type | None, Callable[[Any, Path], None]]] = {}
        self.needed: list[tuple[str, Callable[[Path], None]]] = []


def _plan(model: type[Model]) -> _Plan:
    plan = _Plan()
    for field in (each.resolved() for each in model._fields.values()):
        if type(field.codec) is not Anything:
            plan.fields[field.key] = (field.exact, field.codec.check)
        if field.required:
            plan.needed.append((field.key, _absent))
        elif _needed(field, set()):
            plan.needed.append((field.key, _EmptyCheck(cast(_Object, field.codec).model)))
    type.__setattr__(model, "_plan", plan)
    return plan


def _absent(path: Path) -> None:
    raise Invalid(render(path), "required")


class _EmptyCheck:
    """A missing object counts as an empty one, so that the error names the field that is needed inside."""

    def __init__(self, model: type[Model]) -> None:
        self._model = model

    def __call__(self, path: Path) -> None:
        check(self._model, {}, path)


def _needed(field: Field, seen: set[type]) -> bool:
    """Whether the field is an object that cannot be empty."""
    if field.optional or field.default is not MISSING or not isinstance(field.codec, _Object):
        return False
    model = field.codec.model
    if model in seen:
        return False
    seen.add(model)
    return any(each.required or _needed(each, seen) for each in (f.resolved() for f in model._fields.values()))


def schema_of(model: type[Model], within: tuple[Any, ...] = ()) -> Raw:
    """The structural OpenAPI v3 schema of a model. A model inside itself is left open: `within` are those around it."""
    if model in within:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    within = (*within, model)
    properties, required = {}, []
    for field in (each.resolved() for each in model._fields.values()):
        properties[field.key] = field.codec.schema(within)
        if field.immutable:
            properties[field.key]["x-kubernetes-validations"] = [{"rule": IMMUTABLE_RULE, "message": "is immutable"}]
        if field.default is not MISSING and field.default is not None:
            properties[field.key]["default"] = ANYTHING.dump(field.default, None)
        if field.required or _needed(field, set()):
            required.append(field.key)
    schema: Raw = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    if model.__doc__:
        schema["description"] = inspect.cleandoc(model.__doc__)
    return schema


def check_change(model: type[Model], old: Raw, new: Raw, path: Path = None) -> None:
    """Raise `Invalid` if a field that is immutable was set in `old` and is another one in `new`."""
    if not has_immutable_fields(model):
        return
    problems = Problems()
    for key, field, inside in model.__dict__["_changes"]:
        default = None if field.default is MISSING else field.default
        before, after = (raw.get(key) if raw.get(key) is not None else default for raw in (old, new))
        if before is None:
            continue
        where = (path, key)
        with problems:
            if inside is None:
                if not patch.equal(ANYTHING.dump(before, where), ANYTHING.dump(after, where)):
                    raise Invalid(render(where), "is immutable")
            elif isinstance(field.codec, _Dict):
                for name, each in (after or {}).items():
                    check_change(inside, before.get(name) or {}, each, (where, name))
            else:
                check_change(inside, before, after or {}, where)
    problems.tell()


def has_immutable_fields(model: type[Model]) -> bool:
    """Whether there is one in it, at any depth."""
    plan = model.__dict__.get("_changes")
    return bool(_changes(model) if plan is None else plan)


def _changes(model: type[Model], within: tuple[type[Model], ...] = ()) -> list[tuple[str, Field, type[Model] | None]]:
    """What `check_change` looks at: fields that are immutable, and those inside of which there are some."""
    plan: list[tuple[str, Field, type[Model] | None]] = []
    within = (*within, model)
    for field in (each.resolved() for each in model._fields.values()):
        codec = field.codec
        item = codec.item if isinstance(codec, _Container) else codec
        inside = item.model if isinstance(item, _Object) else None
        if field.immutable:
            plan.append((field.key, field, None))
        elif inside is not None and inside not in within and _changes(inside, within):
            if isinstance(codec, _List):
                raise TypeError(f"{model.__qualname__}.{field.attribute}: items of a list can have no Immutable field")
            plan.append((field.key, field, inside))
    if len(within) == 1:
        type.__setattr__(model, "_changes", plan)
    return plan


# ---- compiling annotations ------------------------------------------------------------------------------------------


def _compile(cls: ModelMeta, scope: dict[str, Any]) -> None:
    fields: dict[str, Field] = {}
    for base in reversed(cls.__bases__):
        fields |= getattr(base, "_fields", {})
    own = vars(cls)
    implied: dict[str, str] = getattr(cls, "_implied", {})
    annotations: dict[str, Any] = dict(inspect.get_annotations(cls))
    for nested, attribute in implied.items():
        if nested in own and attribute not in annotations:
            annotations[attribute] = own[nested]
    names = {**scope, **{k: v for k, v in own.items() if isinstance(v, type)}, cls.__name__: cls}
    resolver = _Resolver(cls, names)
    for nested, value in list(own.items()):
        if nested in implied or (value in annotations.values() if isinstance(value, type) else False):
            if not isinstance(value, type):
                raise TypeError(f"{cls.__qualname__}.{nested}: expected a class")
            type.__setattr__(cls, nested, resolver.model(value, allow_empty=True))
    keys = {field.key: name for name, field in fields.items() if name not in annotations}
    for attribute, annotation in annotations.items():
        if attribute.startswith("_") or resolver.is_class_variable(annotation):
            continue
        inherited = next((vars(base)[attribute] for base in cls.__mro__[1:] if attribute in vars(base)), None)
        if inherited is not None and not isinstance(inherited, Field):
            raise TypeError(f"{cls.__qualname__}.{attribute}: the name is reserved")
        default = own.get(attribute, MISSING)
        field = resolver.field(attribute, annotation, default)
        if keys.setdefault(field.key, attribute) != attribute:
            raise TypeError(
                f"{cls.__qualname__}.{attribute}: {keys[field.key]} has the JSON name {field.key!r} already"
            )
        fields[attribute] = field
        type.__setattr__(cls, attribute, field)
    type.__setattr__(cls, "_fields", fields)


class _Resolver:
    """Turns the annotations of one class into codecs."""

    def __init__(self, cls: type, names: dict[str, Any]) -> None:
        self._cls = cls
        self._names = names
        self._globals = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}

    def is_class_variable(self, annotation: Any) -> bool:
        if isinstance(annotation, str):
            return annotation.startswith(("ClassVar", "typing.ClassVar"))
        return annotation is ClassVar or typing.get_origin(annotation) is ClassVar

    def field(self, attribute: str, annotation: Any, default: Any) -> Field:
        key = camel(attribute)
        try:
            annotation = self._evaluate(annotation)
        except NameError:
            # The JSON name must be known at once; only Annotated could change it, and that is written out in the text.
            if isinstance(annotation, str) and "Annotated" in annotation and "Key(" in annotation:
                key = annotation.split("Key(", 1)[1].split(")", 1)[0].strip("'\" ")
            return _DeferredField(attribute, key, lambda: self._late(attribute, annotation, default))
        return self._field(attribute, key, annotation, default)

    def _late(self, attribute: str, annotation: Any, default: Any) -> Field:
        try:
            return self._field(attribute, camel(attribute), self._evaluate(annotation), default)
        except NameError as error:
            raise TypeError(f"{self._cls.__qualname__}.{attribute}: {error}") from None

    def _field(self, attribute: str, key: str, annotation: Any, default: Any) -> Field:
        extra: list[Any] = []
        if typing.get_origin(annotation) is Annotated:
            annotation, *extra = typing.get_args(annotation)
            key = next((str(each) for each in extra if isinstance(each, Key)), key)
        where = f"{self._cls.__qualname__}.{attribute}"
        choices = [self._evaluate(each) for each in _alternatives(annotation)]
        optional = type(None) in choices or None in choices
        codecs = [self._codec(each, where) for each in choices if each is not type(None) and each is not None]
        if not codecs:
            raise TypeError(f"{where}: an annotation of None alone holds nothing")
        if sum(isinstance(codec, _Object) for codec in codecs) > 1:
            raise TypeError(f"{where}: a union can have one object type only, JSON does not tell two apart")
        codec = codecs[0] if len(codecs) == 1 else Union(codecs)
        codec = constrained(codec, [each for each in extra if isinstance(each, Meta)], where)
        if default is not MISSING and (default is not None or not optional):
            try:
                default = codec.dump(default, None)
            except Invalid as error:
                raise TypeError(f"{where}: default: {error}") from None
            if not isinstance(codec, _Container | _Object):
                default = codec.load(default, None)
        kind = _ViewField if isinstance(codec, _Container | _Object) else Field
        field = kind(attribute, key, codec, default, optional=optional)
        # A missing list reads as an empty one, which is too short.
        field.required = field.required or (default is MISSING and not optional and too_short(codec))
        field.immutable = any(each is Immutable or isinstance(each, Immutable) for each in extra)
        return field

    def _evaluate(self, annotation: Any) -> Any:
        if isinstance(annotation, typing.ForwardRef):
            annotation = annotation.__forward_arg__
        if isinstance(annotation, str):
            return eval(annotation, {**vars(builtins), **self._globals}, self._names)  # noqa: S307 - source code, not data
        return annotation

    def _codec(self, annotation: Any, where: str) -> Codec:
        annotation = self._evaluate(annotation)
        known = SCALARS.get(annotation) if getattr(annotation, "__hash__", None) else None
        if known is not None:
            return known
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Annotated:
            metas = [each for each in arguments[1:] if isinstance(each, Meta)]
            return constrained(self._codec(arguments[0], where), metas, where)
        if origin is list:
            return _List(self._codec(arguments[0], where))
        if origin is dict and self._evaluate(arguments[0]) is str:
            return _Dict(self._codec(arguments[1], where))
        if origin is Literal and all(type(value) in TYPE_NAMES for value in arguments):
            return Choice({value: value for value in arguments})
        if origin in (typing.Union, types.UnionType):
            choices = [self._evaluate(each) for each in arguments]
            if type(None) in choices:
                raise TypeError(f"{where}: items cannot be null: {annotation}")
            return Union([self._codec(each, where) for each in choices])
        if isinstance(annotation, type):
            if issubclass(annotation, enum.Enum):
                return Choice({member.value: member for member in annotation})
            if issubclass(annotation, Model):
                return _Object(annotation)
            if _is_ordinary(annotation):
                return _Object(self.model(annotation))
        raise TypeError(
            f"{where}: unsupported annotation {annotation!r}; use str, int, float, bool, datetime, Any, Literal, Enum, "
            "list[...], dict[str, ...], a Model, or a plain class with annotations"
        )

    def model(self, plain: type, *, allow_empty: bool = False) -> type[Model]:
        """The model of an ordinary annotated class, made once."""
        if issubclass(plain, Model):
            return plain
        made = _made.get(plain)
        if made is None:
            if not _is_ordinary(plain, allow_empty=allow_empty):
                raise TypeError(f"{self._cls.__qualname__}: {plain.__qualname__} is not a plain class with annotations")
            namespace: dict[str, Any] = {}
            annotations: dict[str, Any] = {}
            for base in reversed(plain.__mro__[:-1]):
                annotations |= inspect.get_annotations(base)
                namespace |= {k: v for k, v in vars(base).items() if not (k.startswith("__") and k.endswith("__"))}
            namespace["__annotations__"] = annotations
            namespace |= {k: getattr(plain, k) for k in ("__doc__", "__module__", "__qualname__")}
            made = _made[plain] = cast(
                "type[Model]", ModelMeta(plain.__name__, (Model,), namespace, scope=dict(self._names))
            )
        return made


_made: weakref.WeakKeyDictionary[type, type[Model]] = weakref.WeakKeyDictionary()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_ordinary(cls: type, *, allow_empty: bool = False) -> bool:
    if type(cls) is not type or hasattr(cls, "__dataclass_fields__") or "__slots__" in vars(cls):
        return False
    bases = cls.__mro__[:-1]
    if any(base.__module__ == "builtins" for base in bases):
        return False
    return allow_empty or any(inspect.get_annotations(base) for base in bases)


# ---- model


class ModelMeta(type):
    """Compiles annotations to fields, and gives every model slots, so that a misspelt attribute is an error."""

    _fields: dict[str, Field]

    def __new__(  # noqa: D102
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        scope: dict[str, Any] | None = None,
        **options: Any,
    ) -> ModelMeta:
        namespace.setdefault("__slots__", ())
        cls = super().__new__(mcls, name, bases, namespace, **options)
        if scope is None:  # a class statement inside a function may name the function's other classes
            frame = sys._getframe(1)
            scope = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
        _compile(cls, scope)
        return cls


class Model(View, metaclass=ModelMeta):
    """A typed view of a JSON object; see the module. Two are equal when their class and their JSON are."""

    __slots__ = ("_views",)

    _fields: ClassVar[dict[str, Field]] = {}
    # Nested classes that are the type of an attribute by their name alone: {"Spec": "spec"}.
    _implied: ClassVar[dict[str, str]] = {}
    _views: dict[str, View] | None

    def __init__(self, **fields: Any) -> None:
        """A new object with these attributes. Raises `Invalid` for a value that does not fit."""
        self._raw = {}
        self._path = self._pending = self._views = None
        for name, value in fields.items():
            if name not in type(self)._fields:
                raise TypeError(f"{type(self).__name__} has no field {name!r}; it has {', '.join(type(self)._fields)}")
            setattr(self, name, value)

    @classmethod
    def from_raw(cls, raw: Raw) -> Self:
        """The object over this dict, which it takes over. Raises `Invalid` at the first field that does not fit."""
        check(cls, raw)
        return cls._over(raw)

    @classmethod
    def _over(cls, raw: Raw, path: Path = None) -> Self:
        self = cls.__new__(cls)
        self._raw = raw
        self._path = path
        self._pending = self._views = None
        return self

    @property
    def raw(self) -> Raw:
        """The JSON object itself, not a copy."""
        return cast(Raw, self._raw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model):
            return NotImplemented
        return type(self) is type(other) and patch.equal(self._raw, other._raw)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._raw!r})"

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)._over(patch.copy(self._raw))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restore, (type(self), self._raw)


def _restore(cls: type[Model], raw: Raw) -> Model:
    return cls._over(raw)
