"""What a value of another kind is: its pairs, or its items; found by public marks.

In: any value that is no dict, list, tuple or set. Out: the pairs of what is a mapping
or has named fields, the items of what is a sequence, or nothing. Fields are read from
`__dict__` and slots alone, so that no property runs and no database is asked; what a
class keeps out of its repr is kept out here, and a class with a repr of its own is
never looked into. No library is imported for it.
"""

from __future__ import annotations

import sys
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Pairs = Iterable[tuple[Any, Any]]

# The interpreter's own answers, whatever a metaclass says.
_mro: Final = type.__dict__["__mro__"].__get__
_names_of: Final = type.__dict__["__dict__"].__get__
_module_of: Final = type.__dict__["__module__"].__get__
_shows_all: Final = _names_of(type(sys.implementation))["__repr__"]

# Mappings whose public `items()` reads memory only.
_MAPPINGS: Final = (
    ("requests.structures", "CaseInsensitiveDict"),
    ("werkzeug.datastructures", "Headers"),
    ("starlette.datastructures", "Headers"),
    ("multidict", "MultiMapping"),
    ("urllib3", "HTTPHeaderDict"),
    ("email.message", "Message"),
    ("django.utils.datastructures", "CaseInsensitiveMapping"),
    ("tornado.httputil", "HTTPHeaders"),
    ("frozendict", "frozendict"),
    ("immutables", "Map"),
)
_EMPTY: Final[dict[str, Any]] = {}
_VIEWS: Final[tuple[type, ...]] = (
    type(_EMPTY.keys()),
    type(_EMPTY.values()),
    type(_EMPTY.items()),
)


class Never:
    """Stands for a class whose module is not loaded: nothing is an instance of it."""


def loaded_class(module: str, name: str) -> type:
    """Return a class if its module is loaded, else one that has no instances."""
    found = getattr(sys.modules.get(module), name, Never)
    return found if isinstance(found, type) else Never


class Shape(NamedTuple):
    """How instances of a class are read; each None where it is no such thing."""

    pairs: Callable[[Any], Pairs | None] | None = None
    items: Callable[[Any], Any] | None = None
    text: Callable[[Any], str | None] | None = None


def named_fields(value: tuple[Any, ...]) -> Pairs | None:
    """Return the pairs of a named tuple.

    Examples
    --------
    >>> from collections import namedtuple
    >>> list(named_fields(namedtuple("Point", "x y")(1, 2)))
    [('x', 1), ('y', 2)]
    """
    names = _of_class(type(value), "_fields")
    if type(names) is not tuple or len(names) != tuple.__len__(value):
        return None
    if _names_of(_repr_owner(type(value))).get("_fields") is not names:
        return None  # it has a repr of its own
    return [*zip(names, tuple.__iter__(value), strict=True)]


def shape_of(kind: type) -> Shape:
    """Find out how instances of a class are read.

    Examples
    --------
    >>> from collections import UserDict, deque
    >>> list(shape_of(UserDict).pairs(UserDict(b=2))), shape_of(deque).items(deque("a"))
    ([('b', 2)], deque(['a']))
    """
    if (fields := _fields(kind)) is not None:
        return Shape(fields)
    if (row := _row(kind)) is not None:
        return Shape(text=row)
    if kind is MappingProxyType:
        return Shape(lambda value: value.items())
    if kind in _VIEWS:
        return Shape(items=_itself)
    owner = _repr_owner(kind)
    for module, name, shape in _STANDARD:
        if issubclass(kind, loaded_class(module, name)):
            return shape if _module_of(owner) == module else Shape()
    for module, name in _MAPPINGS:
        if issubclass(kind, loaded_class(module, name)):
            package = str(_module_of(owner)).partition(".")[0]
            usual = (module.partition(".")[0], "collections", "builtins")
            return Shape(_grouped) if package in usual else Shape()
    return Shape()


def _itself(value: Any) -> Any:
    return value


def _user_dict(value: Any) -> Pairs | None:
    data = instance_dict(value).get("data")
    return data.items() if isinstance(data, dict) else None


def _user_list(value: Any) -> Any:
    data = instance_dict(value).get("data")
    return data if isinstance(data, list) else None


def _chain_map(value: Any) -> Pairs | None:
    maps = instance_dict(value).get("maps", ())
    if not all(isinstance(one, dict) for one in maps):
        return None
    return {k: v for one in reversed(maps) for k, v in one.items()}.items()


def _user_string(value: Any) -> str | None:
    data = instance_dict(value).get("data")
    return data if type(data) is str else None


_STANDARD: Final = (
    ("collections", "UserDict", Shape(_user_dict)),
    ("collections", "ChainMap", Shape(_chain_map)),
    ("collections", "UserList", Shape(items=_user_list)),
    ("collections", "UserString", Shape(text=_user_string)),
    ("collections", "deque", Shape(items=_itself)),
    ("array", "array", Shape(items=_itself)),
)


def _grouped(value: Any) -> Pairs:
    """Return a mapping's pairs; of a name that comes twice, its values as a list."""
    found: dict[Any, list[Any]] = {}
    for name, item in value.items():
        found.setdefault(name, []).append(item)
    return [(k, v[0] if len(v) == 1 else v) for k, v in found.items()]


# -- objects with fields ---------------------------------------------------------------


