"""Values of other kinds: fields, mappings and sequences arrive as what they are."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import email.message
import http.client
import subprocess
import sys
import types
from datetime import timedelta
from typing import ClassVar, NamedTuple

import pytest

from femtomp.codec import wire
from femtomp.record import MAX_ITEMS, Limits
from femtomp.worker.plain import Room, plain

SECRET = "hunter2"


@dataclasses.dataclass
class Order:
    number: int
    token: str = dataclasses.field(repr=False, default=SECRET)
    items: object = None
    kind: ClassVar[str] = "order"
    state: str = dataclasses.field(init=False, default="new")

    @property
    def total(self) -> int:
        raise AssertionError


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    number: int
    token: str = dataclasses.field(repr=False, default=SECRET)


@dataclasses.dataclass
class Masked:
    token: str = SECRET

    def __repr__(self) -> str:
        return "Masked(***)"


@dataclasses.dataclass(repr=False)
class Silent:
    token: str = SECRET


class Special(Order):
    """It has its repr, so its fields, from `Order`."""


class Point(NamedTuple):
    x: int
    y: object


class MaskedPoint(Point):
    __slots__ = ()

    def __repr__(self) -> str:
        return "somewhere"


class MaskedDict(collections.UserDict):
    def __repr__(self) -> str:
        return "MaskedDict(***)"


class MaskedDeque(collections.deque):
    def __repr__(self) -> str:
        return "MaskedDeque(***)"


def message() -> http.client.HTTPMessage:
    made = http.client.HTTPMessage()
    for name, value in (("A", "1"), ("B", "2"), ("B", "3")):
        made.add_header(name, value)
    return made


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Order(7), {"number": 7, "items": None, "state": "new"}),
        (Special(7), {"number": 7, "items": None, "state": "new"}),
        (Order(7, items=[Point(1, 2)]), {
            "number": 7, "items": [{"x": 1, "y": 2}], "state": "new",
        }),
        (Slotted(7), {"number": 7}),
        (Masked(), "Masked(***)"),
        (Point(1, (2, 3)), {"x": 1, "y": [2, 3]}),
        (MaskedPoint(1, 2), [1, 2]),
        (collections.UserDict({"a": 1, 2: "b"}), {"a": 1, "2": "b"}),
        (MaskedDict({"a": SECRET}), "MaskedDict(***)"),
        (collections.UserList([1, 2]), [1, 2]),
        (collections.UserString("text"), "text"),
        (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
        (collections.deque([1, "b"]), [1, "b"]),
        (MaskedDeque([SECRET]), "MaskedDeque(***)"),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (types.SimpleNamespace(a=1, b=[2]), {"a": 1, "b": [2]}),
        (argparse.Namespace(a=1), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (array.array("i", [1, 2]), [1, 2]),
        (message(), {"A": "1", "B": ["2", "3"]}),
        (email.message.Message(), {}),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (timedelta(days=-1), -86400.0),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_other_kinds_arrive_as_what_they_are(value, expected) -> None:
    """Fields and pairs become dicts, sequences lists, spans of time seconds."""
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert wire.decode(wire.encode((found,))) == (found,)
    assert SECRET not in str(found)


def test_class_without_repr_is_not_looked_into() -> None:
    """Of a class that shows nothing of its fields nothing is shown."""
    assert SECRET not in str(plain(Silent()))


def test_no_code_of_the_object_runs() -> None:
    """Fields are read from `__dict__` and slots, past `__getattribute__` and more."""

    @dataclasses.dataclass
    class Touchy:
        number: int

        def __getattribute__(self, name):
            raise AssertionError(name)

        def __iter__(self):
            raise AssertionError

    assert plain(Touchy(7)) == {"number": 7}


def test_class_that_lies_is_not_asked() -> None:
    """An object whose `__class__` is code, as of Django's lazy ones, runs none."""
    asked = []

    class Lazy:
        @property
        def __class__(self):
            asked.append(1)
            return dict

        def __repr__(self) -> str:
            return "<lazy>"

    assert plain(Lazy()) == "<lazy>"
    assert asked == []


def test_slot_that_was_not_set_is_none() -> None:
    """A field without a value costs no more than itself."""
    made = object.__new__(Slotted)
    assert plain(made) == {"number": None}


def test_limits_hold_for_other_kinds() -> None:
    """Depth, count and length are those of dicts and lists."""
    deep = Order(1, items=Order(2, items=Order(3)))
    room = Room(Limits(attribute_depth=2))
    found = plain(deep, room)
    assert found["items"]["items"] == "<Order: deeper than 2 levels>"
    many = collections.deque(range(MAX_ITEMS + 5))
    assert len(plain(many)) == MAX_ITEMS + 1
    proxy = types.MappingProxyType(dict.fromkeys(range(MAX_ITEMS + 5), 0))
    assert (
        plain(proxy)["femtomp.truncated"]
        == f"{MAX_ITEMS} of {MAX_ITEMS + 5} items kept"
    )
    room = Room(Limits(attribute_value_length=3))
    assert plain(collections.deque(["abcdef"]), room) == ["abc"]
    assert room.cut == 6


def test_object_within_itself_ends() -> None:
    """An object that holds itself is shown once."""
    order = Order(1)
    order.items = [order, order]
    inner = "<Order: it is within itself>"
    assert plain(order) == {"number": 1, "items": [inner, inner], "state": "new"}
    queue = collections.deque()
    queue.append(queue)
    assert plain(queue) == ["<deque: it is within itself>"]