def _fields(kind: type) -> Callable[[Any], Pairs] | None:
    """Find out by which library's mark a class has fields, and which its repr shows."""
    owner = _repr_owner(kind)
    names = _names_of(owner)
    written = names["__repr__"]
    inner = getattr(written, "__wrapped__", written)
    code = str(getattr(getattr(inner, "__code__", None), "co_filename", ""))
    if "__dataclass_fields__" in names and code == "<string>":
        declared = sys.modules["dataclasses"].fields(owner)
        return _Fields(kind, [(f.name, f.repr) for f in declared])
    if "__attrs_attrs__" in names and code.startswith("<attrs generated"):
        return _Fields(kind, [(a.name, a.repr) for a in names["__attrs_attrs__"]])
    module = str(_module_of(owner))
    if module.partition(".")[0] == "pydantic":
        return _of_model(kind)
    if module == "msgspec._core" and issubclass(
        kind, loaded_class("msgspec", "Struct")
    ):
        declared = getattr(kind, "__struct_fields__", ())
        return _Fields(kind, [(name, True) for name in declared])
    if written is _shows_all or module == "argparse":
        return lambda value: instance_dict(value).items()
    return None


def _of_model(kind: type) -> Callable[[Any], Pairs] | None:
    """Return the fields of a model of pydantic, 2 or 1."""
    for hook in ("__repr_args__", "__str__"):
        owner = next((c for c in _mro(kind) if hook in _names_of(c)), kind)
        if str(_module_of(owner)).partition(".")[0] != "pydantic":
            return None  # it shows what it likes
    for mark in ("__pydantic_fields__", "model_fields"):
        if type(fields := _of_class(kind, mark)) is dict:
            shown = [(name, field.repr) for name, field in fields.items()]
            return _Fields(kind, shown, _of_class(kind, "__pydantic_extra__"))
    if type(fields := _of_class(kind, "__fields__")) is dict:
        return _Fields(kind, [(n, f.field_info.repr) for n, f in fields.items()])
    return None


class _Fields:
    """Reads the fields that a class shows; `more` is a slot with further ones."""

    def __init__(
        self, kind: type, shown: list[tuple[str, Any]], more: Any = None
    ) -> None:
        self._fields = [
            (name, _of_class(kind, name), shows if callable(shows) else None)
            for name, shows in shown
            if shows is not False and shows is not None
        ]
        self._more = more

    def __call__(self, value: Any) -> Pairs:
        return [*self._read(value)]

    def _read(self, value: Any) -> Iterator[tuple[str, Any]]:
        own = instance_dict(value)
        for name, in_class, shown in self._fields:
            if type(in_class) is MemberDescriptorType:
                found = _slot(in_class, value)
            elif name in own:
                found = own[name]
            elif hasattr(type(in_class), "__get__"):
                continue  # not loaded from its database, say
            else:
                found = in_class
            yield name, found if shown is None else shown(found)
        if type(self._more) is MemberDescriptorType:
            more = _slot(self._more, value)
            if isinstance(more, dict):
                yield from more.items()


def _slot(slot: Any, value: object) -> Any:
    try:
        return slot.__get__(value)
    except AttributeError:  # not set
        return None


# -- objects of a database -------------------------------------------------------------


def _row(kind: type) -> Callable[[Any], str | None] | None:
    """Return what says which row an object is: its own repr may load it."""
    if issubclass(kind, loaded_class("django.db.models", "Model")):
        return _django_row
    if issubclass(kind, loaded_class("django.db.models", "QuerySet")):
        return _django_query
    if issubclass(kind, loaded_class("django.utils.functional", "LazyObject")):
        return _django_lazy
    if "sqlalchemy.orm" in sys.modules and _of_class(kind, "_sa_class_manager"):
        return _sqlalchemy_row
    return None


def _django_row(value: Any) -> str:
    meta = _of_class(type(value), "_meta")
    return f"<{meta.label} {instance_dict(value).get(meta.pk.attname)!r}>"


def _django_query(value: Any) -> str:
    model = instance_dict(value).get("model")
    meta = None if model is None else _of_class(model, "_meta")
    return f"<{type(value).__name__} of {getattr(meta, 'label', 'no model')}>"


def _django_lazy(value: Any) -> str | None:
    wrapped = instance_dict(value).get("_wrapped")
    row = _row(type(wrapped))
    return None if row is None else row(wrapped)


def _sqlalchemy_row(value: Any) -> str:
    state = instance_dict(value).get("_sa_instance_state")
    identity = getattr(state, "key", None)
    said = ", ".join(map(repr, identity[1])) if identity else "not saved"
    return f"<{type(value).__name__} {said}>"


# -- what the interpreter says ---------------------------------------------------------


def instance_dict(value: object) -> dict[str, Any]:
    """Return an object's own `__dict__`; empty where a property stands for it."""
    found = _of_class(type(value), "__dict__")
    if type(found) not in (GetSetDescriptorType, MemberDescriptorType):
        return {}
    kept = found.__get__(value)
    return kept if isinstance(kept, dict) else {}


def _of_class(kind: type, name: str) -> Any:
    """Return what a class has under a name, itself or from another one; else None."""
    for names in map(_names_of, _mro(kind)):
        if name in names:
            return names[name]
    return None


def _repr_owner(kind: type) -> type:
    """Return the class that a class has its repr from."""
    found: type = next(c for c in _mro(kind) if "__repr__" in _names_of(c))
    return found