def test_fields_of_attrs() -> None:
    """attrs: fields with repr=False are left out, those with a mask are masked."""
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Slots:
        number: int
        token: str = attrs.field(repr=False, default=SECRET)
        card: str = attrs.field(repr=lambda _: "****", default=SECRET)

    @attrs.define(slots=False)
    class Dict:
        number: int
        token: str = attrs.field(repr=False, default=SECRET)

    @attrs.define(repr=False)
    class Own:
        token: str = SECRET

        def __repr__(self) -> str:
            return "Own(***)"

    assert plain(Slots(7)) == {"number": 7, "card": "****"}
    assert plain(Dict(7)) == {"number": 7}
    assert plain(Own()) == "Own(***)"


def test_fields_of_pydantic() -> None:
    """pydantic: what Field(repr=False) and the secret types hide stays hidden."""
    pydantic = pytest.importorskip("pydantic", minversion="2")

    class User(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        name: str
        token: str = pydantic.Field(SECRET, repr=False)
        text: pydantic.SecretStr = pydantic.SecretStr(SECRET)
        data: pydantic.SecretBytes = pydantic.SecretBytes(SECRET.encode())

        @pydantic.computed_field
        @property
        def computed(self) -> int:
            raise AssertionError

    class Own(pydantic.BaseModel):
        token: str = SECRET

        def __repr_args__(self):
            return ()

    @pydantic.dataclasses.dataclass
    class Made:
        name: str
        token: str = pydantic.Field(SECRET, repr=False)

    found = plain(User(name="ann", more={"a": 1}))
    assert SECRET not in str(found)
    assert (found["name"], found["more"]) == ("ann", {"a": 1})
    assert found.keys() == {"name", "text", "data", "more"}
    assert plain(Own()) == "Own()"
    assert plain(Made("ann")) == {"name": "ann"}


def test_fields_of_msgspec() -> None:
    """A Struct is its fields."""
    msgspec = pytest.importorskip("msgspec")
    struct = msgspec.defstruct("Struct", [("a", int), ("b", list)])
    assert plain(struct(1, [2])) == {"a": 1, "b": [2]}


@pytest.mark.parametrize(
    ("module", "name", "args", "expected"),
    [
        ("requests.structures", "CaseInsensitiveDict", {"A": "1"}, {"A": "1"}),
        ("werkzeug.datastructures", "Headers", [("A", "1"), ("B", "2"), ("B", "3")],
         {"A": "1", "B": ["2", "3"]}),
        ("starlette.datastructures", "Headers", {"A": "1"}, {"a": "1"}),
    ],
)  # fmt: skip
def test_mappings_of_headers(module, name, args, expected) -> None:
    """A library's headers are a dict; a name that comes twice has a list."""
    made = getattr(pytest.importorskip(module), name)
    assert plain(made(args)) == expected


def test_scalars_and_small_arrays_of_numpy() -> None:
    """Scalars of numpy are numbers, small arrays lists, large ones a short text."""
    np = pytest.importorskip("numpy")
    for value, expected in (
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.longdouble(2), 2.0),
        (np.complex64(2), "(2+0j)"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(3.5), 3.5),
        (np.array(["a"]), ["a"]),
        (np.array([], dtype=float), []),
        (np.zeros((2, 1000)), "<ndarray: float64, shape (2, 1000)>"),
        (np.datetime64("2026-01-02T03:04:05.000000006"),
         "2026-01-02T03:04:05.000000006"),
        (np.timedelta64(1500, "ms"), 1.5),
        (np.timedelta64(3, "M"), "3 months"),
    ):  # fmt: skip
        found = plain(value)
        assert found == expected
        assert type(found) is type(expected)


def test_rows_of_sqlalchemy_load_nothing() -> None:
    """An expired object of a mapped class is said by its key, without a query."""
    sa = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")

    class Base(orm.DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String)

        def __repr__(self) -> str:
            return f"<User {self.name}>"

    engine = sa.create_engine("sqlite://")
    try:
        Base.metadata.create_all(engine)
        asked = []
        sa.event.listen(engine, "before_cursor_execute", lambda *a: asked.append(a))
        with orm.Session(engine) as session:
            user = User(name="ann")
            assert plain(user) == "<User not saved>"
            session.add(user)
            session.commit()
            before = len(asked)
            assert plain({"user": user}) == {"user": "<User 1>"}
            assert len(asked) == before
    finally:
        engine.dispose()


DJANGO = """
import django
from django.conf import settings
from django.db import models
settings.configure(DATABASES={})  # every query raises
django.setup()
class Order(models.Model):
    name = models.TextField()
    class Meta:
        app_label = "shop"
    def __str__(self):
        return self.name
from django.utils.functional import SimpleLazyObject
from femtomp.worker.plain import plain
order = Order.from_db("default", ["id"], [7])
print(plain(order), plain([Order.objects.all()]))
lazy = SimpleLazyObject(lambda: Order.objects.get())
assert plain(lazy).startswith("<SimpleLazyObject"), plain(lazy)
loaded = SimpleLazyObject(lambda: order)
loaded.id
print(plain(loaded))
"""


def test_models_of_django_load_nothing() -> None:
    """A model with deferred fields, a query and a lazy user run no query."""
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        done.stdout == "<shop.Order 7> ['<QuerySet of shop.Order>']\n<shop.Order 7>\n"
    )
